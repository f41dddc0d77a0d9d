"""The option ``--accelerate`` of ``run``, ``sweep`` and ``plan``; tests/graph/acceleration runs what it turns on."""

from __future__ import annotations

import json

import onnxruntime
import pytest

from guidegraph.commands.shared.options import insert_value
from guidegraph.graph.acceleration import requirements
from guidegraph.graph.acceleration.requirements import acceleration_problem
from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.run_config import RunConfig
from tests.commands.command import Command
from tests.paths import ROOT

WORKFLOW = str(ROOT / "workflows/text_to_image.yaml")


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [
        (["a.yaml", "--accelerate"], ["a.yaml", "--accelerate=onnx"]),
        (["--accelerate", "a.yaml"], ["--accelerate=onnx", "a.yaml"]),
        (["--accelerate", "compile", "a.yaml"], ["--accelerate", "compile", "a.yaml"]),
        (["--accelerate=compile"], ["--accelerate=compile"]),
        (["--accelerate", "--json"], ["--accelerate=onnx", "--json"]),
    ],
)
def test_the_value_may_be_left_out(arguments: list[str], complete: list[str]) -> None:
    assert insert_value(arguments) == complete


def test_the_plan_shows_the_parts_and_what_runs_in_torch(cli: Command) -> None:
    result = cli("plan", WORKFLOW, "--no-plugins", "--accelerate")
    assert result.code == 0
    body = "nodes.sample.body."
    calls = ", ".join(body + name for name in ("cond", "uncond", "guided", "step"))
    assert result.out.splitlines()[-5:] == [
        "accelerated with onnxruntime:",
        f"  nodes.sample, part 1: {calls}",
        f"  nodes.sample, in torch: {body}fresh (noise.gaussian): it works on the host",
        "  outside of loops: nodes.image",
        "  outside of loops, in torch: all others",
    ]


def test_the_plan_as_json_has_the_parts_only_if_asked(cli: Command) -> None:
    plain = json.loads(cli("plan", WORKFLOW, "--no-plugins", "--json").out)
    compiled = json.loads(cli("plan", WORKFLOW, "--no-plugins", "--json", "--accelerate", "compile").out)
    assert "accelerated" not in plain
    assert compiled["accelerated"]["with"] == "torch.compile"
    assert compiled["accelerated"]["outside"] == []
    (loop,) = compiled["accelerated"]["loops"]
    assert len(loop["parts"][0]) == 4


def test_a_training_loop_is_not_accelerated(cli: Command) -> None:
    training = str(ROOT / "workflows/train/class_classifier.yaml")
    rows = json.loads(cli("plan", training, "--no-plugins", "--json", "--accelerate").out)["accelerated"]["loops"]
    assert {row["reason"] for loop in rows for row in loop["torch"]} == {"it trains"}
    assert all(loop["parts"] == [] for loop in rows)


@pytest.mark.parametrize("command", ["run", "plan", "sweep"])
def test_an_unknown_accelerator_is_an_error_before_the_run(cli: Command, command: str) -> None:
    result = cli(command, WORKFLOW, "--no-plugins", "--accelerate=openvino")
    assert result.code == 2
    assert "--accelerate: unknown-accelerator: there is no accelerator 'openvino'" in result.err


def test_a_dtype_that_onnxruntime_does_not_compute_in_is_an_error_before_the_run(cli: Command) -> None:
    result = cli("run", WORKFLOW, "--no-plugins", "--accelerate", "--dtype", "float64")
    assert result.code == 2
    assert "--accelerate: cannot-accelerate: onnxruntime computes in float32 on 'cpu', and the run is in" in result.err


def test_requirements_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert acceleration_problem(RunConfig()) == ""
    assert acceleration_problem(RunConfig(accelerate="onnx")) == ""
    budget = RunConfig(device="cuda", memory_budget=10, accelerate="onnx")
    assert "a memory budget counts torch's weights" in acceleration_problem(budget)
    monkeypatch.setattr(requirements.shutil, "which", lambda _: None)
    assert "needs a C++ compiler" in acceleration_problem(RunConfig(accelerate="compile"))
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == "onnxscript" else name)
    reason = "onnxscript not installed: pip install onnxscript"
    assert acceleration_problem(RunConfig(accelerate="onnx")) == reason
    with pytest.raises(GuidegraphError, match=reason):
        requirements.check_acceleration(RunConfig(accelerate="onnx"))


def test_the_record_of_a_run_has_the_accelerator_and_its_version(cli: Command) -> None:
    path = cli.workflow("draw.yaml", "guidegraph: 1\nnodes: {image: {use: toy.picture}}\noutputs: {image: image}\n")
    records = []
    for name, more in (("fast", ["--accelerate"]), ("plain", [])):
        assert cli("run", path, *more, "--out", name).code == 0
        records.append(json.loads((cli.folder / name / "run.json").read_text()))
    fast, plain = records
    assert (fast["accelerate"], plain["accelerate"]) == ("onnx", None)
    assert fast["versions"]["onnxruntime"] == onnxruntime.__version__
    assert "onnxruntime" not in plain["versions"]


@pytest.mark.parametrize("command", ["run", "plan", "sweep"])
def test_an_unknown_accelerator_is_named_with_those_that_exist(cli: Command, command: str) -> None:
    for arguments in (["--accelerate", "magic"], ["--accelerate=magic"]):
        result = cli(command, WORKFLOW, "--no-plugins", *arguments)
        assert result.code == 2
        assert "there is no accelerator 'magic'; accelerators: onnx, compile" in result.err


@pytest.mark.parametrize("arguments", [["--accelerate"], ["--accelerate", "--json"], []])
def test_an_extra_argument_is_refused(cli: Command, arguments: list[str]) -> None:
    result = cli("plan", WORKFLOW, "other.yaml", "--no-plugins", *arguments)
    assert result.code == 2
    assert "unexpected extra argument" in result.err
    assert "other.yaml" in result.err
