"""The tables of a page are the runtime's, for each number of steps; what a page cannot compute is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.bundle.manifest_types import Input, Operation, Part, Tensor
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.web_page.support import PageError, check_inputs, check_operations, check_parts, check_providers
from guidegraph_runtime.web_page.table_rows import PlanSource, make_tables
from tests.paths import ROOT
from tests.runtime.web_page.modules import run_script

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
    rows = made.rows["steps"]
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
    assert [*made.rows] == [""]
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
    with pytest.raises(PageError, match=r"results of box are .* the input height, .* 1099511627776: .* at most 1000"):
        make_tables(source, [box], ["box"])


def test_a_guard_of_a_graph_ends_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that the graph was not traced for is not offered."""
    guards = {"scheduler.scheduler.reads_noise": {"is": True}}  # the last step of an ancestral sampler draws none
    step = replace(STEP, settings={"fields": guards})
    loop = replace(LOOP, body=(step,))
    plan = [*plan_with(sampler("scheduler.euler_ancestral"))[:-1], loop]
    assert make_tables(source_with(), plan, ["last"]).rows["steps"].low == 2


def test_a_defect_does_not_end_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(operation: Operation, memory: Values) -> None:
        if memory["params.steps"] > 33:
            raise ValueError("a defect")

    monkeypatch.setattr("guidegraph_runtime.web_page.table_rows.check_guards", fail)
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
    const rows = { steps: given };
    show([selectRows(rows, tensors, { steps: 12n }), catchMessage(() => selectRows(rows, tensors, { steps: 101n }))]);
    """
    rows = made.rows["steps"]
    selected, refused = run_script(tmp_path, script, {"low": rows.low, "high": rows.high, "names": rows.names})
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
            r"scheduler \(scheduler.ddim\) depends on the inputs eta, steps, and a page has its results for .* of one",
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
        (Operation("scheduler.add_noise", "noisy"), r"^noisy \(scheduler.add_noise\): a page does not compute this"),
        (Operation("choose", "either"), r"^either \(choose\): a page does not compute this"),
        (Operation("noise.gaussian", "noise", {}, {"seed": [1, 2]}), "'seed' is a list, and a page takes one number"),
        (replace(TOKENIZE, settings={**TOKENIZE.settings, "weighted": True}), "weighted words"),
    ],
)
def test_an_operation_that_the_page_lacks_is_refused_by_name(operation: Operation, message: str) -> None:
    with pytest.raises(PageError, match=message):
        check_operations([replace(LOOP, body=(operation,))], lambda name: b"{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"model": {"type": "BPE"}}, "a model of type BPE"),
        ({"normalizer": {"type": "BertNormalizer"}}, "a normalizer of type BertNormalizer"),
        ({"pre_tokenizer": None}, "a pre tokenizer of type None"),
        ({"added_tokens": [{"id": 1}]}, "added tokens"),
        ({"padding": None}, "no padding on the right"),
        ({"padding": {"direction": "Right", "strategy": "BatchLongest", "pad_id": 0}}, "no fixed length"),
        ({"truncation": None}, "truncation to another length"),
    ],
)
def test_a_tokenizer_that_the_page_lacks_is_refused(change: dict[str, Any], message: str | None) -> None:
    tokenizer = json.loads((ROOT / "workflows" / "models" / "scenes" / "tokenizer.json").read_bytes())

    def read(name: str) -> bytes:
        return json.dumps({**tokenizer, **change}).encode()

    if message is None:
        check_operations([TOKENIZE], read)
    else:
        with pytest.raises(PageError, match=rf"^words \(text.tokenize\): its tokenizer has {message}"):
            check_operations([TOKENIZE], read)


def part_with(dtype: str = "float32") -> dict[str, Part]:
    return {"step": Part("step.onnx", (Tensor("x", dtype, ()),), (), {})}


def test_graphs_and_inputs_that_the_page_cannot_load_are_refused() -> None:
    check_parts(part_with())
    check_providers(())
    check_inputs({"prompt": Input("str", default=""), "scale": Input("float", default=1.0)})
    with pytest.raises(PageError, match="part 'step' has 'x' in float16"):
        check_parts(part_with("float16"))
    with pytest.raises(PageError, match="its graphs need cuda or tensorrt"):
        check_providers(("cuda", "tensorrt"))
    with pytest.raises(PageError, match="the input 'map' has the type image"):
        check_inputs({"map": Input("image")})
    check_inputs({"prompt": Input("str", required=True)})
    with pytest.raises(PageError, match=r"default of the input 'prompt' is a list, .* --set prompt=VALUE"):
        check_inputs({"prompt": Input("str", default=["a cat", "a dog"], many=True)})
    with pytest.raises(PageError, match=r"default of the input 'negative' is null, .* --set negative=VALUE"):
        check_inputs({"negative": Input("str")})
