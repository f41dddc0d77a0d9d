"""A bundle refuses invalid runs before anything runs, and offers only overrides that it accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime import admission
from guidegraph_runtime.admission import (
    SampleCount,
    ShapeOnly,
    find_batch_problem,
    find_memory_problem,
    find_number_problem,
)
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.running.overrides import host_operations
from guidegraph_runtime.sessions.sessions import SessionSettings
from tests.runtime.running.bundles import seal_manifest
from tests.runtime.running.loop_bundle import write_loop_bundle

CPU = SessionSettings.on("cpu", intra_threads=1)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of a loop, whose condition is that of labels, for a batch of 2."""
    return Bundle(write_loop_bundle(tmp_path / "bundle", labels=True), CPU)


def refusal(bundle: Bundle, params: Mapping[str, Any], nodes: Mapping[str, Any] | None = None) -> str:
    """The message of a run that is refused before any graph is computed."""
    parts: list[str] = []
    with pytest.raises(BundleError) as error:
        bundle.run_with(params, nodes=nodes, observer=lambda part, *_: parts.append(part))
    assert error.value.code in ("refused", "bad-value")
    assert parts == []
    return error.value.message


@pytest.mark.parametrize(("labels", "batch"), [([1, 2], 1), ([1, 2], 3), ([1, 2, 3], 2)])
def test_more_labels_than_samples_are_refused(bundle: Bundle, labels: list[int], batch: int) -> None:
    """Two labels and a batch of 1 drew a second picture that was that of no seed, and ended with 0."""
    count = len(labels)
    message = refusal(bundle, {"label": labels, "batch": batch})
    assert f"'label' ({count} values) is for {count} samples and 'noise' makes {batch}: give one for all" in message
    assert message.endswith(f"or make the batch {count}")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"label": [1, 2], "batch": 3}, "label"),
        ({"label": []}, "label"),
        ({"steps": 1500}, "steps"),
        ({"steps": 10_000_000}, "steps"),
        ({"seed": [1, 2]}, "seed"),
        ({"skale": 1}, "skale"),
        ({}, "noise.shape"),
    ],
)
def test_an_error_carries_the_input_that_it_is_about(bundle: Bundle, params: dict[str, Any], param: str) -> None:
    nodes = None if params else {"noise.shape": [2, 0, 5]}
    with pytest.raises(BundleError) as refused:
        bundle.prepare(params, nodes)
    assert refused.value.param == param


@pytest.mark.parametrize(("label", "batch"), [(1, 3), ([1, 2, 3], 3), ([4], 2)])
def test_a_picture_is_the_same_in_any_batch_that_is_admitted(bundle: Bundle, label: Any, batch: int) -> None:
    drawn = bundle.run(label=label, batch=batch, seed=7)["image"]
    for i in range(batch):
        own = label if isinstance(label, int) else label[i if len(label) > 1 else 0]
        alone = bundle.run(label=own, batch=1, seed=7 + i)["image"]
        np.testing.assert_allclose(drawn[i : i + 1], alone, rtol=1e-6)


def test_noise_of_a_body_for_more_samples_than_there_are_is_refused(bundle: Bundle) -> None:
    message = refusal(bundle, {"batch": 1}, {"fresh.seed": [3, 4]})
    assert "'fresh' is for 2 samples and 'noise' makes 1" in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_and_settings_are_finite(bundle: Bundle, value: float) -> None:
    shown = "a number; found nan" if math.isnan(value) else f"a finite number; found {value}"
    assert refusal(bundle, {"scale": value}) == f"'scale': expected {shown}"
    assert refusal(bundle, {}, {"scheduler.eta": value}) == f"scheduler (scheduler.ddim): eta: expected {shown}"


def test_infinity_is_accepted_if_it_is_the_default(bundle: Bundle) -> None:
    nodes = {"scheduler.use": "scheduler.edm"}
    expected = bundle.run_with({}, nodes=nodes)["image"]
    assert (bundle.run_with({}, nodes={**nodes, "scheduler.s_max": math.inf})["image"] == expected).all()


@pytest.mark.parametrize(
    ("params", "nodes", "message"),
    [
        ({"batch": 10**9}, {}, "noise (noise.gaussian): it would take at least 120 GB (1000000000 × 2 × 3 × 5 "),
        ({"steps": 0}, {}, "scheduler (scheduler.ddim): steps: expected a whole number of at least 1; found int 0"),
        ({"steps": 1001}, {}, "1001 steps do not fit into the schedule's 1000 timesteps"),
        ({}, {"noise.shape": [3, 3, 5]}, "'x' has shape (2, 3, 3, 5) where (2, 2, 3, 5) is due"),
        ({"batch": 0}, {}, "noise (noise.gaussian): batch: expected a whole number of at least 1; found int 0"),
        (
            {"seed": 2**64 - 1},
            {},
            "not 18446744073709551616, the last seed of a batch of 2 from 18446744073709551615",
        ),
        ({}, {"noise.rng": "torch"}, "there is no torch here"),
        ({}, {"schedule.train_steps": 10**14}, "schedule (schedule.linear): it would take at least 400 TB"),
    ],
)
def test_an_invalid_run_is_refused_before_it_starts(
    bundle: Bundle, params: dict[str, Any], nodes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "machine_memory", lambda: 10**11)
    assert message in refusal(bundle, params, nodes)


def test_sizes_must_be_multiples_of_a_parts_factors(tmp_path: Path) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    value = json.loads((path / "bundle.json").read_text())
    step = value["plan"][4]["body"][1]
    step["with"]["multiples"] = {"height": 4}
    (path / "bundle.json").write_bytes(seal_manifest({key: item for key, item in value.items() if key != "digest"}))
    bundle = Bundle(path, CPU)
    message = refusal(bundle, {}, {"noise.shape": [2, 6, 5]})
    assert message == "step (part): 'height': expected sides that are multiples of 4; found 6: make them 8, say"
    assert bundle.run_with({}, nodes={"noise.shape": [2, 8, 5]})["image"].shape == (2, 2, 16, 5)


@pytest.mark.parametrize("labels", [False, True])
def test_everything_that_a_bundle_offers_is_taken(tmp_path: Path, labels: bool) -> None:
    bundle = Bundle(write_loop_bundle(tmp_path / "bundle", labels=labels), CPU)
    values = {f"params.{name}": spec.default for name, spec in bundle.manifest.inputs.items()}
    offered = bundle.offers()
    assert {offer.node for offer in offered} == {"schedule", "scheduler", "noise", "fresh"} | (
        {"label"} if labels else set()
    )
    for offer in offered:
        changes = {f"{offer.node}.use": other for other in offer.alternatives}
        for name, change in changes.items():
            bundle.run_with({}, nodes={name: change})
        for setting, value in offer.settings.items():
            current = values[offer.linked[setting]] if setting in offer.linked else value
            bundle.run_with({}, nodes={f"{offer.node}.{setting}": current})


def test_overrides_that_are_refused_or_ignored_are_not_offered(bundle: Bundle) -> None:
    offered = {offer.node: set(offer.settings) for offer in bundle.offers()}
    assert "rng" not in offered["noise"]  # there is no torch to draw from
    assert not {"rng", "shape"} & offered["fresh"]  # its shape is that of x
    assert {"seed", "shape", "batch"} <= offered["noise"]
    nodes = {operation.node for operation in host_operations(bundle.manifest.plan)}
    assert offered.keys() <= nodes


def test_a_field_that_the_graph_was_traced_with_is_not_offered(tmp_path: Path) -> None:
    path = write_loop_bundle(tmp_path / "bundle")
    value = json.loads((path / "bundle.json").read_text())
    value["plan"][1]["out"].append("scheduler.scheduler.clip")
    value["plan"][4]["body"][1]["with"]["fields"] = {"scheduler.scheduler.clip": {"is": None}}
    (path / "bundle.json").write_bytes(seal_manifest({key: item for key, item in value.items() if key != "digest"}))
    offered = {offer.node: offer for offer in Bundle(path, CPU).offers()}
    assert "clip" not in offered["scheduler"].settings
    assert "eta" in offered["scheduler"].settings
    assert "scheduler.heun" in offered["scheduler"].alternatives


def test_messages_have_the_expected_value_and_a_remedy() -> None:
    assert find_batch_problem(SampleCount(2, "'noise'"), [SampleCount(1, "'a'"), SampleCount(2, "'b'")]) is None
    assert find_batch_problem(SampleCount(1, "'noise'"), [SampleCount(2, "'prompt' (2 values)")]) == (
        "'prompt' (2 values) is for 2 samples and 'noise' makes 1: give one for all samples or one for each, or make "
        "the batch 2"
    )
    assert find_memory_problem([ShapeOnly((10, 10))], limit=400) is None
    assert find_memory_problem([ShapeOnly((10, 10)), ShapeOnly((1,))], limit=400) == (
        "it would take at least 404 bytes (10 × 10 numbers), and this machine has 400 bytes of memory: ask for a "
        "smaller batch or size"
    )
    assert find_number_problem([1.0, {"a": (math.nan,)}]) == "expected a number; found nan"
    assert find_number_problem(np.array([1.0, np.nan])) == "expected numbers; found nan in 1 of 2 elements"
    assert find_number_problem(np.array([1.0, np.inf]), infinite=True) is None
    assert find_number_problem(np.array([1, 2])) is None
