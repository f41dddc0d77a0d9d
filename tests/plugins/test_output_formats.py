"""A plugin brings a type of output and its files: in a run, a report, a sweep, the page and a bundle."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load
from starlette.testclient import TestClient

from guidegraph import OutputFormat, Tensor, hookimpl
from guidegraph.plugins.contribution import read_contribution
from guidegraph.plugins.entry_points import PluginError
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.shown_files import find_html_format
from guidegraph_page.gallery import show_output
from guidegraph_runtime.bundle.manifest_types import MANIFEST
from guidegraph_runtime.cli import main as run_bundle_command
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from tests.plugins import sound_plugin

PLUGIN = str(Path(__file__).parent / "sound_plugin.py")
TONES = """\
guidegraph: 1
name: tones
params:
  pitch: 440.0
nodes:
  tone: {use: sound.tone, in: {pitch: params.pitch}, with: {batch: BATCH}}
  BROKEN
outputs:
  sound: tone
"""
Install = Callable[[str], None]
BROKEN = """bad: {use: sound.breaks, in: {sound: tone}}
  slow: {use: sound.hangs, in: {sound: tone}}
  silent: {use: sound.says_nothing, in: {sound: tone}}"""


def write_workflow(folder: Path, batch: int = 1, broken: bool = False) -> Path:
    text = TONES.replace("BATCH", str(batch)).replace("  BROKEN\n", f"  {BROKEN}\n" if broken else "")
    file = folder / "tones.yaml"
    file.write_text(text + ("  bad: bad\n  slow: slow\n  silent: silent\n" if broken else ""), encoding="utf-8")
    return file


def invoke(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "guidegraph", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done


def count_frames(path: Path) -> int:
    with wave.open(str(path)) as file:
        return file.getnframes()


@pytest.mark.parametrize(("batch", "names"), [(1, ["sound.wav"]), (2, ["sound-0000.wav", "sound-0001.wav"])])
def test_each_sample_is_a_file(tmp_path: Path, batch: int, names: list[str]) -> None:
    file = write_workflow(tmp_path, batch)
    invoke("run", str(file), "--plugin", PLUGIN, "--out", str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["outputs"]["sound"] == {"type": "Sound", "files": names}
    assert [count_frames(tmp_path / "out" / name) for name in names] == [800] * batch


def test_writers_that_fail_hang_or_write_nothing_are_named_and_the_rest_is_written(tmp_path: Path) -> None:
    file = write_workflow(tmp_path, broken=True)
    result = invoke("run", str(file), "--plugin", PLUGIN, "--out", str(tmp_path / "out"), status=1)
    for name, reason in {
        "bad": "Broken (.wav) of sound_plugin failed: ValueError: no codec",
        "slow": "Slow (.wav) of sound_plugin did not end within 0.2 s",
        "silent": "Silent (.wav) of sound_plugin wrote no file",
    }.items():
        assert f"output-failed: '{name}' was not written: the format {reason}" in result.stderr
        assert f"[outputs.{name}]" in result.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.wav")] == ["sound.wav"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["outputs"]["sound"]["files"] == ["sound.wav"]


def test_report_and_page_show_the_markup_of_a_format(tmp_path: Path) -> None:
    file = write_workflow(tmp_path)
    invoke("run", str(file), "--plugin", PLUGIN, "--out", str(tmp_path / "runs" / "one"))
    invoke("report", str(tmp_path / "runs" / "one"), "--plugin", PLUGIN, "-o", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Outputs</h2>" in page
    assert '<audio controls src="data:audio/wav;base64,UklGR' in page
    assert "media-src data:" in page
    registry = PluginManager([PLUGIN]).registry
    shown = show_output(registry, tmp_path / "runs", "one", "sound.wav")
    assert shown is not None
    assert shown.html.startswith("<audio controls")
    assert show_output(registry, tmp_path / "runs", "one", "run.json") is None
    assert show_output(registry, tmp_path / "runs", "..", "tones.yaml") is None


def test_a_class_without_formats_has_the_formats_of_its_base(tmp_path: Path) -> None:
    file = write_workflow(tmp_path)
    text = file.read_text().replace(
        "outputs:\n", "  chord: {use: sound.chord, in: {sound: tone}}\noutputs:\n  chord: chord\n"
    )
    file.write_text(text, encoding="utf-8")
    invoke("run", str(file), "--plugin", PLUGIN, "--out", str(tmp_path / "runs" / "one"))
    record = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert record["outputs"]["chord"] == {"type": "Chord", "files": ["chord.wav"]}
    registry = PluginManager([PLUGIN]).registry
    shown = show_output(registry, tmp_path / "runs", "one", "chord.wav")
    assert shown is not None
    assert shown.html.startswith("<audio controls")
    for text, is_shown in {
        "Sound": True,
        "Sequence[Chord]": True,
        "Slow": False,
        "Broken": False,
        "Image": False,
    }.items():
        assert bool(find_html_format(registry, text, "x.wav")) == is_shown


def test_the_report_of_a_sweep_shows_the_markup_of_each_cell(tmp_path: Path) -> None:
    file = write_workflow(tmp_path)
    out = tmp_path / "sweep"
    invoke("sweep", str(file), "--plugin", PLUGIN, "--grid", "pitch=220,440", "--out", str(out))
    invoke("report", str(out), "--plugin", PLUGIN)
    page = (out / "report.html").read_text()
    assert page.count("<audio controls") == 2
    assert "sound · pitch" in page


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    invoke("export", str(write_workflow(folder, 2)), "--plugin", PLUGIN, "-o", str(folder / "bundle"))
    return folder / "bundle"


def test_the_manifest_names_the_type_that_a_format_writes(bundle: Path) -> None:
    output = json.loads((bundle / MANIFEST).read_text())["outputs"]["sound"]
    assert (output["type"], output["port"], output["axes"]) == ("tensor", "Sound", 1)


class SoundWriter:
    """What the entry point of an installed plugin names."""

    type, suffix = "Sound", ".wav"
    write = staticmethod(sound_plugin.write)


class BrokenWriter(SoundWriter):
    write = staticmethod(sound_plugin.fail)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs the class of this module with a name as the only writer of bundles' outputs; none if it is empty."""
    group, real = "guidegraph_runtime_outputs", importlib.metadata.entry_points

    def install(name: str) -> None:
        entries = [importlib.metadata.EntryPoint("other", f"{__name__}:{name}", group)] if name else []

        def list_entry_points(**of: str) -> object:
            return entries if of == {"group": group} else real(**of)

        monkeypatch.setattr(importlib.metadata, "entry_points", list_entry_points)

    return install


@pytest.mark.parametrize(
    ("writer", "files", "message"),
    [
        ("SoundWriter", ["sound-0000.wav", "sound-0001.wav"], ""),
        ("", ["sound.safetensors"], ""),
        ("BrokenWriter", [], "the entry point other .* failed: ValueError: no codec"),
        ("Nowhere", [], "no entry point of guidegraph_runtime_outputs is for Sound, and .*other.* cannot be imported"),
    ],
)
def test_a_bundle_is_written_by_the_entry_point_of_its_type(
    bundle: Path,
    tmp_path: Path,
    install: Install,
    capsys: pytest.CaptureFixture[str],
    writer: str,
    files: list[str],
    message: str,
) -> None:
    install(writer)
    with pytest.raises(SystemExit) as ended:
        run_bundle_command([str(bundle), "--out", str(tmp_path / "out")])
    assert (ended.value.code or 0) == (1 if message else 0)
    written = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith("sound"))
    assert written == files
    errors = capsys.readouterr().err
    assert re.search(f"output 'sound' was not written: {message}", errors) if message else "not written" not in errors


@pytest.mark.parametrize(
    ("writer", "names", "failure"),
    [
        ("SoundWriter", ["sound-0000.wav", "sound-0001.wav"], None),
        ("", [], None),
        ("BrokenWriter", [], "was not written: the entry point .* failed: ValueError: no codec"),
    ],
)
def test_a_server_answers_with_the_files_of_a_writer(
    bundle: Path, install: Install, writer: str, names: list[str], failure: str | None
) -> None:
    install(writer)
    service = Service({"tones": bundle}, SessionSettings.on("cpu", intra_threads=1), ServeOptions())
    service.start()
    try:
        client = TestClient(ServeRoutes(service, str).make_app(ServeAccess()), base_url="http://127.0.0.1:8000")
        answer = client.post("/v1/workflows/tones", json={"params": {"pitch": 220.0}}).json()
    finally:
        service.stop()
    sound = answer["outputs"]["sound"]
    assert load(base64.b64decode(sound["safetensors"]))["sound"].shape == (2, 800)
    assert [file["name"] for file in sound.get("files", [])] == names
    for file in sound.get("files", []):
        with wave.open(io.BytesIO(base64.b64decode(file["base64"]))) as opened:
            assert opened.getnframes() == 800
    assert re.match(failure, sound["failure"]) if failure else "failure" not in sound


class Plugin:
    def __init__(self, formats: list[object]):
        self._formats = formats

    @hookimpl
    def guidegraph_outputs(self) -> list[object]:
        return self._formats


def write_nothing(value: object, path: Path) -> None:
    raise AssertionError("never called")


TWICE = OutputFormat(Tensor, ".x", write_nothing)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ([3], "guidegraph_outputs returned 3"),
        ([OutputFormat(Tensor, "wav", write_nothing)], "the suffix 'wav' of Tensor is none"),
        (
            [OutputFormat(Tensor, ".x", write_nothing)] * 2 + [OutputFormat(Tensor, ".x", print)],
            "two formats are called Tensor (.x)",
        ),
    ],
)
def test_a_wrong_format_is_named_when_its_plugin_is_read(formats: list[object], message: str) -> None:
    with pytest.raises(PluginError, match=re.escape(message)):
        read_contribution(Plugin(formats), None)


def test_the_listing_of_plugins_names_the_formats() -> None:
    (row,) = (
        row
        for row in json.loads(invoke("plugins", "--json", "--plugin", PLUGIN).stdout)
        if "sound_plugin" in row["name"]
    )
    assert row["formats"] == ["Sound (.wav)", "Broken (.wav)", "Slow (.wav)", "Silent (.wav)"]
