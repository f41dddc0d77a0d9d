"""The command guidegraph-run: its files, its output and its exit codes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from guidegraph_runtime import Bundle
from guidegraph_runtime.cli import main
from guidegraph_runtime.noise import gaussian
from guidegraph_runtime.pictures.png import read_png_text, write_png
from tests.paths import ROOT
from tests.runtime.running import bundles

ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "guidegraph", "typer", "pydantic", "tokenizers", "huggingface_hub"):
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Absent())
from guidegraph_runtime.cli import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(int(ended.value.code or 0), out, err)

    return run


def picture(side: int = 2) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side), (255, 0, 0)).save(data, format="PNG")
    return data.getvalue()


def expected(scale: float = 1.5, seed: int = 0, batch: int = 1, steps: int = 2) -> float:
    """The total of the bundle's loop."""
    x = gaussian(seed, [4], batch)
    for _ in range(steps):
        x = x * np.float32(scale) + bundles.WEIGHTS
    return float(x.sum())


def npy(value: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, np.asarray(value, np.float32))
    return data.getvalue()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """x is noise, twice times scale and weights added; a picture, of a file that the bundle carries by default."""
    return make(tmp_path / "tiny")


def make(root: Path, total: float | None = None, kind: str = "tensor") -> Path:
    def change(value: dict[str, Any]) -> None:
        value["inputs"] = {
            "scale": {"type": "float", "default": 1.5, "help": "how much"},
            "seed": {"type": "int", "default": 0, "many": True},
            "batch": {"type": "int", "default": 1},
            "mood": {"type": "str", "default": "calm", "choices": ["calm", "wild"]},
            "photo": {"type": "path", "default": "inputs/photo.png"},
        }
        noise = {"seed": "params.seed", "batch": "params.batch"}
        value["plan"] = [
            {"op": "noise.gaussian", "node": "noise", "in": noise, "with": {"shape": [4]}, "out": ["noise"]},
            {"op": "image.load", "node": "photo", "in": {"path": "params.photo"}, "with": {}, "out": ["photo"]},
            {**value["plan"][0], "in": {"x": "noise"}},
            value["plan"][1],
        ]
        value["plan"][2]["with"] |= {"item": "sample.t", "index": "sample.index", "over": 2}
        value["outputs"]["total"]["type"] = kind
        value["outputs"] |= {
            "picture": {"type": "image", "source": "photo"},
            "x": {"type": "tensor", "source": "last"},
            "number": {"type": "table", "source": "out"},
        }
        value["reference"] = {
            "inputs": {"scale": 2.0, "photo": "inputs/photo.png"},
            "outputs": {"total": "reference/total.npy", "picture": "reference/picture.npy"},
            "tolerance": 1e-5,
        }
        red = np.broadcast_to(np.array([1, -1, -1], np.float32)[None, :, None, None], (1, 3, 2, 2))
        files = {
            "inputs/photo.png": picture(),
            "reference/total.npy": npy(expected(2.0) if total is None else total),
            "reference/picture.npy": npy(red),
        }
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
            value["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    return bundles.write_bundle(root, change=change)


def test_outputs_are_written_by_type_and_the_record_describes_the_run(run: Run, bundle: Path) -> None:
    result = run(bundle, "--out", "here", "--set", "scale=2", "--set", "batch=3", "--threads", "1", "--provider", "cpu")
    assert (result.code, result.err) == (0, "")
    assert result.out == "wrote picture.png, x.safetensors, total.safetensors, number.json in here\n"
    assert sorted(p.name for p in Path("here").iterdir()) == sorted(
        ["picture.png", "x.safetensors", "total.safetensors", "number.json", "run.json"]
    )
    assert load_file("here/x.safetensors")["x"].shape == (3, 4)
    assert load_file("here/total.safetensors")["total"] == pytest.approx(expected(2.0, batch=3), rel=1e-5)
    assert json.loads(Path("here/number.json").read_text()) == pytest.approx(expected(2.0, batch=3), rel=1e-5)
    record = json.loads(Path("here/run.json").read_text())
    assert record["status"] == "done"
    assert record["inputs"] == {"scale": 2.0, "seed": 0, "batch": 3, "mood": "calm", "photo": "inputs/photo.png"}
    assert record["seeds"] == {"noise": 0}
    assert record["bundle"] == {"name": "tiny", "digest": json.loads((bundle / "bundle.json").read_text())["digest"]}
    assert (record["providers"], record["threads"]) == (["cpu"], 1)
    assert record["timings"]["parts"]["step"]["calls"] == 2
    assert record["timings"]["verify"] > 0 < record["timings"]["load"]
    assert record["versions"].keys() >= {"guidegraph-runtime", "numpy", "onnxruntime", "pillow", "python"}
    assert record["outputs"]["picture"] == {"type": "image", "files": ["picture.png"]}


def test_a_picture_contains_its_run(run: Run, bundle: Path) -> None:
    run(bundle, "--out", "here", "--only", "picture", "--set", "seed=[5, 6]")
    text = json.loads(read_png_text("here/picture.png")["guidegraph-bundle"])
    assert (text["output"], text["index"], text["batch"], text["only"]) == ("picture", 0, 1, ["picture"])
    assert text["inputs"]["seed"] == text["seeds"]["noise"] == [5, 6]
    assert str(bundle) not in json.dumps(text)
    with Image.open("here/picture.png") as picture:
        assert np.array(picture).tolist() == [[[255, 0, 0]] * 2] * 2


def test_a_run_without_out_creates_a_folder(run: Run, bundle: Path) -> None:
    for _ in range(2):
        assert run(bundle, "--only", "total", "--quiet") == Result(0, "", "")
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 2
    assert all(folder.name.partition("-")[2].partition("-")[2].startswith("tiny") for folder in folders)


def test_a_file_that_is_given_takes_the_place_of_the_bundles_own(run: Run, bundle: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "mine.png", np.zeros((4, 4, 3), np.uint8))
    assert run(bundle, "--only", "picture", "--out", "here", "--set", "photo=mine.png").code == 0
    with Image.open("here/picture.png") as picture:
        assert picture.size == (4, 4)
    record = json.loads(Path("here/run.json").read_text())
    assert record["inputs"]["photo"] == str(tmp_path / "mine.png")
    image = Bundle(bundle).run(photo=(tmp_path / "mine.png").read_bytes())["picture"]
    assert image.shape == (1, 3, 4, 4)


def test_nodes_take_other_settings(run: Run, bundle: Path) -> None:
    assert run(bundle, "--only", "total", "--out", "here", "--node", "noise.seed=9").code == 0
    assert load_file("here/total.safetensors")["total"] == pytest.approx(expected(seed=9), rel=1e-5)
    record = json.loads(Path("here/run.json").read_text())
    assert (record["nodes"], record["seeds"]) == ({"noise.seed": 9}, {"noise": 9})


def test_events_are_lines_of_json(run: Run, bundle: Path) -> None:
    result = run(bundle, "--json", "--out", "here", "--only", "total")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert events[0] == {"event": "run_started", "workflow": "tiny", "total": 4}
    assert [e["path"] for e in events if e["event"] == "node_finished"] == [
        "nodes.noise",
        "nodes.sample",
        "nodes.total",
    ]
    assert [(e["done"], e["total"]) for e in events if e["event"] == "loop_progress"] == [(1, 2), (2, 2)]
    assert events[-2] == {"event": "output_ready", "name": "total", "files": ["total.safetensors"]}
    assert (events[-1]["event"], events[-1]["status"]) == ("run_finished", "done")


def test_describe_lists_the_settings_that_can_be_changed(run: Run, bundle: Path) -> None:
    result = run(bundle, "--describe")
    assert result.code == 0
    for line in (
        "  scale  float, default 1.5: how much",
        '  mood   str, default "calm", one of calm, wild',
        "  photo  path, default: the bundle's inputs/photo.png",
        "  model  it is a file that the graphs were made of",
        "  noise  noise.gaussian  seed=params.seed, batch=params.batch",
        '  photo  image.load  size=null, resize="crop"',
        "  picture  image",
        "  step   0.0 MB, free axes: batch",
    ):
        assert line in result.out.splitlines()
    assert not Path("runs").exists()


def test_the_reference_is_repeated(run: Run, bundle: Path) -> None:
    result = run(bundle, "--verify")
    assert result.code == 0
    first, *outputs = result.out.splitlines()
    assert first.startswith(f"{bundle}: 8 files are as bundle.json says, sha256 ")
    assert outputs[0].startswith("total: ok, ")
    assert outputs[1].startswith("picture: ok, 0.0000/255 of at most ")


def test_a_machine_that_gives_something_else_fails_the_reference(run: Run, tmp_path: Path) -> None:
    other = make(tmp_path / "other", total=expected(2.0) + 1)
    result = run(other, "--verify")
    assert result.code == 1
    assert "total: differs, 1.00e+00 of at most " in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "scael=2"], "unknown-input: no input 'scael'; did you mean 'scale'?"),
        (["--set", "scale"], "--set: bad-setting: 'scale' is not K=V"),
        (["--set", "scale=much"], "bad-value: 'scale': expected a number, found 'much'"),
        (["--set", "scale=true"], "bad-value: 'scale': expected a number, found True"),
        (["--set", f"scale={10**400}"], "bad-value: 'scale': expected a number up to 1.8e308, found a larger one"),
        (["--set", f"scale={'[' * 900}{']' * 900}"], "bad-value: 'scale': its lists have too many levels"),
        (["--set", f"scale={'[' * 90000}"], "bad-value: 'scale': expected a number, found '[["),
        (["--node", f"noise.seed={'[' * 900}{']' * 900}"], "noise (noise.gaussian): seed: its lists have too many"),
        (["--set", "mood=sad"], "bad-value: 'mood': expected one of calm, wild"),
        (["--set", "model=x"], "fixed-input: 'model' was fixed when the bundle was made: it is a file that the graphs"),
        (["--only", "sum"], "unknown-output: no output 'sum'; there is: total, picture, x, number"),
        (["--node", "noize.seed=2"], "unknown-node: no host node 'noize'; did you mean 'noise'?"),
        (
            ["--node", "noise.sead=2"],
            "unknown-setting: noise (noise.gaussian): no setting 'sead'; did you mean 'seed'?",
        ),
        (
            ["--node", "noise.use=scheduler.ddim"],
            "unknown-operation: noise: no 'scheduler.ddim'; there is: noise.gauss",
        ),
        (["--node", "seed=2"], "--node: bad-setting: 'seed=2' is not NODE.SETTING=V"),
        (["--provider", "cuda"], "no-provider: expected cuda, but "),
        (["--cuda-graph"], "bad-session: expected a GPU for CUDA graphs, found the provider cpu; leave cuda_graph out"),
        (["--out", "tiny/bundle.json"], "--out: no-folder: the files would be written into the bundle"),
        (["--out", "/dev/null"], "--out: no-folder: the folder for the files cannot be made: "),
        (["--out", "tiny"], "--out: no-folder: the files would be written into the bundle"),
        (["--out", "tiny/pictures"], "--out: no-folder: the files would be written into the bundle"),
    ],
)
def test_wrong_arguments_are_one_line_and_nothing_is_run(
    run: Run, bundle: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidegraph_runtime.sessions.providers.nvidia_gpus", lambda: 0)
    result = run(bundle, *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["--threads", "-1"], ["--provider", "tpu"], ["--out", ""], ["--verify", "--describe"]]
)
def test_arguments_that_do_not_parse_end_with_2(run: Run, bundle: Path, arguments: list[str]) -> None:
    assert run(*([bundle, *arguments] if arguments else [])).code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verify", "--set", "steps=9", "--only", "x"], "--verify: bad-arguments: expected no --set, no --only: "),
        (["--verify", "--node", "bogus.x=1"], "--verify: bad-arguments: expected no --node: --verify repeats the run"),
        (["--verify", "--lora", "nofile"], "--verify: bad-arguments: expected no --lora: "),
        (["--describe", "--out", "here"], "--describe: bad-arguments: expected no --out: --describe runs nothing"),
        (["--describe", "--json"], "--describe: bad-arguments: expected no --json: "),
        (["--describe", "--quiet"], "--describe: bad-arguments: expected no --quiet: "),
    ],
)
def test_an_option_that_a_mode_does_not_use_is_refused(
    run: Run, bundle: Path, arguments: list[str], message: str
) -> None:
    result = run(bundle, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_a_changed_bundle_is_refused(run: Run, bundle: Path) -> None:
    (bundle / "inputs" / "photo.png").write_bytes(picture()[:-1] + b"!")
    result = run(bundle)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"{bundle}/inputs/photo.png: bad-file: expected the sha256 ")


def test_an_invalid_run_is_refused_before_its_folder_is_created(run: Run, bundle: Path) -> None:
    result = run(bundle, "--out", "here", "--set", "photo=nowhere.png")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"{bundle}: refused: photo (image.load): there is no file nowhere.png\n"
    assert not Path("here").exists()


def test_an_output_that_is_not_a_picture_fails_and_is_recorded(run: Run, tmp_path: Path) -> None:
    bundle = make(tmp_path / "odd", kind="image")
    result = run(bundle, "--out", "here", "--only", "total")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith(": output-failed: output 'total' is declared as an image (B, 3, H, W), found ()\n")
    record = json.loads(Path("here/run.json").read_text())
    assert record["status"] == "failed"
    assert "is declared as an image" in record["error"]
    assert sorted(p.name for p in Path("here").iterdir()) == ["run.json"]


def test_ctrl_c_ends_with_130_and_is_recorded(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "run_with", interrupt)
    assert run(bundle, "--out", "here") == Result(130, "", "cancelled\n")
    assert json.loads(Path("here/run.json").read_text())["status"] == "cancelled"


def test_it_runs_in_a_slim_install_without_torch_guidegraph_and_typer(bundle: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", ALONE, str(bundle), "--out", "here"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert load_file(tmp_path / "here" / "total.safetensors")["total"] == pytest.approx(expected(), rel=1e-5)


@pytest.mark.parametrize("module", ["numpy", "onnxruntime", "PIL"])
def test_help_needs_nothing_heavy(module: str) -> None:
    code = f"import sys, guidegraph_runtime.cli as c; c._parser().format_help(); print({module!r} in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "False\n", result.stderr


def as_a_process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "guidegraph_runtime", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "runtime"), "PYTHONUNBUFFERED": ""},
        stderr=subprocess.PIPE,
        text=True,
        **{"stdout": subprocess.PIPE, **options},
    )


def test_the_module_is_the_command() -> None:
    result = as_a_process("--version")
    assert result.stdout == "guidegraph-run 0.1.0\n", result.stderr


def test_a_process_ends_at_once_with_complete_output(bundle: Path, tmp_path: Path) -> None:
    done = as_a_process(bundle, "--out", tmp_path / "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "done"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "done"
    wrong = as_a_process(tmp_path / "none")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert as_a_process("--help").stdout.endswith("130 cancelled\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_process_that_cannot_print_fails() -> None:
    with open("/dev/full", "w") as full:
        assert as_a_process("--version", stdout=full).returncode == 1
