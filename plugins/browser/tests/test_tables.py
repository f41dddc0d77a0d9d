"""The tables of a page are the runtime's, for each number of steps; what a page cannot compute is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_browser.support import (
    PageError,
    find_input_problems,
    find_operation_problems,
    find_part_problems,
    find_provider_problems,
)
from guidegraph_browser.table_rows import PageTables, PlanSource, TableRange, make_tables
from guidegraph_runtime.bundle.manifest_types import Input, Operation, Part, Tensor
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.values import Values
from plugins.browser.tests.modules import run_script
from tests.paths import ROOT

BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 40))
TABLE = ("scheduler.scheduler.matrix", "scheduler.scheduler.alpha")
STEP = Operation(
    "part",
    "step",
    {"x": "x", "matrix": "scheduler.scheduler.matrix", "fresh": "fresh"},
    {
        "unread": {"fresh": {"field": "scheduler.scheduler.reads_noise", "is": False}},
        "fields": {"scheduler.scheduler.clip": {"is": None}},
    },
    ("y",),
)
LOOP = Operation(
    "loop",
    "sample",
    {"x": "noise"},
    {"over": "scheduler.steps", "item": "t", "index": "i", "next": {"x": "y"}, "result": {"last": "x"}},
    ("last",),
    (Operation("noise.gaussian", "fresh", {"like": "x", "index": "i"}, {}, ("fresh",)), STEP),
)
STEPS = Input("int", default=30)


def sampler(op: str, inputs: dict[str, str] | None = None, **settings: Any) -> Operation:
    fields = ("matrix", "alpha", "clip", "reads_noise")
    outputs = (*(f"scheduler.scheduler.{name}" for name in fields), "scheduler.steps")
    links = {"schedule.alphas_bar": "bar", "steps": "params.steps"} if inputs is None else inputs
    return Operation(op, "scheduler", links, settings, outputs)


def plan_with(*operations: Operation) -> list[Operation]:
    return [
        *operations,
        Operation("noise.gaussian", "noise", {"seed": "params.seed"}, {"shape": [4]}, ("noise",)),
        LOOP,
    ]


def range_of(made: PageTables, name: str) -> TableRange:
    """The range of the tables of an input."""
    return next(item for item in made.ranges if item.input == name)


def source_with(**inputs: Input) -> PlanSource:
    given = {"steps": STEPS, "seed": Input("int", default=0), **inputs}
    return PlanSource("page", given, {"bar": BAR}, lambda name: (ROOT / name).read_bytes())


@pytest.mark.parametrize(
    ("op", "settings", "most"),
    [
        ("scheduler.ddim", {}, 40),
        ("scheduler.euler_ancestral", {}, 100),
        ("scheduler.heun", {"spacing": "trailing"}, 40),
        ("scheduler.dpmpp_2m", {}, 39),
        ("scheduler.unipc", {"sigmas": "karras"}, 100),
    ],
)
def test_tables_are_those_of_a_run_for_all_steps_that_it_accepts(op: str, settings: dict[str, Any], most: int) -> None:
    made = make_tables(source_with(), plan_with(sampler(op, **settings)), ["last"])
    assert [operation.node for operation in made.plan] == ["noise", "sample"]
    rows = range_of(made, "steps")
    assert (rows.low, rows.high) == (1, most)
    assert {*rows.names} == {"scheduler.scheduler.matrix", "scheduler.scheduler.reads_noise", "scheduler.steps"}
    for steps in {1, 2, 7, 30, most}:
        run = OPERATIONS[op](schedule={"alphas_bar": BAR}, steps=steps, **settings)
        for name in ("matrix", "reads_noise"):
            array = made.arrays[f"steps={steps}/scheduler.scheduler.{name}"]
            assert np.array_equal(array, run["scheduler"][name])
        assert np.array_equal(made.arrays[f"steps={steps}/scheduler.steps"], run["steps"])


def test_levels_before_the_sampler_are_part_of_its_table() -> None:
    levels = Operation(
        "levels.karras",
        "levels",
        {"schedule.alphas_bar": "bar", "steps": "params.steps"},
        {},
        ("levels.t", "levels.ratio"),
    )
    links = {"schedule.alphas_bar": "bar", "levels.t": "levels.t", "levels.ratio": "levels.ratio"}
    made = make_tables(source_with(), plan_with(levels, sampler("scheduler.euler", links)), ["last"])
    assert [operation.node for operation in made.plan] == ["noise", "sample"]
    schedule = {"alphas_bar": BAR}
    run = OPERATIONS["scheduler.euler"](
        schedule=schedule, levels=OPERATIONS["levels.karras"](schedule=schedule, steps=9)["out"]
    )
    assert np.array_equal(made.arrays["steps=9/scheduler.scheduler.matrix"], run["scheduler"]["matrix"])


def test_steps_that_are_written_into_the_workflow_need_no_range() -> None:
    made = make_tables(
        source_with(), plan_with(sampler("scheduler.ddim", {"schedule.alphas_bar": "bar"}, steps=6)), ["last"]
    )
    assert [item.input for item in made.ranges] == [""]
    assert made.arrays["scheduler.steps"].shape == (6,)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int16"])
def test_a_constant_of_a_type_that_the_page_cannot_read_is_refused(dtype: str) -> None:
    source = replace(source_with(), tables={"picture": np.zeros((1, 3, 8, 8), dtype)})
    message = f"'picture' is in {dtype}, and a page has tensors of bool, float32"
    with pytest.raises(PageError, match=message):
        make_tables(source, [], ["picture"])


def test_a_constant_may_be_an_integer_from_2_to_the_63_on() -> None:
    table = np.array(2**64 - 1, np.uint64)
    made = make_tables(replace(source_with(), tables={"seed": table}), [], ["seed"])
    assert made.arrays["seed"].dtype == np.uint64
    assert made.arrays["seed"] == table


def test_an_input_with_a_default_beyond_all_tables_is_refused() -> None:
    source = source_with(height=Input("int", default=2**40))
    box = Operation("mask.box", "box", {"height": "params.height"}, {"width": 8}, ("box",))
    with pytest.raises(
        PageError, match=r"box .* is computed for each value of the input height, .* 1099511627776: .* at most 1000"
    ):
        make_tables(source, [box], ["box"])


def test_a_guard_of_a_graph_ends_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that the graph was not traced for is not offered."""
    guards = {"scheduler.scheduler.reads_noise": {"is": True}}  # the last step of an ancestral sampler draws none
    step = replace(STEP, settings={"fields": guards})
    loop = replace(LOOP, body=(step,))
    plan = [*plan_with(sampler("scheduler.euler_ancestral"))[:-1], loop]
    assert range_of(make_tables(source_with(), plan, ["last"]), "steps").low == 2


def test_a_defect_does_not_end_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(operation: Operation, memory: Values) -> None:
        if memory["params.steps"] > 33:
            raise ValueError("a defect")

    monkeypatch.setattr("guidegraph_browser.table_rows.check_guards", fail)
    with pytest.raises(ValueError, match="a defect"):
        make_tables(source_with(), plan_with(sampler("scheduler.ddim")), ["last"])


def test_rows_are_read_on_the_page_as_they_were_written(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    made = make_tables(source_with(), plan_with(sampler("scheduler.euler_ancestral")), ["last"])
    save_file(dict(made.arrays), tmp_path / "tables.safetensors")
    script = """
    import { selectRows } from "./rows.js";
    import { readSafetensors } from "./tensors.js";
    const bytes = readFileSync("tables.safetensors");
    const tensors = readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    show([12n, 101n].map((steps) => catchMessage(() => selectRows(given, tensors, { steps }))));
    """
    rows = range_of(made, "steps")
    selected, refused = run_script(tmp_path, script, [asdict(rows)])
    assert selected.keys() == {*rows.names}
    for name, tensor in selected.items():
        expected = made.arrays[f"steps=12/{name}"]
        assert tensor["dims"] == [*expected.shape]
        assert np.array_equal(np.array(tensor["data"]).reshape(expected.shape), expected)
    assert refused["message"] == "steps: this page holds the tables of 1 to 100, found 101"


ETA = Operation(
    "scheduler.ddim", "scheduler", {"schedule.alphas_bar": "bar", "steps": "params.steps", "eta": "params.eta"}, {}
)
TOKENIZE = Operation("text.tokenize", "words", {"texts": "params.prompt"}, {"tokenizer": {"file": "tokenizer.json"}})


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            ETA,
            r"scheduler \(scheduler.ddim\) depends on the inputs eta, steps, and a page has its results for .* integer",
        ),
        (
            replace(ETA, inputs={"schedule.alphas_bar": "bar", "eta": "params.eta"}),
            "depends on the input eta, .* integer",
        ),
        (Operation("steps.is_due", "due", {"index": "params.none"}), "depends on the input none, .* with a default"),
    ],
)
def test_an_operation_with_too_many_tables_is_refused(operation: Operation, message: str) -> None:
    source = source_with(eta=Input("float", default=0.0), none=Input("int", required=True))
    with pytest.raises(PageError, match=message):
        make_tables(source, [operation], operation.outputs)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Operation("semantic.picture", "seen"), "seen (semantic.picture): a page does not compute this operation"),
        (Operation("choose", "either"), "either (choose): a page does not compute this operation"),
        (replace(TOKENIZE, settings={**TOKENIZE.settings, "weighted": True}), "weighted words"),
    ],
)
def test_an_operation_that_the_page_lacks_is_refused_by_name(operation: Operation, message: str) -> None:
    (problem,) = find_operation_problems([replace(LOOP, body=(operation,))], lambda name: json.dumps(SCENES).encode())
    assert message in problem


SCENES = json.loads((ROOT / "workflows" / "models" / "scenes" / "tokenizer.json").read_bytes())
ADDED = {"id": 1, "content": "[UNK]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({}, []),
        ({"added_tokens": [ADDED]}, []),
        (
            {"added_tokens": [{**ADDED, "lstrip": True, "normalized": True}]},
            ["token '[UNK]' with lstrip and normalized"],
        ),
        ({"model": {"type": "BPE"}}, ["a model of type BPE"]),
        ({"normalizer": {"type": "BertNormalizer"}}, ["a normalizer of type BertNormalizer"]),
        ({"pre_tokenizer": None, "padding": None}, ["a pre tokenizer of type None", "no padding on the right"]),
        ({"padding": {"direction": "Right", "strategy": "BatchLongest", "pad_id": 0}}, ["no fixed length"]),
        ({"truncation": None}, ["truncation to another length"]),
    ],
)
def test_a_tokenizer_that_the_page_lacks_is_refused_with_all_reasons(
    change: dict[str, Any], messages: list[str]
) -> None:
    problems = [*find_operation_problems([TOKENIZE], lambda name: json.dumps({**SCENES, **change}).encode())]
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert problem.startswith("words (text.tokenize): its tokenizer has ")
        assert message in problem


def test_all_problems_of_a_plan_are_said_at_once() -> None:
    source = source_with(eta=Input("float", default=0.0))
    either = replace(LOOP, body=(Operation("choose", "either"), STEP))
    plan = [ETA, Operation("mask.box", "box", {"height": "params.eta"}, {}, ("box",)), either]
    with pytest.raises(PageError) as refused:
        make_tables(source, plan, ["last"])
    assert [problem.partition(" ")[0] for problem in refused.value.problems] == ["scheduler", "box", "either"]


def test_graphs_and_inputs_that_the_page_cannot_load_are_refused() -> None:
    step = Part("step.onnx", (Tensor("x", "float32", ()),), (), {}, ("weights.data",))
    half = Part("half.onnx", (Tensor("x", "float16", ()),), (), {})
    fits = {
        "prompt": Input("str", required=True),
        "map": Input("path", default="inputs/map.png"),
        "objects": Input("str", default=["a cat", "a dog"], many=True),
        "boxes": Input("numbers", default=[[0.0, 0.0, 1.0, 1.0]], many=True),
    }
    assert [*find_part_problems({"step": step}), *find_provider_problems(()), *find_input_problems(fits)] == []
    (problem,) = find_part_problems({"half": half, "step": step})
    assert problem.startswith("part 'half' has 'x' in float16")
    (problem,) = find_provider_problems(("cuda", "tensorrt"))
    assert problem.startswith("its graphs need cuda or tensorrt")
    unfit = {
        "latent": Input("tensor", required=True),
        "pictures": Input("path", default=["inputs/a.png", "inputs/b.png"], many=True),
        "negative": Input("str"),
    }
    tensor, several, null = find_input_problems(unfit)
    assert tensor.startswith("the input 'latent' has the type tensor")
    assert several.startswith("the default of the input 'pictures' is a list of files, ")
    assert null.startswith("the default of the input 'negative' is null, ")


@pytest.mark.parametrize(
    ("op", "settings"),
    [
        ("scheduler.ddim", {"eta": 1.0}),
        ("scheduler.dpmpp_2m", {}),
        ("scheduler.heun", {}),  # calls a model twice in a step
        ("scheduler.named", {"sampler": "unipc"}),
    ],
)
def test_a_share_of_the_steps_has_the_rows_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str, settings: dict[str, Any]
) -> None:
    from safetensors.numpy import save_file

    monkeypatch.setattr("guidegraph_browser.table_rows.HIGHEST_OF_SEVERAL", 12)
    links = {"schedule.alphas_bar": "bar", "steps": "params.steps", "strength": "params.strength"}
    source = source_with(strength=Input("float", default=1.0), steps=Input("int", default=6))
    made = make_tables(source, plan_with(sampler(op, links, **settings)), ["last"])
    save_file(dict(made.arrays), tmp_path / "tables.safetensors")
    script = """
    import { selectRows } from "./rows.js";
    import { readSafetensors } from "./tensors.js";
    const bytes = readFileSync("tables.safetensors");
    const tensors = readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const select = ([steps, strength]) => selectRows(given.ranges, tensors, { steps: BigInt(steps), strength });
    show(given.values.map((pair) => catchMessage(() => select(pair))));
    """
    values = [(6, 1.0), (1, 0.01), (9, 0.34), (12, 0.5), (7, 0.9999), (11, 0.1)]
    assert range_of(made, "steps").high == 12
    given = {"ranges": [asdict(item) for item in made.ranges], "values": [*values, (6, 0.0), (6, 1.5)]}
    *selected, none, more = run_script(tmp_path, script, given)
    for (steps, strength), found in zip(values, selected, strict=True):
        run = OPERATIONS[op](schedule={"alphas_bar": BAR}, steps=steps, strength=strength, **settings)
        expected = {f"scheduler.scheduler.{name}": run["scheduler"][name] for name in ("matrix", "reads_noise")}
        for name, array in {**expected, "scheduler.steps": run["steps"]}.items():
            assert np.array_equal(np.array(found[name]["data"]).reshape(found[name]["dims"]), array), (steps, name)
    assert none == {"message": "strength: expected a number above 0 and at most 1, found 0"}
    assert more == {"message": "strength: expected a number above 0 and at most 1, found 1.5"}


def test_a_sampler_that_is_an_input_has_tables_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    monkeypatch.setattr("guidegraph_browser.table_rows.HIGHEST_OF_SEVERAL", 9)
    names = ("ddim", "dpmpp_2m", "heun", "unknown")
    links = {"schedule.alphas_bar": "bar", "steps": "params.steps", "sampler": "params.sampler"}
    source = source_with(sampler=Input("str", default="ddim", choices=names), steps=Input("int", default=4))
    made = make_tables(source, plan_with(sampler("scheduler.named", links)), ["last"])
    save_file(dict(made.arrays), tmp_path / "tables.safetensors")
    script = """
    import { selectRows } from "./rows.js";
    import { readSafetensors } from "./tensors.js";
    const bytes = readFileSync("tables.safetensors");
    const tensors = readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const select = ([steps, sampler]) => selectRows(given.ranges, tensors, { steps: BigInt(steps), sampler });
    show(given.values.map((pair) => catchMessage(() => select(pair))));
    """
    values = [(4, "ddim"), (9, "heun"), (2, "dpmpp_2m")]
    given = {"ranges": [asdict(item) for item in made.ranges], "values": [*values, (4, "unknown"), (10, "heun")]}
    *selected, unknown, beyond = run_script(tmp_path, script, given)
    for (steps, name), found in zip(values, selected, strict=True):
        run = OPERATIONS[f"scheduler.{name}"](schedule={"alphas_bar": BAR}, steps=steps)
        matrix = found["scheduler.scheduler.matrix"]
        assert np.array_equal(np.array(matrix["data"]).reshape(matrix["dims"]), run["scheduler"]["matrix"])
        assert np.array_equal(np.array(found["scheduler.steps"]["data"]), run["steps"])
    assert unknown == {"message": "sampler: this page holds the tables of ddim, dpmpp_2m, heun, found unknown"}
    assert beyond == {"message": "steps: this page holds the tables of 1 to 9, found 10"}
