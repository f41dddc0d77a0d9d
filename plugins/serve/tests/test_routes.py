"""The routes: pictures in OpenAI's dialect, workflows, jobs and their events, and errors."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load
from starlette.testclient import TestClient

from guidegraph_runtime import Bundle, pixels
from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_serve.jobs import DrawRequest, Job, JobStore, RequestRefused
from guidegraph_serve.observers import EventLog, ServeMetrics
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from plugins.serve.tests.conftest import MakeClient, MakeService

IMAGES = "/v1/images/generations"


def read_picture(entry: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))


def service_of(client: TestClient) -> Service:
    service: Service = client.service  # type: ignore[attr-defined]
    return service


def wait_for_job(client: TestClient, key: str) -> dict[str, Any]:
    job = service_of(client).jobs.find(key)
    assert job is not None
    assert job.ended.wait(30)
    answer: dict[str, Any] = client.get(f"/v1/jobs/{key}").json()
    return answer


def test_pictures_are_those_of_the_bundle_alone(make_client: MakeClient, alone: Bundle) -> None:
    client = make_client()
    answer = client.post(IMAGES, json={"model": "pictures", "n": 3, "seed": 7, "steps": 4, "scale": 0.7, "user": "me"})
    assert answer.status_code == 200, answer.text
    images = alone.run(batch=3, seed=7, steps=4, scale=0.7)["image"]
    data = answer.json()["data"]
    assert len(data) == 3
    for entry, image in zip(data, images, strict=True):
        picture = np.asarray(read_picture(entry)).astype(int)
        assert np.abs(picture - pixels(image)).max() <= 2
        assert pixels(image).std() > 1


def test_the_number_of_pictures_may_be_said_twice(make_client: MakeClient) -> None:
    answer = make_client().post(IMAGES, json={"model": "pictures", "n": 2, "batch": 2, "steps": 2})
    assert len(answer.json()["data"]) == 2


def test_the_picture_carries_what_repeats_it(make_client: MakeClient) -> None:
    client = make_client()
    nodes = {"scheduler.use": "scheduler.heun"}
    answer = client.post(IMAGES, json={"model": "pictures", "seed": 5, "nodes": nodes}).json()
    text = json.loads(read_picture(answer["data"][0]).info["guidegraph-bundle"])
    assert (text["inputs"]["seed"], text["nodes"], text["bundle"]["name"]) == (5, nodes, "loop")


def test_unlike_requests_at_once_are_each_as_alone(make_client: MakeClient, alone: Bundle) -> None:
    client = make_client()
    requests: list[dict[str, Any]] = [
        {"params": {"seed": i, "steps": 2 + i % 5, "scale": 0.1 * i, "batch": 1 + i % 3}, "wait": False}
        for i in range(12)
    ]
    samplers = ("scheduler.ddim", "scheduler.heun", "scheduler.ddpm")
    for i, request in enumerate(requests):
        request["nodes"] = {"scheduler.use": samplers[i % 3]}
    keys = [client.post("/v1/workflows/pictures", json=request).json()["id"] for request in requests]
    for request, key in zip(requests, keys, strict=True):
        data = wait_for_job(client, key)["outputs"]["image"]["data"]
        images = alone.run_with(request["params"], nodes=request["nodes"])["image"]
        for entry, image in zip(data, images, strict=True):
            assert np.abs(np.asarray(read_picture(entry)).astype(int) - pixels(image)).max() <= 2


def test_a_workflow_answers_with_its_outputs(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.post("/v1/workflows/tensors", json={"params": {"batch": 1, "steps": 3}}).json()
    assert (answer["status"], answer["step"], answer["steps"]) == ("done", 3, 3)
    tensor = load(base64.b64decode(answer["outputs"]["path"]["safetensors"]))["path"]
    assert tensor.shape == (3, 1, 2, 3, 5)


def test_the_parameters_of_a_workflow_are_listed(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.get("/v1/workflows/pictures").json()
    assert answer["params"]["scale"] == {"type": "float", "required": False, "help": "", "default": 0.5}
    assert answer["outputs"] == {"image": {"type": "image"}}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["pictures", "tensors"]
    assert client.get("/v1/models/tensors").json()["object"] == "model"


def test_a_job_that_nobody_waits_for(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.post("/v1/workflows/pictures", json={"wait": False, "priority": 2, "deadline": 20})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert wait_for_job(client, answer.json()["id"])["status"] == "done"


def test_events_tell_the_progress_with_previews_and_the_end(make_client: MakeClient, alone: Bundle) -> None:
    client = make_client(started=False, steps=1000)
    service = service_of(client)
    key = client.post("/v1/workflows/pictures", json={"wait": False, "params": {"steps": 500}}).json()["id"]
    job = service.jobs.find(key)
    assert job is not None

    def start_when_watched() -> None:
        while not job.needs_previews and not job.ended.is_set():
            time.sleep(0.01)
        service.start()

    starter = Thread(target=start_when_watched)
    starter.start()
    try:
        with client.stream("GET", f"/v1/jobs/{key}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            blocks = "".join(stream.iter_text()).strip().split("\n\n")
    finally:
        service.cancel(job)  # so that the starter ends also if nobody has watched
        starter.join()
        service.stop()
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    assert {event["event"] for event in events[:-1]} == {"progress", "preview"}
    steps = [json.loads(event["data"])["step"] for event in events if event["event"] != "preview"]
    assert steps == sorted(steps)
    end = json.loads(events[-1]["data"])
    assert (events[-1]["event"], end["status"], end["step"]) == ("end", "done", 500)
    assert len(end["outputs"]["image"]["data"]) == 2
    preview = next(json.loads(event["data"]) for event in events if event["event"] == "preview")
    run = alone.start(steps=500)
    for _ in range(preview["step"]):
        alone.step([run])
    first, second = run.read_carries()["x"][0]
    expected = pixels(np.stack([first, second / 2, np.full_like(first, 0.25)]).clip(-1, 1))
    assert np.abs(np.asarray(read_picture(preview)).astype(int) - expected).max() <= 2


def test_old_outputs_are_forgotten_when_a_job_ends_also_if_nobody_sends_another(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidegraph_serve.job_service.JobStore", partial(JobStore, max_bytes=1))
    service = make_service(started=False)
    jobs = [service.submit(DrawRequest("pictures", {})) for _ in range(3)]
    assert all(service.jobs.find(job.id) for job in jobs)
    service.start()
    for job in jobs:
        assert job.ended.wait(30)
    service.stop()
    assert [job.status for job in jobs] == ["done"] * 3
    assert sum(service.jobs.find(job.id) is not None for job in jobs) == 1


def test_a_job_is_cancelled(make_client: MakeClient) -> None:
    client = make_client(started=False)
    key = client.post("/v1/workflows/pictures", json={"wait": False}).json()["id"]
    answer = client.delete(f"/v1/jobs/{key}").json()
    assert (answer["status"], answer["error"]["code"]) == ("cancelled", "cancelled")
    assert client.get(f"/v1/jobs/{key}").json()["status"] == "cancelled"
    assert client.get("/v1/jobs/unknown").status_code == 404


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({"model": "picture"}, "model", "did you mean 'pictures'"),
        ({}, "model", "expected the name of a bundle: pictures, tensors"),
        ({"model": 3}, "model", "expected the name of a bundle"),
        ({"model": "tensors"}, "model", "draws no picture"),
        ({"model": "pictures", "scale": "big"}, "scale", "expected a number"),
        ({"model": "pictures", "skale": 1}, "skale", "did you mean 'scale'"),
        ({"model": "pictures", "n": 0}, "n", "at least 1"),
        ({"model": "pictures", "n": True}, "n", "a whole number"),
        ({"model": "pictures", "n": 2, "batch": 3}, "n", "sets 'batch' to 2, and the request has 3"),
        ({"model": "pictures", "n": 1, "batch": 3}, "n", "sets 'batch' to 1, and the request has 3"),
        ({"model": "pictures", "n": 9}, "n", "draws 9 samples at once, and this server allows 8"),
        ({"model": "pictures", "steps": 300}, "steps", "takes 300 steps, and this server allows 200"),
        (
            {"model": "pictures", "steps": 4, "nodes": {"scheduler.steps": 300}},
            "scheduler.steps",
            "takes 300 steps, and this server allows 200",
        ),
        ({"model": "pictures", "nodes": {"noise.batch": 9}}, "noise.batch", "draws 9 samples at once"),
        ({"model": "pictures", "steps": 0}, "steps", "a whole number of at least 1"),
        ({"model": "pictures", "steps": 20_000}, "steps", "it takes 20000 steps, and this server allows 200"),
        ({"model": "pictures", "seed": 2**64 - 1, "n": 2}, "seed", "a seed must be from 0 to 2**64 - 1"),
        (
            {"model": "pictures", "nodes": {"scheduler.eta": -1}},
            "scheduler.eta",
            "eta: expected a number of at least 0",
        ),
        ({"model": "pictures", "nodes": {"noise.steps": 1}}, "noise.steps", "no setting 'steps'"),
        ({"model": "pictures", "response_format": "url"}, "response_format", "'b64_json'"),
        ({"model": "pictures", "size": "64x64"}, "size", "has no inputs width and height"),
        ({"model": "pictures", "stream": "yes"}, "stream", "true or false"),
        ({"model": "pictures", "stream": True, "partial_images": 4}, "partial_images", "expected 0 to 3, found 4"),
        ({"model": "pictures", "priority": 99}, "priority", "from -10 to 10"),
        ({"model": "pictures", "deadline": 1e9}, "deadline", "up to 600 seconds"),
        ({"model": "pictures", "nodes": {"noise.shape": [2, 8000, 8000]}}, None, "this server allows"),
        ({"model": "pictures", "nodes": {"nose.shape": [2, 3, 5]}}, "nose.shape", "no host node 'nose'"),
        (
            {"model": "pictures", "nodes": {"scheduler.use": "noise"}},
            "scheduler.use",
            "no 'noise'; there is: scheduler",
        ),
        ({"model": "pictures", "nodes": {"noise.shape": [2**62]}}, "noise.shape", "it would take at least"),
        ({"model": "pictures", "batch": 2**40}, "batch", "it would take at least"),
        ({"model": "pictures", "steps": 2**63}, "steps", "it would take at least"),
        ({"model": "pictures", "scale": 1e39}, "scale", "expected numbers from -3.4e+38 to 3.4e+38, found 1e+39"),
        ({"model": "pictures", "level": -1e308}, "level", "expected numbers from -3.4e+38 to 3.4e+38, found -1e+308"),
    ],
)
def test_a_bad_request_is_refused_before_it_is_queued(
    make_client: MakeClient, body: dict[str, Any], param: str | None, text: str
) -> None:
    client = make_client(started=False)
    answer = client.post(IMAGES, json=body)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404)
    assert text in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert service_of(client).is_idle


def test_a_node_reads_no_file_of_the_machine(make_client: MakeClient) -> None:
    client = make_client(started=False)
    entry = service_of(client).entries["pictures"]
    photo = Operation("image.load", "photo", settings={"path": {"file": "photo.png"}}, outputs=("photo",))
    manifest = replace(entry.manifest, plan=(photo, *entry.manifest.plan))
    entry.checks._verified = replace(entry.checks._verified, manifest=manifest)
    body: dict[str, Any]
    for body in ({"photo.path": "/etc/passwd"}, {"noise.use": "image.load", "noise.path": "/etc/passwd"}):
        answer = client.post(IMAGES, json={"model": "pictures", "nodes": body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "forbidden-read")


def test_bodies_are_checked(make_client: MakeClient) -> None:
    client = make_client(started=False, body_bytes=100)
    json_type = {"content-type": "application/json"}
    for content, headers, status in [
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{", json_type, 400),
        (b'{"seed": NaN}', json_type, 400),
        (b"[" * 90, json_type, 400),
        (b"[1]", json_type, 400),
        (b"\xff", json_type, 400),
        (b" " * 101, json_type, 413),
        (b"{}", {**json_type, "content-length": "101"}, 413),
        (b"{}", {**json_type, "content-length": "9" * 5000}, 413),
    ]:
        answer = client.post(IMAGES, content=content, headers=headers)
        assert answer.status_code == status, content
        assert answer.json()["error"]["message"]
    assert client.get("/v2").status_code == 404
    assert client.put(IMAGES).status_code == 405
    assert client.get("/v2").json()["error"]["message"] == "GET /v2: Not Found"
    answer = client.post("/v1/workflows/pictures", json={"prompt": "a cat"})
    assert answer.json()["error"] == {
        "message": "there is no field 'prompt'; parameters belong in 'params'",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "bad-request",
    }


@pytest.mark.parametrize(
    ("path", "methods"),
    [("workflows/pictures", "GET, HEAD, POST"), ("jobs/x", "DELETE, GET, HEAD"), ("images/generations", "POST")],
)
def test_a_refused_method_lists_all_that_the_path_takes(make_client: MakeClient, path: str, methods: str) -> None:
    answer = make_client(started=False).put(f"/v1/{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_beyond_the_queue_requests_are_told_when_to_come_again(make_client: MakeClient) -> None:
    client = make_client(started=False, queue=2)
    body = {"wait": False}
    keys = [client.post("/v1/workflows/pictures", json=body).json()["id"] for _ in range(2)]
    answer = client.post("/v1/workflows/pictures", json=body)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"
    client.delete(f"/v1/jobs/{keys[0]}")
    assert client.post("/v1/workflows/pictures", json=body).status_code == 202


def test_while_it_drains_accepted_jobs_end_and_new_ones_are_refused(make_client: MakeClient) -> None:
    client = make_client(started=False)
    service = service_of(client)
    assert client.get("/health/ready").status_code == 200
    key = client.post("/v1/workflows/pictures", json={"wait": False}).json()["id"]
    service.drain()
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    answer = client.post("/v1/workflows/pictures", json={"wait": False})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    service.start()
    assert wait_for_job(client, key)["status"] == "done"
    assert service.is_idle
    service.stop()


def test_a_late_job_is_answered_with_a_timeout(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.post(IMAGES, json={"model": "pictures", "deadline": 1e-6})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


def test_a_picture_that_is_none_is_an_error(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.post(IMAGES, json={"model": "pictures", "scale": 1e38})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "output-failed")
    assert "'image' is not a picture" in answer.json()["error"]["message"]


def test_metrics_count_jobs_steps_and_refusals(make_client: MakeClient) -> None:
    client = make_client()
    client.post(IMAGES, json={"model": "pictures", "steps": 3})
    client.post(IMAGES, json={"model": "pictures", "steps": 999})
    client.post(IMAGES, json={"model": "none"})
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'guidegraph_jobs_accepted_total{bundle="pictures"} 1.0',
        'guidegraph_jobs_ended_total{bundle="pictures",status="done"} 1.0',
        'guidegraph_jobs_open{bundle="pictures"} 0.0',
        'guidegraph_step_samples_count{bundle="pictures"} 3.0',
        'guidegraph_requests_refused_total{code="over-limit"} 1.0',
        'guidegraph_requests_refused_total{code="unknown-bundle"} 1.0',
        'guidegraph_bundle_open{bundle="pictures"} 1.0',
    ):
        assert line in lines, line


def test_the_token_is_asked_for_everywhere_but_at_the_probes(make_client: MakeClient) -> None:
    client = make_client(ServeAccess("secret"), started=False)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
        answer = client.get("/v1/models", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/metrics").status_code == 401
    assert client.get("/health/ready").status_code == 200
    headers = {"authorization": "Bearer secret", "host": "draw.example.org"}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_without_a_token_it_answers_to_this_machine_alone(make_client: MakeClient) -> None:
    client = make_client(started=False)
    for host, status in [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("LocalHost:8000", 200),
        ("[2001:db8::1]", 403),
        ("evil.org:8000", 403),
        ("127.0.0.1.evil.org", 403),
        ("", 403),
    ]:
        assert client.get("/v1/models", headers={"host": host}).status_code == status, host


def test_pages_of_other_sites_need_permission(make_client: MakeClient) -> None:
    client = make_client(ServeAccess(None, ("https://page.org",)), started=False)
    assert client.get("/v1/models", headers={"origin": "https://evil.org"}).status_code == 403
    assert client.get("/v1/models", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    answer = client.get("/v1/models", headers={"origin": "https://page.org"})
    assert answer.headers["access-control-allow-origin"] == "https://page.org"
    preflight = {"origin": "https://page.org", "access-control-request-method": "POST"}
    for headers in ("content-type, authorization", "x-stainless-lang", "cache-control, last-event-id"):
        asked = {**preflight, "access-control-request-headers": headers}
        assert client.options(IMAGES, headers=asked).status_code == 200
    assert client.options(IMAGES, headers={**preflight, "origin": "https://evil.org"}).status_code in (400, 403)


def test_a_page_can_read_a_defect_of_the_server(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(ServeAccess(None, ("https://page.org",)), started=False)
    monkeypatch.setattr(service_of(client), "submit", lambda request: 1 / 0)
    answer = client.post(IMAGES, json={"model": "pictures"}, headers={"origin": "https://page.org"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal-error")
    assert answer.json()["error"]["message"] == "internal error: ZeroDivisionError"
    assert answer.headers["access-control-allow-origin"] == "https://page.org"
    assert 'guidegraph_errors_total{bundle=""} 1.0' in client.get("/metrics").text


def test_a_job_that_is_waited_for_makes_no_previews_elsewhere(make_client: MakeClient) -> None:
    client = make_client(started=False)
    requests = []

    def submit(request: DrawRequest) -> None:
        requests.append(request)
        raise RequestRefused("enough")

    service_of(client).submit = submit  # type: ignore[method-assign, assignment]
    client.post(IMAGES, json={"model": "pictures"})
    client.post("/v1/workflows/pictures", json={})
    client.post("/v1/workflows/pictures", json={"wait": False})
    assert [request.is_watched for request in requests] == [False, False, True]


@pytest.mark.parametrize(("query", "status"), [(b"cancel=true", "cancelled"), (b"", "queued")])
def test_a_reader_that_goes_away_before_the_first_event_ends_the_job_where_asked(
    make_service: MakeService, query: bytes, status: str
) -> None:
    service = make_service(started=False)
    app = ServeRoutes(service, lambda: (b"", "")).make_app(ServeAccess())
    job = service.submit(DrawRequest("pictures", {}))
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)  # as servers do whose sending waits
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/v1/jobs/{job.id}/events",
        "query_string": query,
        "headers": [(b"host", b"127.0.0.1:8000")],
    }
    asyncio.run(app(scope, receive, send))
    assert sent == []
    assert job.status == status


def test_events_that_may_cancel_say_so(make_client: MakeClient) -> None:
    client = make_client()
    key = client.post("/v1/workflows/pictures", json={"wait": False}).json()["id"]
    with client.stream("GET", f"/v1/jobs/{key}/events?cancel=true") as stream:
        assert "event: end" in [*stream.iter_lines()]
    assert client.get(f"/v1/jobs/{key}").json()["status"] == "done", "the stream went on to the end of the job"
    answer = client.get(f"/v1/jobs/{key}/events?cancel=maybe")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cancel")


def test_a_defect_after_the_answer_has_begun_is_counted_and_ends_it(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(job: Job) -> AsyncIterator[str]:
        yield "event: progress\n"
        raise ZeroDivisionError

    monkeypatch.setattr("guidegraph_serve.web.routes.iterate_events", fail)
    client = make_client(started=False)
    key = client.post("/v1/workflows/pictures", json={"wait": False}).json()["id"]
    with pytest.raises(ZeroDivisionError):
        TestClient(client.app, base_url="http://127.0.0.1:8000").get(f"/v1/jobs/{key}/events")
    assert 'guidegraph_errors_total{bundle=""} 1.0' in client.get("/metrics").text


def test_the_head_of_a_jobs_events_cancels_nothing(make_client: MakeClient) -> None:
    client = make_client(started=False)
    key = client.post("/v1/workflows/pictures", json={"wait": False}).json()["id"]
    answer = client.head(f"/v1/jobs/{key}/events?cancel=true")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert client.get(f"/v1/jobs/{key}").json()["status"] == "queued"


class Lines(EventLog):
    """A log whose lines are kept."""

    def __init__(self, level: str = "info") -> None:
        super().__init__(level)
        self.lines: list[dict[str, Any]] = []

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def test_refused_requests_are_logged_and_counted_with_their_id_client_and_time(make_service: MakeService) -> None:
    metrics, log = ServeMetrics(), Lines("debug")
    service = make_service(started=False, observers=[metrics, log])
    app = ServeRoutes(service, metrics.read).make_app(ServeAccess("secret"))
    client = TestClient(app, base_url="http://127.0.0.1:8000", client=("192.0.2.7", 50000))
    token = {"authorization": "Bearer secret"}
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    client.get("/v1/models", headers={"x-request-id": "mine-1", "traceparent": parent})
    client.get("/v2", headers=token)
    client.put(IMAGES, headers=token)
    client.post(IMAGES, json={"model": "none"}, headers=token)
    refused = [line for line in log.lines if line["event"] == "request_refused"]
    assert [(line["code"], line["status"], line["path"]) for line in refused] == [
        ("unauthorized", 401, "/v1/models"),
        ("not-found", 404, "/v2"),
        ("method-not-allowed", 405, IMAGES),
        ("unknown-bundle", 404, IMAGES),
    ]
    assert (refused[0]["request"], refused[0]["traceparent"]) == ("mine-1", parent)
    assert {line["client"] for line in refused} == {"192.0.2.7"}
    assert {line["level"] for line in refused} == {"warning"}
    assert all(line["time"] > 0 and line["seconds"] >= 0 for line in refused)
    counted = client.get("/metrics", headers=token).text
    for line in refused:
        assert f'guidegraph_requests_refused_total{{code="{line["code"]}"}} 1.0' in counted
    assert log.lines[-1]["event"] == "request_answered"
    assert "prompt" not in json.dumps(log.lines)


def test_an_answer_has_the_id_of_its_request_and_so_has_the_line_of_its_job(make_service: MakeService) -> None:
    log = Lines()
    app = ServeRoutes(make_service(observers=[log]), lambda: (b"", "")).make_app(ServeAccess())
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    body = {"params": {"steps": 2}}
    answer = client.post("/v1/workflows/pictures", json=body, headers={"x-request-id": "a b"})
    assert " " not in answer.headers["x-request-id"], "an id with a space is replaced by one of the server"
    accepted = next(line for line in log.lines if line["event"] == "job_accepted")
    assert accepted["request"] == answer.headers["x-request-id"]
    assert "traceparent" not in accepted
    assert all(line["level"] != "debug" for line in log.lines)
