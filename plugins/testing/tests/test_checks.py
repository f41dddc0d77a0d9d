"""Each check catches its error, and its message has the expectation, the actual result and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from guidegraph import Prediction, StepContext
from guidegraph_testing import (
    CHECKS,
    Inapplicable,
    NodeCase,
    NoExample,
    Nonconforming,
    conforms,
    register_example,
    run_check,
)
from guidegraph_testing.checks import device
from guidegraph_testing.examples.by_type import example
from plugins.testing.tests import wrong_nodes as wrong

CAUGHT: list[tuple[Callable[..., Any], str, str, str]] = [
    (wrong.undocumented, "docs", "a docstring", "found: none"),
    (wrong.unsaid, "docs", "what each setting does", "no word on strength"),
    (wrong.wrong_type, "types", "output 'out' to be Image", "shape (2, 4, 8, 12)"),
    (wrong.wrong_names, "types", "a NamedTuple of first, second", "Tensor"),
    (wrong.wrong_default, "types", "the default of 'strength' to fit its annotation", "found str '1'"),
    (
        wrong.low_default,
        "types",
        "the default of 'rows' to fit its annotation",
        "greater than or equal to 5; found int 1",
    ),
    (wrong.reads, "files", "settings of type Path", "wrong.txt' is read"),
    (wrong.writes, "files", "Annotated[Path, Written()]", "is written"),
    (wrong.saves, "files", "Annotated[Path, Written()]", "is written"),
    (wrong.wrong_inside, "types", "output 'out' to be Prediction", "field 'value': expected axes (B, C, H, W)"),
    (
        wrong.wrong_entries,
        "types",
        "output 'out' to be Sequence[Named]",
        "entry 1: field 'name': expected str, found int",
    ),
    (
        wrong.on_demand,
        "types",
        "output 'out' to be Sequence[Image]",
        "entry 0: expected Image, found a tensor of shape",
    ),
    (wrong.one_choice, "types", "output 'out' to be Sample under mode = 'mean'", "shape (2, 8, 12)"),
    (wrong.squeezes, "types", "output 'out' to be Sample under one sample", "shape (4, 8, 12)"),
    (wrong.gives_none, "types", "output 'out' to be Sample under port 'like' wired", "found None"),
    (wrong.batch_lost, "shapes", "to be of 2 samples", "shape (1, 4, 8, 12)"),
    (wrong.score_shape, "shapes", "a score, in the shape of x", "shape (2, 1, 8, 12)"),
    (wrong.fixed_width, "shapes", "at a width that is larger by 4", "RuntimeError"),
    (wrong.wrong_dtype, "dtypes", "float32 from inputs in float32", "output 'out' in float64"),
    (wrong.rounds, "dtypes", "float64 from inputs in float64", "output 'out' in float32"),
    (wrong.mixes, "batch invariance", "sample 0 alone to be sample 0 in a batch of 2", "output 'out.value' differs"),
    (wrong.limits, "batch invariance", "each sample to be computed from its own inputs", "aten.max at wrong_nodes.py:"),
    (wrong.one_level, "batch invariance", "sample 1 in a batch of 2 with a row for each", "output 'out.value' differs"),
    (wrong.scales, "batch invariance", "with a tensor (2) as scale", "output 'out.value' differs"),
    (wrong.draws, "determinism", "torch's global generator as it was", "pure=False"),
    (wrong.counts, "determinism", "the same result twice", "results that differ by"),
    (wrong.in_place, "inputs unchanged", "'x' as it was", "changed in place"),
    (wrong.hooks, "inputs unchanged", "the model at port 'denoiser' as it was", "hooks"),
    (wrong.adds_to_list, "types", "a tuple at port 'samples' as good as a list", "TypeError"),
    (wrong.for_lists, "types", "a sequence of another class at port 'samples'", "a result that differs"),
    (wrong.two_entries, "types", "a result for one entry at port 'samples'", "IndexError"),
    (wrong.device, "device independence", "all tensors on the device of the inputs", "devices"),
    (wrong.made_on_cpu, "device independence", "output 'out' on the device of the inputs", "it is on cpu"),
    (wrong.detaches, "gradients", "with respect to 'cond.value'", "none, though the result changes"),
    (wrong.infinite, "gradients", "a finite gradient with respect to 'x'", "768 of 768 elements are not finite"),
    (wrong.identity, "identity", "port 'guided' unchanged under phi = 0", "a result that differs"),
    (wrong.identity_of_one, "identity", "port 'cond' unchanged under scale = 1", "a result that differs"),
    (wrong.identity_port, "identity", "identity= to name a port", "'x'"),
    (wrong.needs, "needs", "does not depend on port 'uncond' under scale = 1", "it changes by"),
    (wrong.optional_read, "needs", "does not depend on port 'extra' under scale = 3.0", "it changes by"),
    (wrong.other_setting, "needs", "on port 'uncond' under scale = 1.0, mode = 'blend'", "it changes by"),
    (wrong.never, "needs", "values under which needs= leaves out a port", "none among"),
    (wrong.onnx, "ONNX export", "a node that can be traced", "wrong_nodes.py"),
    (wrong.fails, "types", "a result for x (2, 4, 8, 12)", "ValueError: this node takes no sample at all"),
]


@pytest.mark.parametrize(
    ("node", "check", "expected", "actual"), CAUGHT, ids=[f"{c[1]}-{c[0].__name__}" for c in CAUGHT]
)
def test_each_check_catches_its_error(node: Callable[..., Any], check: str, expected: str, actual: str) -> None:
    if check == "ONNX export":
        pytest.importorskip("onnxscript")
    with pytest.raises(Nonconforming) as caught:
        run_check(NodeCase(node), check)
    message = str(caught.value)
    assert message.startswith("wrong.")
    assert expected in message
    assert actual in message
    assert "to do: " in message


def test_every_check_has_a_node_that_it_catches() -> None:
    assert {check for _, check, _, _ in CAUGHT} == set(CHECKS) - {"previews", "waits"}  # test_previews.py, tests/device


def test_onnxruntime_catches_a_number_fixed_during_tracing(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(Nonconforming, match="differs by") as caught:
        run_check(NodeCase(wrong.bakes), "ONNX export")
    assert "onnxruntime to compute what the node does" in str(caught.value)
    assert not [record for record in caplog.records if record.name.startswith("torch")]


@pytest.mark.parametrize("has_cuda", [False, True])
def test_a_node_that_reads_values_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, has_cuda: bool) -> None:
    calls: list[NodeCase] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(device, "_check_on_cuda", lambda case, arguments: calls.append(case))
    case = NodeCase(wrong.onnx)
    if has_cuda:
        run_check(case, "device independence")
        assert calls == [case]
    else:
        with pytest.raises(Inapplicable, match="needs a GPU or --device sim: it reads values"):
            run_check(case, "device independence")
        assert calls == []


def test_a_node_may_refuse_samples_that_have_rows_of_their_own() -> None:
    run_check(NodeCase(wrong.refuses_levels), "batch invariance")
    unlike = replace(example(StepContext), alpha=torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match=r"these 2 have rows of their own, as of scheduler\.join: draw them in runs"):
        wrong.refuses_levels(Prediction(torch.zeros(2, 4, 8, 12), "eps"), unlike)


def test_a_good_node_conforms_and_skipped_checks_have_reasons() -> None:
    pytest.importorskip("onnxscript")
    good = conforms(wrong.good)
    assert good.pop("waits") == "no device counts them (pytest --guidegraph-plugin … --device sim does)"
    assert good == {"previews": "its plugin has no hook guidegraph_preview"}
    skipped = conforms(wrong.on_host)
    assert skipped["ONNX export"] == "it runs on the host (host=True)"
    assert skipped["identity"] == "it declares no identity"


def test_all_failures_are_reported_together() -> None:
    with pytest.raises(AssertionError) as caught:
        conforms(wrong.wrong_dtype, skip={"ONNX export": "not tested here"})
    assert "dtypes: wrong.dtype: expected float32" in str(caught.value)


def test_declared_exceptions_are_skipped_with_their_reasons() -> None:
    case = NodeCase(wrong.mixes, skip={"batch invariance": "mixes samples by design"})
    with pytest.raises(Inapplicable, match="by design: mixes samples by design"):
        run_check(case, "batch invariance")
    run_check(NodeCase(wrong.detaches, detached={"cond": "a constant", "uncond": "a constant"}, name="d"), "types")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": {"conds": 1}}, "inputs names 'conds'.*did you mean 'cond'"),
        ({"settings": {"size": 1}}, "settings names 'size'"),
        ({"skip": {"speed": "too slow"}}, "skip names 'speed'"),
        ({"skip": {"types": " "}}, "without a reason"),
    ],
)
def test_a_case_with_a_wrong_name_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeCase(wrong.good, **options)


def test_a_type_without_an_example_gets_one() -> None:
    with pytest.raises(NoExample, match="give one: NodeCase"):
        run_check(NodeCase(wrong.unknown), "types")
    run_check(NodeCase(wrong.unknown, inputs={"value": wrong.Unknown()}), "types")
    register_example(wrong.Unknown, lambda seed: wrong.Unknown())
    run_check(NodeCase(wrong.unknown), "types")


def test_values_of_a_case_are_used_and_not_modified() -> None:
    x = torch.ones(3, 4, 4, 4)
    with pytest.raises(Nonconforming, match="'x' as it was"):
        run_check(NodeCase(wrong.in_place, inputs={"x": x}), "inputs unchanged")
    assert bool((x == 1).all())
    cond = Prediction(torch.randn(1, 4, 4, 4), "eps")
    with pytest.raises(Inapplicable, match="one sample"):
        run_check(NodeCase(wrong.mixes, inputs={"prediction": cond}), "batch invariance")
