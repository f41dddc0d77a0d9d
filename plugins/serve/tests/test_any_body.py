"""Whatever JSON a client sends, it is answered, and never with an error of the server itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugins.serve.tests.conftest import MakeClient

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


@pytest.mark.parametrize(
    ("content", "param", "words"),
    [
        ('{"deadline": ' + "9" * 400 + "}", "deadline", "expected an integer from -2**64 to 2**64, found '999"),
        ('{"params": {"scale": ' + "9" * 400 + "}}", "scale", "expected an integer from -2**64"),
        ('{"params": {"scale": 1e400}}', "scale", "expected a finite number, found '1e400'"),
        ('{"params": {"scale": NaN}}', "scale", "expected a finite number, found NaN (in 'scale')"),
        ('{"nodes": {"noise.shape": [[-Infinity]]}}', "noise.shape", "expected a finite number, found -Infinity"),
        ('{"params": {"seed": ' + "[" * 90 + "]" * 90 + "}}", "seed", "expected at most 32 levels of lists"),
        ('{"nodes": {"a.b": ' + "[" * 50 + "]" * 50 + "}}", "a.b", "expected at most 32 levels"),
        ('{"params": {"seed": 1, "seed": 2}}', "seed", "expected each key once, found 'seed' twice"),
        ('{"params": {"seed": "\\ud800"}}', "seed", "expected text, found half a surrogate pair"),
        ('{"params": {"\\ud800": 1}}', "params", "expected text, found half a surrogate pair"),
        ("NaN", None, "expected a finite number, found NaN"),
    ],
)
def test_json_that_no_request_needs_is_refused_by_name(
    make_client: MakeClient, content: str, param: str | None, words: str
) -> None:
    client = make_client(started=False)
    answer = client.post("/v1/workflows/pictures", content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "bad-json", param)
    assert error["message"].startswith(words)
