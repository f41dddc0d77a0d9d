"""Errors of the caller's own callbacks reach the caller as they are."""

from __future__ import annotations

from typing import Any

import pytest

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.limits import LimitExceeded
from tests.runtime.running.loop_bundle import write_loop_bundle

CALLBACKS = ("progress", "observer", "on_output", "finished")
ERRORS = (
    ZeroDivisionError("mine"),
    KeyError("mine"),
    OSError("mine"),
    LimitExceeded("steps", 2, "mine"),
    RuntimeError("mine"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(write_loop_bundle(tmp_path_factory.mktemp("loop") / "bundle"), SessionSettings.on("cpu"))


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_a_callback_is_the_callers(bundle: Bundle, callback: str, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    callbacks: dict[str, Any] = {callback: fail}
    with pytest.raises(type(error)) as caught:
        bundle.run_with({}, **callbacks)
    assert caught.value is error
    assert bundle.run()["image"].size
