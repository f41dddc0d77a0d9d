"""The package ``openai`` as a client of the server."""

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

from guidegraph_runtime import Bundle, pixels
from plugins.serve.tests.conftest import encode_picture
from plugins.serve.tests.test_command import TIMEOUT, serve

openai = pytest.importorskip("openai")
TOKEN = "secret"


@pytest.fixture(scope="module")
def address(pictures: Path) -> Iterator[str]:
    """The base URL of a server with a token."""
    with serve(pictures, GUIDEGRAPH_TOKEN=TOKEN) as server:
        yield f"{server.address}/v1"


def make_openai(address: str, token: str = TOKEN) -> Any:
    """A client of the package, which repeats no request."""
    return openai.OpenAI(base_url=address, api_key=token, max_retries=0, timeout=TIMEOUT)


def test_openai_lists_the_bundles(address: str) -> None:
    with make_openai(address) as client:
        assert [model.id for model in client.models.list()] == ["pictures"]
        assert client.models.retrieve("pictures").owned_by == "guidegraph"


def test_openai_draws_the_pictures_of_the_bundle_alone(address: str, alone: Bundle) -> None:
    with make_openai(address) as client:
        answer = client.images.generate(
            model="pictures",
            prompt=openai.NOT_GIVEN,  # the bundle has no input of that name
            n=2,
            response_format="b64_json",
            extra_body={"seed": 7, "steps": 4, "nodes": {"scheduler.use": "scheduler.heun"}},
        )
    images = alone.run_with({"seed": 7, "steps": 4, "batch": 2}, nodes={"scheduler.use": "scheduler.heun"})["image"]
    assert len(answer.data) == 2
    for entry, image in zip(answer.data, images, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))).astype(int)
        assert np.abs(picture - pixels(image)).max() <= 2
        assert picture.std() > 1


def test_openai_may_ask_for_what_the_server_does_anyway(address: str) -> None:
    with make_openai(address) as client:
        answer = client.images.generate(
            model="pictures",
            prompt=openai.NOT_GIVEN,
            n=1,
            output_compression=100,
            partial_images=0,
            user="a",
            extra_body={"safety_identifier": "a", "steps": 2},
        )
        assert len(answer.data) == 1
        for name, value, message in (
            ("output_compression", 50, "expected 100, found 50"),
            ("partial_images", 2, "expected 'stream': true with them"),
        ):
            with pytest.raises(openai.BadRequestError, match=message) as caught:
                client.images.generate(model="pictures", prompt=openai.NOT_GIVEN, extra_body={name: value})
            assert caught.value.param == name


def test_openai_names_the_parameter_of_an_error(address: str) -> None:
    with make_openai(address) as client:
        with pytest.raises(openai.BadRequestError, match="takes 999 steps, and this server allows 200") as caught:
            client.images.generate(model="pictures", prompt=openai.NOT_GIVEN, extra_body={"steps": 999})
        assert (caught.value.param, caught.value.code) == ("steps", "over-limit")
        with pytest.raises(openai.BadRequestError, match="'prompt'") as caught:
            client.images.generate(model="pictures", prompt="a fox")
        assert caught.value.param == "prompt"
        with pytest.raises(openai.NotFoundError, match="did you mean 'pictures'"):
            client.models.retrieve("picture")


def test_openai_reports_a_wrong_token(address: str) -> None:
    with make_openai(address, "wrong") as client, pytest.raises(openai.AuthenticationError, match="server's token"):
        client.models.list()


def test_openai_edits_a_picture_with_a_mask_and_streams(edits: Path) -> None:
    pixels_sent = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    grey = encode_picture(np.array([[0, 1, 2]]))
    files = {"image": ("photo.png", encode_picture(pixels_sent)), "mask": ("mask.png", encode_picture(np.ones((4, 6))))}
    more = {"seed": 7, "steps": 4, "map": base64.b64encode(grey).decode(), "nodes": {"scheduler.eta": 0.5}}
    with serve(edits, GUIDEGRAPH_TOKEN=TOKEN) as server, make_openai(f"{server.address}/v1") as client:
        answer = client.images.edit(**files, prompt="a fox", n=1, extra_body=more)
        (entry,) = answer.data
        picture = Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))
        assert np.array_equal(np.asarray(picture), pixels_sent)
        record = json.loads(picture.info["guidegraph-bundle"])
        assert record["inputs"]["prompt"] == "a fox"
        assert record["inputs"]["seed"] == 7
        assert record["nodes"] == {"scheduler.eta": 0.5}
        events = [*client.images.edit(**files, prompt="a fox", stream=True, partial_images=2, extra_body=more)]
        assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
        assert (events[1].partial_image_index, events[2].usage.total_tokens, events[2].size) == (1, 0, "6x4")
        with pytest.raises(openai.BadRequestError, match="as PNG, JPEG, WEBP") as caught:
            client.images.edit(image=("photo.txt", b"no picture"), prompt="a fox", extra_body=more)
        assert caught.value.code == "bad-picture"
