"""Pictures, masks and maps that a request carries: as forms, data URLs and base64, and never as paths."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load
from starlette.testclient import TestClient

from guidegraph_serve.jobs import DrawRequest, RequestRefused
from guidegraph_serve.web import bodies
from plugins.serve.tests.conftest import MakeClient, MakeService, encode_picture
from plugins.serve.tests.test_routes import read_picture, service_of

EDITS = "/v1/images/edits"
PHOTO = np.arange(4 * 6 * 3).reshape(4, 6, 3)
MAP = np.array([[0, 1, 2]])


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make_edits(make_client: MakeClient, **options: Any) -> TestClient:
    return make_client(with_edits=True, **options)


def run(client: TestClient, **params: Any) -> Any:
    params = {"map": as_text(encode_picture(MAP)), "steps": 2, "batch": 1, **params}
    return client.post("/v1/workflows/edits", json={"params": params})


def read_tensor(answer: Any, name: str) -> Any:
    return load(base64.b64decode(answer.json()["outputs"][name]["safetensors"]))[name]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "data:;base64,"])
def test_a_picture_of_a_json_body_is_base64_or_a_data_url(make_client: MakeClient, head: str) -> None:
    client = make_edits(make_client)
    mask = encode_picture(np.array([[255, 0]]))
    answer = run(client, photo=head + as_text(encode_picture(PHOTO)), mask=head + as_text(mask))
    assert answer.status_code == 200, answer.text
    picture = read_picture(answer.json()["outputs"]["photo"]["data"][0])
    assert np.array_equal(np.asarray(picture), PHOTO)
    record = json.loads(picture.info["guidegraph-bundle"])  # type: ignore[attr-defined]
    assert record["inputs"]["photo"].startswith("sha256:"), "the record has no picture, and no path"
    assert read_tensor(answer, "mask").tolist() == [[[[1, 0]]]]
    assert read_tensor(answer, "map").argmax(1).tolist() == [MAP.tolist()]


def test_without_a_picture_the_bundles_own_is_taken(make_client: MakeClient) -> None:
    picture = np.asarray(read_picture(run(make_edits(make_client)).json()["outputs"]["photo"]["data"][0]))
    assert picture.shape == (4, 6, 3)
    assert (picture == 128).all()


def test_the_parameters_that_are_pictures_are_listed_by_type(make_client: MakeClient) -> None:
    params = make_edits(make_client).get("/v1/workflows/edits").json()["params"]
    assert {name: params[name]["type"] for name in ("photo", "mask", "map")} == {
        "photo": "image",
        "mask": "mask",
        "map": "map",
    }
    assert params["map"]["required"]
    assert "default" not in params["photo"], "the name of a file of the bundle is of no use to a client"


@pytest.mark.parametrize(
    ("photo", "status", "code", "words"),
    [
        ("/etc/hostname.", 400, "bad-request", "a data URL or in base64, found '/etc/hostname.'"),
        ("../photo.png", 400, "bad-request", "the server reads no files"),
        ("data:image/png,abc", 400, "bad-request", "expected a data URL in base64"),
        (3, 400, "bad-request", "found 3"),
        (["aaaa"], 400, "bad-request", "found ['aaaa']"),
        (as_text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 400, "bad-picture", "as PNG, JPEG, WEBP"),
        (as_text(b""), 400, "bad-picture", "found 0 bytes"),
        (as_text(encode_picture(np.zeros((65, 64)))), 413, "too-large", "65 = 4,160 pixels; the limit is 4,096"),
        (
            as_text(encode_picture(PHOTO).partition(b"IDAT")[0] + b"IDATtorn"),
            400,
            "refused",
            "cannot be read as a picture",
        ),
    ],
)
def test_what_is_no_picture_is_refused_before_it_is_decoded(
    make_client: MakeClient, photo: Any, status: int, code: str, words: str
) -> None:
    client = make_edits(make_client, started=False, pixels=4096)
    answer = run(client, photo=photo)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert words in error["message"]
    assert error["param"] == "photo" or code == "refused"
    assert "raise it" not in error["message"], "a client cannot change the server's limits"
    assert service_of(client).is_idle


def test_a_file_that_each_run_needs_is_asked_for(make_client: MakeClient) -> None:
    answer = make_edits(make_client, started=False).post("/v1/workflows/edits", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "map")


def test_no_path_reaches_a_bundle(make_service: MakeService, tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(encode_picture(MAP))
    service = make_service(started=False, with_edits=True)
    for value in (str(tmp_path / "map.png"), tmp_path / "map.png"):
        with pytest.raises(RequestRefused, match="'map': expected the contents of a file"):
            service.submit(DrawRequest("edits", {"map": value}))


def test_a_form_carries_pictures_and_fields_of_all_types(make_client: MakeClient) -> None:
    client = make_edits(make_client)
    answer = client.post(
        EDITS,
        data={
            "model": "edits",
            "prompt": "7",
            "n": "1",
            "seed": "4",
            "steps": "2",
            "scale": "0.5",
            "nodes[scheduler.use]": "scheduler.heun",
            "response_format": "b64_json",
        },
        files={"image": encode_picture(PHOTO), "map": ("map.png", encode_picture(MAP), "image/png")},
    )
    assert answer.status_code == 200, answer.text
    picture = read_picture(answer.json()["data"][0])
    assert np.array_equal(np.asarray(picture), PHOTO), "'image' sets the only input that is a picture"
    record = json.loads(picture.info["guidegraph-bundle"])  # type: ignore[attr-defined]
    assert record["nodes"] == {"scheduler.use": "scheduler.heun"}
    values = {name: record["inputs"][name] for name in ("seed", "steps", "scale", "prompt", "batch")}
    assert values == {"seed": 4, "steps": 2, "scale": 0.5, "prompt": "7", "batch": 1}


def test_transparent_pixels_of_an_openai_mask_are_drawn_anew(make_client: MakeClient) -> None:
    rgba = np.full((1, 3, 4), 255, np.uint8)
    rgba[0, :, 3] = (255, 0, 255)  # the middle is transparent, and everything is white
    client = make_edits(make_client)
    jobs = service_of(client).jobs
    files = {"image": encode_picture(PHOTO), "mask": encode_picture(rgba), "map": encode_picture(MAP)}
    answer = client.post(EDITS, data={"model": "edits", "steps": "2"}, files=files)
    job = jobs.find(answer.headers["x-job-id"])
    assert job is not None
    mask = load(base64.b64decode(job.outputs["mask"]["safetensors"]))["mask"]
    assert mask.tolist() == [[[[0, 1, 0]]]]


@pytest.mark.parametrize(
    ("files", "data", "param", "words"),
    [
        ({}, {}, "image", "expected a picture in 'image'"),
        ({"image": b"no picture"}, {}, "photo", "expected a picture as PNG"),
        ([("image[]", b"a"), ("image[]", b"b")], {}, "image", "takes one picture, found 2"),
        ({"image": encode_picture(PHOTO)}, {"steps": "many"}, "steps", "expected an integer"),
        ({"image": encode_picture(PHOTO)}, {"n": "two"}, "n", "a whole number, found 'two'"),
        ({"image": encode_picture(PHOTO)}, {"map": "/etc/passwd"}, "map", ""),
        ({"image": encode_picture(PHOTO), "photo": b"another"}, {}, "image", "sets 'photo' to"),
    ],
)
def test_a_wrong_form_is_refused_by_field(
    make_client: MakeClient, files: Any, data: dict[str, str], param: str, words: str
) -> None:
    client = make_edits(make_client, started=False)
    answer = client.post(EDITS, data={"model": "edits", **data}, files=files or {"other": b""})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]


def test_a_bundle_without_pictures_takes_no_edits(make_client: MakeClient) -> None:
    client = make_edits(make_client, started=False)
    answer = client.post(EDITS, data={"model": "pictures"}, files={"image": encode_picture(PHOTO)})
    assert answer.json()["error"]["message"] == "'image': 'pictures' has no input of that type"


def test_bodies_with_pictures_are_bounded_and_other_parameters_more_so(make_client: MakeClient) -> None:
    client = make_edits(make_client, started=False, upload_bytes=5000, body_bytes=500)
    answer = client.post(EDITS, data={"model": "edits"}, files={"image": b"a" * 5000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")
    answer = run(client, prompt="a" * 600)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")
    for content, kind in ((b"--x\r\nno head", "multipart/form-data; boundary=x"), (b"", "multipart/form-data")):
        answer = client.post(EDITS, content=content, headers={"content-type": kind})
        assert answer.status_code == 400
    body = json.dumps({"params": {"x": [[]] * 70_000}}).encode()
    client = make_edits(make_client, started=False)
    answer = client.post("/v1/workflows/edits", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        413,
        "expected at most 65536 commas and brackets",
    )


def test_the_files_of_requests_that_are_being_checked_are_bounded(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while they are read alone: the checks, which decode pictures, take longer."""
    client = make_edits(make_client, started=False, upload_bytes=5000, body_bytes=5000)
    checks, files = service_of(client).checks, {"image": b"a" * 4000}
    second: list[Any] = []

    def check(request: DrawRequest) -> Any:
        if not second:
            second.append(None)
            second[0] = client.post(EDITS, data={"model": "edits"}, files=files)
        raise RequestRefused("checked")

    monkeypatch.setattr(bodies, "BODIES", 1)
    monkeypatch.setattr(checks, "check", check)
    body = {"params": {"map": as_text(b"a" * 3000)}}
    assert client.post("/v1/workflows/edits", json=body).json()["error"]["message"] == "checked"
    answer = second[0]
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (429, "busy", "1")
    assert client.post("/v1/workflows/edits", json=body).json()["error"]["message"] == "checked"


def test_the_files_of_the_queue_are_bounded_and_go_with_their_job(make_service: MakeService) -> None:
    service = make_service(started=False, with_edits=True, run_memory=70_000)
    request = DrawRequest("edits", {"map": encode_picture(MAP), "photo": encode_picture(np.zeros((40, 40, 3)))})
    job = service.submit(request)  # its picture takes 19.2 kB as floats, and its tables 10 kB
    service.submit(request)
    with pytest.raises(RequestRefused, match="take all of their memory") as refused:
        service.submit(request)
    assert (refused.value.status, refused.value.retry_after > 0) == (429, True)
    service.cancel(job)
    assert (job.held, job.params) == (0, {})
    service.submit(request)


def test_pictures_are_streamed_with_those_of_the_unfinished_sample(make_client: MakeClient) -> None:
    client = make_client()
    body = {"model": "pictures", "steps": 8, "n": 2, "seed": 3, "stream": True, "partial_images": 3}
    with client.stream("POST", "/v1/images/generations", json=body) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(stream.iter_text()).strip().split("\n\n")
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    contents = [json.loads(event["data"]) for event in events]
    assert [event["event"] for event in events] == [content["type"] for content in contents]
    assert [event["event"].partition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"] * 2
    assert [content["partial_image_index"] for content in contents[:3]] == [0, 1, 2]
    assert {content["size"] for content in contents} == {"5x3"}
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(content["b64_json"])))) for content in contents]
    whole = client.post("/v1/images/generations", json={"model": "pictures", "steps": 8, "n": 2, "seed": 3}).json()
    for streamed, entry in zip(pictures[3:], whole["data"], strict=True):
        assert np.abs(streamed.astype(int) - np.asarray(read_picture(entry))).max() <= 2
    assert not np.array_equal(pictures[0], pictures[3])


def test_a_stream_that_fails_ends_with_the_error(make_client: MakeClient) -> None:
    client = make_client()
    body = {"model": "pictures", "scale": 1e38, "stream": True}
    text = client.post("/v1/images/generations", json=body).text
    name, data = text.strip().splitlines()
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "output-failed"


def test_a_reader_of_a_stream_that_goes_away_ends_its_jobs(make_client: MakeClient) -> None:
    client = make_client(started=False)
    answer = client.post("/v1/images/generations", json={"model": "pictures", "stream": True, "steps": 0})
    assert answer.status_code == 400, "what is refused is an answer, and no stream"


def test_a_damaged_mask_is_refused(make_client: MakeClient) -> None:
    """Its head is right, so it is found when it is decoded."""
    mask = encode_picture(np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8))
    files = {"image": encode_picture(PHOTO), "mask": mask[: len(mask) // 2]}
    answer = make_edits(make_client, started=False).post(EDITS, data={"model": "edits"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mask")


def test_a_form_in_another_charset_is_refused(make_client: MakeClient) -> None:
    """Some of Python's codecs take a time that grows with the square of a text."""
    client = make_edits(make_client, started=False)
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nabc-' + b"a" * 1000 + b"\r\n--b--\r\n"
    for charset, status in (("punycode", 415), ("UTF-8", 404)):
        head = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
        assert client.post(EDITS, content=body, headers=head).status_code == status


def test_json_in_a_form_has_as_many_values_as_in_a_body(make_client: MakeClient) -> None:
    data = {"model": "edits", "nodes[a.b]": "[" + "[]," * 70_000 + "[]]"}
    answer = make_edits(make_client, started=False).post(EDITS, data=data, files={"image": encode_picture(PHOTO)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")
