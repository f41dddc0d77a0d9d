"""The OpenAPI document: it is valid, has every route, and describes what the server accepts and what it refuses.

Every client of ``make_client`` compares its requests and answers with the document too.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.routing import Route

from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.declare.settings import Range
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.inputs import check_value
from guidegraph_serve.jobs import RequestRefused
from guidegraph_serve.observers import ServeMetrics
from guidegraph_serve.service import Service
from guidegraph_serve.uploads import decode_files
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.openapi import describe_value
from guidegraph_serve.web.routes import ServeRoutes
from plugins.serve.tests.conftest import CPU, MakeService, encode_picture
from plugins.serve.tests.described import Description

MAP = base64.b64encode(encode_picture(np.array([[0, 1, 2]]))).decode()


@pytest.fixture
def described(make_service: MakeService) -> Description:
    """The document of a server with three bundles and a token."""
    service = make_service(started=False, with_edits=True)
    return Description(ServeRoutes(service, ServeMetrics().read).make_app(ServeAccess("secret")))


def test_the_document_is_valid_openapi(described: Description) -> None:
    assert described.document["openapi"].startswith("3.1")
    validate(described.document)


def test_the_document_has_every_route_and_none_else(make_service: MakeService) -> None:
    app = ServeRoutes(make_service(started=False), ServeMetrics().read).make_app(ServeAccess())
    expected = set()
    for route in app.routes:
        assert isinstance(route, Route)
        for name in ("pictures", "tensors"):
            path = route.path.replace("workflows/{name}", f"workflows/{name}")
            expected |= {(path, method.lower()) for method in (route.methods or set()) - {"HEAD"}}
    paths = Description(app).document["paths"]
    assert {(path, method) for path, item in paths.items() for method in item} == expected


def test_a_token_is_in_the_document_where_there_is_one(described: Description, make_service: MakeService) -> None:
    document = described.document
    assert document["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    paths = document["paths"]
    assert "401" in paths["/v1/models"]["get"]["responses"]
    assert paths["/health/live"]["get"]["security"] == [], "probes need none"
    app = ServeRoutes(make_service(started=False), ServeMetrics().read).make_app(ServeAccess())
    open_document = Description(app).document
    assert "security" not in open_document
    assert "401" not in open_document["paths"]["/v1/models"]["get"]["responses"]


def test_a_bundle_has_a_path_with_its_own_parameters(described: Description) -> None:
    operation = described.document["paths"]["/v1/workflows/edits"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    params = body["properties"]["params"]
    assert (body["required"], params["required"]) == (["params"], ["map"])
    assert params["properties"]["steps"] == {"type": "integer", "default": 5}
    assert params["properties"]["scale"]["type"] == "number"
    assert "base64" in params["properties"]["photo"]["description"]
    assert body["properties"]["deadline"]["anyOf"][0]["maximum"] == 600


@pytest.mark.parametrize(
    ("path", "body", "fits"),
    [
        ("workflows/edits", {"params": {"map": MAP, "steps": 2}, "wait": False}, True),
        ("workflows/edits", {"params": {"map": f"data:image/png;base64,{MAP}"}}, True),
        ("workflows/edits", {"params": {"map": "/etc/hostname."}}, False),
        ("workflows/edits", {"params": {"map": 3}}, False),
        ("workflows/edits", {"params": {}}, False),
        ("workflows/pictures", {}, True),
        ("workflows/pictures", {"params": {"scale": "big"}}, False),
        ("workflows/pictures", {"params": {"skale": 1}}, False),
        ("workflows/pictures", {"params": {"scale": 1e39}}, False),
        ("workflows/pictures", {"prompt": "a cat"}, False),
        ("workflows/pictures", {"priority": 11}, False),
        ("workflows/pictures", {"deadline": 0}, False),
        ("images/generations", {"model": "pictures", "n": 2, "size": "auto", "nodes": {"a.b": 1}}, True),
        ("images/generations", {"model": "pictures", "user": None, "seed": None, "quality": "auto"}, True),
        ("images/generations", {"model": "tensors"}, False),
        ("images/generations", {"steps": 2}, False),
        ("images/generations", {"model": "pictures", "n": True}, False),
        ("images/generations", {"model": "pictures", "size": "64x64"}, False),
        ("images/generations", {"model": "pictures", "stream": True, "partial_images": 4}, False),
        ("images/generations", {"model": "pictures", "response_format": "url"}, False),
        ("images/edits", {"model": "edits", "image": MAP, "map": MAP, "prompt": "a fox"}, True),
        ("images/edits", {"model": "edits", "image": [MAP], "map": MAP}, True),
        ("images/edits", {"model": "edits", "image": [MAP, MAP], "map": MAP}, False),
        ("images/edits", {"model": "edits", "map": MAP}, False),
        ("images/edits", {"model": "pictures", "image": MAP}, False),
    ],
)
def test_a_body_fits_the_document_as_it_fits_the_server(
    described: Description, path: str, body: Any, fits: bool
) -> None:
    operation = described.find_operation("POST", f"/v1/{path}")
    assert operation is not None
    assert (described.list_body_errors(operation, body) == []) == fits


def test_a_single_bundle_need_not_be_named_and_has_the_name_of_its_workflow_too(pictures: Path) -> None:
    service = Service({"my pictures": pictures}, CPU)
    described = Description(ServeRoutes(service, ServeMetrics().read).make_app(ServeAccess()))
    validate(described.document)
    operation = described.find_operation("POST", "/v1/images/generations")
    assert operation is not None
    names = [{}, {"model": None}, {"model": "my pictures"}, {"model": "loop"}, {"model": "pictures"}]
    assert [described.list_body_errors(operation, body) == [] for body in names] == [True, True, True, True, False]
    assert "/v1/workflows/my%20pictures" in described.document["paths"]


def test_a_form_of_an_edit_has_files(described: Description) -> None:
    content = described.document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]
    assert form["schema"]["title"] == "edits"
    assert form["schema"]["properties"]["map"]["format"] == "binary"
    assert form["encoding"]["nodes"]["style"] == "deepObject"


NUMBERS = st.integers(-9, 9) | st.floats(-9, 9).filter(lambda number: not number.is_integer())
ONE = st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "a", "b"])
VALUES = st.recursive(ONE, lambda values: st.lists(values, max_size=3), max_leaves=4)
NO_BOUND = st.none()
BOUNDS = st.builds(
    Range, NO_BOUND | st.just(-3), above=NO_BOUND, high=NO_BOUND | st.just(4), below=NO_BOUND
) | st.builds(Range, NO_BOUND, above=st.just(0), high=NO_BOUND, below=st.just(5))
SPECS = st.builds(
    Input,
    type=st.sampled_from(["str", "int", "float", "bool", "numbers"]),
    required=st.booleans(),
    many=st.booleans(),
    optional=st.booleans(),
) | st.one_of(
    st.builds(Input, type=st.sampled_from(["int", "float"]), required=st.just(True), many=st.booleans(), bounds=BOUNDS),
    st.builds(Input, type=st.just("str"), required=st.just(True), many=st.booleans(), choices=st.just(("a", "b"))),
    st.builds(Input, type=st.just("int"), required=st.just(True), many=st.booleans(), choices=st.just((1, 2))),
)


TEXTS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "data:image/png;base64,", "data:;base64,", "data:image/png,", "data:a,b;base64,"]),
    st.text("aZ9+/=.-_ ", max_size=9) | st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode()),
)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("9999=")
@example("9999====")
def test_the_schema_of_a_file_takes_the_texts_that_are_decoded(text: str) -> None:
    spec = Input("image", required=True)
    try:
        decode_files({"x": spec}, {"x": text})
        is_decoded = True
    except RequestRefused:
        is_decoded = False
    assert Draft202012Validator(describe_value(spec)).is_valid(text) == is_decoded


def accepts(spec: Input, value: Any) -> bool:
    try:
        check_value("x", spec, value, "the bundle")
    except BundleError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(SPECS, VALUES)
def test_the_schema_of_an_input_takes_what_the_check_of_it_takes(spec: Input, value: Any) -> None:
    schema = describe_value(spec)
    assert Draft202012Validator(schema).is_valid(value) == accepts(spec, value), schema
