"""A step of a shipped workflow never waits for a GPU, and its pictures are the CPU's: on a simulated ``cuda:0``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from guidegraph.nodes.sampling.scheduler_by_name import SamplerName
from tests.commands.command import environment
from tests.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "gpu-steps.md"


class Budget(NamedTuple):
    """What a step of a workflow may ask of the device, by the table in the docs."""

    kernel: float
    wait: float
    blocking: float


def read_budgets() -> dict[str, Budget]:
    rows = re.findall(r"^\| ([\w/]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: Budget(*map(float, numbers)) for name, *numbers in rows}


BUDGETS = read_budgets()
QUICK = ("class_classifier_guidance_ddpm", "image_to_image_128", "text_and_classifier", "text_to_image_128")
"""One for each way in which a step could wait: labels, noise, two calls, and an interval of guidance."""
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUDGETS]


def run_module(name: str, *arguments: str | Path) -> Any:
    """The JSON that a module of this folder prints, in a process of its own."""
    command = [sys.executable, "-m", f"tests.device.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@cache
def count(is_quick: bool) -> dict[str, dict[str, Any]]:
    """The rows of the quick workflows or of the others, counted in one process."""
    counted: dict[str, dict[str, Any]] = run_module("count_steps", *(n for n in BUDGETS if (n in QUICK) == is_quick))
    return counted


def test_every_workflow_that_draws_in_a_loop_has_a_budget() -> None:
    needs_files = {"text_or_image", "text_to_image_dit", "text_to_image_mmdit", "text_to_image_onnx", "layout_128"}
    shipped = {path.stem for path in (ROOT / "workflows").glob("*.yaml")}
    assert {name for name in BUDGETS if "/" not in name} == shipped - needs_files
    gallery = {path.parent.name for path in (ROOT / "plugins" / "gallery").glob("*/pyproject.toml")}
    assert {name.split("/")[1] for name in BUDGETS if name.startswith("gallery/")} == gallery


@pytest.mark.parametrize("name", NAMES)
def test_a_step_stays_in_its_budget(name: str) -> None:
    row, budget = count(name in QUICK)[name], BUDGETS[name]
    assert row["lines"] == []
    assert (row["wait"], row["blocking"]) == (budget.wait, budget.blocking) == (0, 0)
    assert 0 < row["kernel"] <= budget.kernel


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_that_of_the_cpu(name: str) -> None:
    assert count(name in QUICK)[name]["difference"] <= 1e-4


def test_no_sampler_waits_and_each_draws_what_it_draws_on_the_cpu(tmp_path: Path) -> None:
    rows = run_module("count_samplers", tmp_path)
    assert rows.keys() == {*get_args(SamplerName)}
    assert {name: row["lines"] for name, row in rows.items() if row["lines"]} == {}
    assert all(row["kernel"] > 0 and row["size"] > 0.1 for row in rows.values())
    assert {name: row["difference"] for name, row in rows.items() if not row["difference"] <= 1e-4} == {}


def test_every_built_in_node_computes_on_the_device_of_its_inputs_what_it_computes_on_the_cpu() -> None:
    rows = run_module("check_nodes")
    assert rows["failed"].keys() == {"metric.rate_distortion: waits"}  # it is computed once, on the host
    assert set(rows["silent"].values()) == {"it gives a model"}
    computes = {name.partition(": ")[0] for name in rows["passed"] if name.endswith("device independence")}
    assert {"metric.miou", "scene_eval.judge", "scene_eval.judge_everyday"} <= computes
    waitless = {name.partition(": ")[0] for name in rows["passed"] if name.endswith("waits")}
    assert {"guidance.cfg", "guidance.interval", "scheduler.step", "scheduler.add_noise"} <= waitless


MUTANTS: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
    "waits": (
        "x * float(x.abs().max() > 0)",
        lambda row: row["waits"] == [f"aten::_local_scalar_dense at mutant.py:{LINE}"] * 3,
    ),
    "uploads": (
        "x + torch.zeros(x.shape).to(x.device)",
        lambda row: row["blocking"] == [f"copy of pageable memory at mutant.py:{LINE}"] * 3,
    ),
    "strays": (
        "x + torch.zeros(x.shape)",
        lambda row: "Expected all tensors to be on the same device" in row["error"] and "mutant.spoil" in row["error"],
    ),
}
LINE = 11
MUTANT = '''"""A node with a fault."""

import torch

from guidegraph import Sample, node


@node("mutant.spoil")
def spoil(x: Sample) -> Sample:
    "x, with a fault on the way."
    return {expression}
'''


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_fault_is_found_by_its_line(fault: str, tmp_path: Path) -> None:
    expression, is_found = MUTANTS[fault]
    (tmp_path / "mutant.py").write_text(MUTANT.format(expression=expression), encoding="utf-8")
    row = run_module("run_mutant", tmp_path / "mutant.py")
    assert is_found(row), row


READS = """
import json
from guidegraph_testing import simulated_cuda
simulated_cuda.load()
import torch
from guidegraph.graph.device_context import read_on_host, separate_rows
x = torch.arange(3.0, device="cuda")
with torch.no_grad(), simulated_cuda.record() as events:
    values = [read_on_host(x).tolist(), read_on_host(x).tolist()]
    x += 1
    values += [read_on_host(x).tolist(), [float(read_on_host(row)) for row in separate_rows(x)]]
print(json.dumps({"values": values, "waits": sum(event.kind == "wait" for event in events)}))
"""


def test_values_are_read_once_until_the_tensor_changes() -> None:
    done = subprocess.run([sys.executable, "-c", READS], cwd=ROOT, env=environment(), capture_output=True, text=True)
    row = json.loads(done.stdout)
    assert row["values"] == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [1, 2, 3]]
    assert row["waits"] == 3  # the first, after the change, and one for all rows
