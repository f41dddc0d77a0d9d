"""Whatever JSON a client sends, it is answered, and never with an error of the server itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtime.serve.conftest import MakeClient

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, 2**64, 0, -1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "auto", "a", "\ud800", "\x00", "scheduler.heun", "noise.gaussian", "1x1", "../../etc/passwd"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
NODES = st.dictionaries(
    st.sampled_from(
        ["noise.shape", "noise.use", "scheduler.use", "scheduler.spacing", "scheduler.eta", "noise", ".", "x.y"]
    ),
    VALUES,
    max_size=3,
)
NAMES = st.sampled_from(["n", "size", "user", "stream", "quality", "priority", "deadline", "prompt", "response_format"])
PARAMS = st.sampled_from(["seed", "steps", "scale", "level", "batch", "other"])
LARGE = 10**400


def ascii_id(value: Any) -> str:
    return ascii(value)[:8]


@pytest.mark.parametrize("value", [LARGE, -LARGE, "\ud800", [], {}, [[1]], True], ids=ascii_id)
@pytest.mark.parametrize("name", ["seed", "steps", "scale", "batch", "n", "priority", "deadline", "size"])
def test_odd_values_are_refused(make_client: MakeClient, name: str, value: Any) -> None:
    client = make_client(started=False)
    body = json.dumps({"model": "pictures", name: value})
    answer = client.post("/v1/images/generations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    if value not in (LARGE, -LARGE, "\ud800"):  # an operation, or the reader of JSON, may refuse these before
        assert name in error["message"] or error["param"] == name


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(NAMES | PARAMS, VALUES, max_size=4),
    NODES | VALUES,
    st.dictionaries(PARAMS, VALUES, max_size=3) | VALUES,
)
def test_any_body_is_answered(make_client: MakeClient, body: dict[str, Any], nodes: Any, params: Any) -> None:
    client = make_client(started=False, queue=100_000)
    for path, content in [
        ("/v1/workflows/pictures", {"params": params, "nodes": nodes, "wait": False, **body}),
        ("/v1/workflows/pictures", {"params": body, "nodes": nodes, "wait": False}),
    ]:
        answer = client.post(path, content=json.dumps(content), headers={"content-type": "application/json"})
        assert answer.status_code in (202, 400), answer.text
