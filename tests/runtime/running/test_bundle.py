"""The memory of an open bundle."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime import Bundle, BundleError, SessionSettings
from guidegraph_runtime.running.bundle import Timings
from tests.runtime.running import bundles


def test_bytes_are_held_until_no_session_is_to_be_made_of_them(tmp_path: Path) -> None:
    def twice(value: dict[str, Any]) -> None:
        value["parts"]["again"] = value["parts"]["step"]

    bundle = Bundle(bundles.write_bundle(tmp_path / "bundle", change=twice), SessionSettings.on("cpu"))
    bundle.session("step")
    assert bundle.file("parts/step.onnx.data") == bundles.WEIGHTS.tobytes()
    bundle.session("again")
    for name in ("parts/step.onnx", "parts/step.onnx.data"):
        with pytest.raises(BundleError, match="released"):
            bundle.file(name)
    assert bundle.file("parts/total.onnx")
    assert bundle.session("step") is bundle.session("step")


@pytest.mark.parametrize("path", [None, 3, ["bundle"]])
def test_a_value_that_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(BundleError, match="bad-value: expected the path of a bundle's folder, found "):
        Bundle(path)


@pytest.mark.parametrize("names", [{1: 2}, [("x", 1)], 3, "x"])
def test_arguments_that_are_not_by_name_are_refused(tmp_path: Path, names: Any) -> None:
    bundle = Bundle(bundles.write_bundle(tmp_path / "bundle"), SessionSettings.on("cpu"))
    with pytest.raises(BundleError, match=r"bad-value: expected the inputs of a run by name, such as .*, found "):
        bundle.run_with(names)
    with pytest.raises(BundleError, match=r"bad-value: expected settings by NODE.SETTING, such as .*, found "):
        bundle.run_with({"x": np.zeros((2, 4), np.float32)}, nodes=names)


def test_a_run_without_a_mapping_of_inputs_is_refused(tmp_path: Path) -> None:
    bundle = Bundle(bundles.write_bundle(tmp_path / "bundle"), SessionSettings.on("cpu"))
    with pytest.raises(BundleError, match=r"expected the inputs of a run by name, .*, found None"):
        bundle.run_with(None)  # type: ignore[arg-type]


class SlowCounts(dict[str, int]):
    """Counts whose readers are interrupted by other threads before they write."""

    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        time.sleep(1e-4)
        return value


def test_calls_in_several_threads_are_all_counted() -> None:
    timings = Timings(calls=SlowCounts())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: timings.add_call("step", 1.0), range(100)))
    assert timings.calls == {"step": 100}
    assert timings.parts == {"step": 100.0}
