"""Compare requests and answers with the OpenAPI document of their server."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.applications import Starlette
from starlette.testclient import TestClient

ROOT = "urn:server"
JSON = "application/json"
TYPE_ERRORS = ("bad-value", "unknown-input", "fixed-input", "missing-input")
"""The codes of what is wrong with one parameter; operations use the first one too."""


def read_document(app: Any) -> dict[str, Any]:
    """The document of an application, with the token "secret" if it has one."""
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    answer = client.get("/openapi.json", headers={"authorization": "Bearer secret"})
    document: dict[str, Any] = answer.json()
    return document


class Description:
    """The document of a server, against which a client's requests and answers are compared."""

    def __init__(self, app: Starlette) -> None:
        self.document = read_document(app)
        resource = Resource.from_contents(self.document, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(ROOT, resource)

    def find_operation(self, method: str, path: str) -> dict[str, Any] | None:
        """The operation of a request; None for a path or method that the document does not have."""
        paths = self.document["paths"]
        quoted = quote(path)
        if quoted in paths:
            found = paths[quoted]
        else:
            parts = quoted.split("/")
            found = next((item for key, item in paths.items() if _fits(key.split("/"), parts)), {})
        operation: dict[str, Any] | None = found.get(method.lower())
        return operation

    def list_body_errors(self, operation: dict[str, Any], body: Any, kind: str = JSON) -> list[str]:
        """What is wrong with the body of a request."""
        return self._list_errors(operation["requestBody"]["content"][kind]["schema"], body)

    def _list_errors(self, schema: dict[str, Any], value: Any) -> list[str]:
        text = json.dumps(schema).replace('"#/', f'"{ROOT}#/')
        validator = Draft202012Validator(json.loads(text), registry=self._registry)
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    def check_answer(self, response: httpx.Response) -> None:
        """Fail if a request or its answer is not as the document says."""
        request = response.request
        operation = self.find_operation(request.method, request.url.path)
        if operation is None:
            return
        kind = response.headers.get("content-type", "").partition(";")[0]
        described = operation["responses"].get(str(response.status_code))
        assert described is not None, f"{request.method} {request.url.path}: {response.status_code} is not described"
        assert kind in described["content"], kind
        if kind != JSON:
            return
        response.read()
        assert self._list_errors(described["content"][kind]["schema"], response.json()) == []
        if request.headers.get("content-type") == JSON:
            self._check_body(operation, request.read(), response)

    def _check_body(self, operation: dict[str, Any], content: bytes, response: httpx.Response) -> None:
        try:
            body = json.loads(content)
        except ValueError:
            return
        errors = self.list_body_errors(operation, body)
        if response.is_success:
            assert errors == [], f"accepted: {body!r:.300}"
        elif response.status_code == 400 and response.json()["error"]["code"] in TYPE_ERRORS:
            error = response.json()["error"]
            is_type = error["message"].startswith(
                (f"'{error['param']}': expected", "no input", f"'{error['param']}' (")
            )
            assert errors or not is_type or _has_whole_float(body), f"refused: {error}, {body!r:.300}"


def _fits(pattern: list[str], parts: list[str]) -> bool:
    return len(pattern) == len(parts) and all(
        key == part or key.startswith("{") for key, part in zip(pattern, parts, strict=True)
    )


def _has_whole_float(value: Any) -> bool:
    """Whether a value contains a number such as 2.0, which JSON Schema takes for an integer."""
    if isinstance(value, dict):
        return any(map(_has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_float, value))
    return isinstance(value, float) and value.is_integer()
