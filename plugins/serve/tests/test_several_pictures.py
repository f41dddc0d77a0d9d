"""Several pictures of a bundle without a batch: a run for each seed, in one answer."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from guidegraph_runtime import Bundle, pixels
from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.observers import ServeMetrics
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from plugins.serve.tests.conftest import CPU
from plugins.serve.tests.described import Description
from tests.runtime.running.bundles import seal_manifest
from tests.runtime.running.loop_bundle import JOINS, write_loop_bundle

IMAGES = "/v1/images/generations"


def fix_inputs(folder: Path, name: str, **values: int) -> Path:
    """Take inputs from a bundle, whose plan then has their values as settings, and name it."""
    file = folder / "bundle.json"
    manifest = json.loads(file.read_text())
    del manifest["digest"]
    manifest["name"] = name
    operations = [*manifest["plan"], *(inner for op in manifest["plan"] for inner in op.get("body", []))]
    for key, value in values.items():
        del manifest["inputs"][key]
        for operation in operations:
            for port in [port for port, source in operation["in"].items() if source == f"params.{key}"]:
                del operation["in"][port]
                operation["with"][port] = value
    file.write_bytes(seal_manifest(manifest))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles that draw one picture, two pictures, and one picture without a seed."""
    root = tmp_path_factory.mktemp("several")
    fixed: dict[str, dict[str, int]] = {"one": {"batch": 1}, "two": {"batch": 2}, "seedless": {"batch": 1, "seed": 5}}
    return {
        key: fix_inputs(write_loop_bundle(root / key, joins=JOINS, picture=True), f"{key} pictures", **values)
        for key, values in fixed.items()
    }


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    service = Service(folders, CPU, ServeOptions(batch=8, queue=4))
    service.start()
    with make_client(service) as made:
        yield made
    service.stop()


def make_client(service: Service) -> TestClient:
    app = ServeRoutes(service, ServeMetrics().read).make_app(ServeAccess())
    client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
    client.service = service  # type: ignore[attr-defined]
    client.event_hooks = {"response": [Description(app).check_answer]}
    return client


def read_pictures(answer: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))) for entry in answer["data"]]


@pytest.mark.parametrize(("name", "count"), [("one", 1), ("one", 3), ("two", 1), ("two", 4), ("two", 5)])
def test_n_pictures_are_those_of_the_seeds_that_follow(
    client: TestClient, folders: dict[str, Path], name: str, count: int
) -> None:
    answer = client.post(IMAGES, json={"model": name, "n": count, "seed": 7, "steps": 4})
    assert answer.status_code == 200, answer.text
    pictures = read_pictures(answer.json())
    bundle, samples = Bundle(folders[name], CPU), {"one": 1, "two": 2}[name]
    seeds = range(7, 7 + count, samples)
    expected = [picture for seed in seeds for picture in bundle.run(seed=seed, steps=4)["image"]][:count]
    for picture, image in zip(pictures, expected, strict=True):
        assert np.abs(np.asarray(picture).astype(int) - pixels(image)).max() <= 2
    texts = [json.loads(picture.info["guidegraph-bundle"]) for picture in pictures]
    assert [text["inputs"]["seed"] for text in texts] == [seed for seed in seeds for _ in range(samples)][:count]


def test_without_n_all_pictures_of_a_run_are_in_the_answer(client: TestClient) -> None:
    counts = [len(client.post(IMAGES, json={"model": name, "steps": 2}).json()["data"]) for name in ("one", "two")]
    assert counts == [1, 2]
    assert len(client.post(IMAGES, json={"model": "seedless", "n": 1, "steps": 2}).json()["data"]) == 1


def test_the_default_seed_is_the_first(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"model": "one", "n": 2, "steps": 2}).json()
    texts = [json.loads(picture.info["guidegraph-bundle"]) for picture in read_pictures(answer)]
    assert [text["inputs"]["seed"] for text in texts] == [3, 4]


def test_each_picture_is_a_job(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"model": "one", "n": 3, "steps": 2})
    jobs = answer.headers["x-job-id"].split(", ")
    assert [client.get(f"/v1/jobs/{job}").json()["status"] for job in jobs] == ["done"] * 3


@pytest.mark.parametrize(
    ("body", "status", "param", "text"),
    [
        ({"n": 9}, 400, "n", "draws 9 pictures, and this server allows 8"),
        ({"n": 0}, 400, "n", "n of at least 1"),
        ({"n": 2, "seed": "a"}, 400, "seed", "one whole number as the seed"),
        ({"n": 2, "seed": 2**64 - 1}, 400, "seed", "a seed must be from 0 to 2**64 - 1"),
        ({"model": "seedless", "n": 2}, 400, "n", "has neither an input 'batch' nor 'seed'"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_job(
    client: TestClient, body: dict[str, Any], status: int, param: str | None, text: str
) -> None:
    answer = client.post(IMAGES, json={"model": "one", "steps": 2, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert text in error["message"]
    service: Service = client.service  # type: ignore[attr-defined]
    assert service.is_idle


def test_more_pictures_than_the_queue_holds_are_refused_and_leave_no_job(folders: dict[str, Path]) -> None:
    service = Service(folders, CPU, ServeOptions(batch=8, queue=4))  # not started, so that no job ends meanwhile
    with make_client(service) as client:
        answer = client.post(IMAGES, json={"model": "one", "n": 6, "steps": 2})
    assert answer.status_code == 429
    assert "4 requests are in the queue" in answer.json()["error"]["message"]
    assert service.is_idle


def test_a_bundle_has_the_name_of_its_workflow_too(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"model": "one pictures", "steps": 2})
    assert answer.status_code == 200, answer.text
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["one", "two", "seedless"]
    assert client.get("/v1/workflows/two%20pictures").json()["name"] == "two"
