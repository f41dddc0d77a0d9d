"""A slim install of the runtime says which missing package an operation needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guidegraph_runtime.machine.optional_packages import import_optional, install_command
from guidegraph_runtime.pictures import picture_files, semantic_maps
from guidegraph_runtime.text.chunks import load_tokenizer
from tests.paths import ROOT

MODELS = ROOT / "workflows" / "models"
MAP = MODELS.parent / "data" / "examples" / "map.png"


def test_a_text_without_tokenizers_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    load_tokenizer.cache_clear()
    with pytest.raises(ValueError, match=r"^a text needs the package tokenizers, .* pip install tokenizers$"):
        load_tokenizer((MODELS / "scenes" / "tokenizer.json").read_bytes())


def test_a_picture_without_pillow_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "PIL"] + ["PIL"]:
        monkeypatch.setitem(sys.modules, module, None)
    for read in (picture_files.read_rgb, semantic_maps.read_map):
        with pytest.raises(ValueError, match=r"^a picture file needs the package pillow, .* pip install pillow$"):
            read(MAP)


def test_a_package_that_is_broken_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizers.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_optional("tokenizers", "a text")


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ('{"dir_info": {"editable": true}, "url": "file:///home/me/a%20copy"}', 'pip install -e "/home/me/a copy[ui]"'),
        ('{"dir_info": {"editable": true}, "url": "file://CURRENT"}', 'pip install -e ".[ui]"'),
        ('{"dir_info": {}, "url": "file:///home/me/guidegraph"}', "pip install 'starlette>=0.46' uvicorn"),
        (None, "pip install 'starlette>=0.46' uvicorn"),
    ],
)
def test_an_extra_is_installed_from_the_checkout_or_by_its_packages(
    origin: str | None, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "made_up-1.0.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: made-up", "Version: 1.0", 'Requires-Dist: torch; extra == "all"']
    lines += ['Requires-Dist: starlette>=0.46; extra == "ui"', "Requires-Dist: uvicorn; extra == 'ui'"]
    (folder / "METADATA").write_text("\n".join(lines))
    if origin is not None:
        (folder / "direct_url.json").write_text(origin.replace("CURRENT", str(tmp_path)))
    assert install_command("ui", "made-up") == command
