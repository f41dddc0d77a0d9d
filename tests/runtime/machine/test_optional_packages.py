"""A slim install of the runtime says which missing package an operation needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guidegraph_runtime.machine.optional_packages import import_optional
from guidegraph_runtime.pictures import picture_files, semantic_maps
from guidegraph_runtime.text.tokenizer import load_tokenizer
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
