"""A service over small bundles, and a client of its routes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.observers import ServeMetrics
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from plugins.serve.tests.described import Description
from tests.runtime.running.bundles import seal_manifest
from tests.runtime.running.loop_bundle import JOINS, write_loop_bundle

CPU = SessionSettings.on("cpu", intra_threads=1)
MakeService: TypeAlias = Callable[..., Service]
MakeClient: TypeAlias = Callable[..., TestClient]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle that draws pictures, and has previews."""
    preview = {"carry": "x", "matrix": [[1, 0, 0], [0, 0.5, 0], [0, 0, 0.25]]}
    folder = tmp_path_factory.mktemp("serve") / "pictures"
    return write_loop_bundle(folder, joins=JOINS, picture=True, preview=preview)


@pytest.fixture(scope="session")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle whose outputs are tensors."""
    return write_loop_bundle(tmp_path_factory.mktemp("serve") / "tensors", joins=JOINS, collect=True)


def encode_picture(value: Any, mode: str | None = None) -> bytes:
    """A PNG of a picture's array (H, W, C) or (H, W)."""
    data = io.BytesIO()
    Image.fromarray(np.asarray(value, np.uint8), mode).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="session")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle that reads a picture, a mask and a map, and gives them back beside what it draws.

    photo is 4 × 6 pixels of grey by default, mask black; map has no default.
    """
    folder = write_loop_bundle(tmp_path_factory.mktemp("serve") / "edits", joins=JOINS, picture=True)
    value = json.loads((folder / "bundle.json").read_bytes())
    files = {"photo.png": encode_picture(np.full((4, 6, 3), 128)), "mask.png": encode_picture(np.zeros((4, 6)))}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        value["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    value["inputs"] |= {
        "photo": {"type": "image", "default": "photo.png"},
        "mask": {"type": "mask", "default": "mask.png"},
        "map": {"type": "map", "required": True},
        "prompt": {"type": "str", "default": ""},
    }
    loads = {"photo": ("image.load", {}), "mask": ("mask.load", {}), "map": ("semantic.load", {"classes": 3})}
    for node, (operation, settings) in loads.items():
        links = {"path": f"params.{node}"}
        value["plan"].insert(0, {"op": operation, "node": node, "in": links, "with": settings, "out": [node]})
    value["outputs"] = {
        "photo": {"type": "image", "source": "photo"},
        **value["outputs"],
        **{name: {"type": "tensor", "source": name} for name in ("mask", "map")},
    }
    (folder / "bundle.json").write_bytes(seal_manifest(value))
    return folder


@pytest.fixture(scope="session")
def alone(pictures: Path) -> Bundle:
    """The bundle that draws pictures, to run requests alone."""
    return Bundle(pictures, CPU)


@pytest.fixture
def make_service(pictures: Path, tensors: Path, edits: Path) -> Iterator[MakeService]:
    """Make a service, whose workers are started unless ``started`` is false."""
    with ExitStack() as stack:

        def make(started: bool = True, observers: Any = (), with_edits: bool = False, **options: Any) -> Service:
            folders = {"pictures": pictures, "tensors": tensors} | ({"edits": edits} if with_edits else {})
            service = Service(folders, CPU, ServeOptions(**options), observers)
            if started:
                service.start()
                stack.callback(service.stop)
            return service

        yield make


@pytest.fixture
def make_client(make_service: MakeService) -> Iterator[MakeClient]:
    """Make a client of a new service, which is its attribute ``service``.

    Each request and its answer have to be as the server's OpenAPI document says.
    """
    with ExitStack() as stack:

        def make(access: ServeAccess | None = None, started: bool = True, **options: Any) -> TestClient:
            metrics = ServeMetrics()
            service = make_service(started, [metrics], **options)
            app = ServeRoutes(service, metrics.read).make_app(access or ServeAccess())
            client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
            client.service = service  # type: ignore[attr-defined]
            client.event_hooks = {"response": [Description(app).check_answer]}
            return stack.enter_context(client)

        yield make
