"""A service over small bundles, and a client of its routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from starlette.testclient import TestClient

from guidegraph_runtime import Bundle, SessionSettings
from guidegraph_runtime.serve.metrics import ServeMetrics
from guidegraph_runtime.serve.options import ServeOptions
from guidegraph_runtime.serve.service import Service
from guidegraph_runtime.serve.web.access import ServeAccess
from guidegraph_runtime.serve.web.routes import ServeRoutes
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


@pytest.fixture(scope="session")
def alone(pictures: Path) -> Bundle:
    """The bundle that draws pictures, to run requests alone."""
    return Bundle(pictures, CPU)


@pytest.fixture
def make_service(pictures: Path, tensors: Path) -> Iterator[MakeService]:
    """Make a service, whose workers are started unless ``started`` is false."""
    with ExitStack() as stack:

        def make(started: bool = True, observers: Any = (), **options: Any) -> Service:
            folders = {"pictures": pictures, "tensors": tensors}
            service = Service(folders, CPU, ServeOptions(**options), observers)
            if started:
                service.start()
                stack.callback(service.stop)
            return service

        yield make


@pytest.fixture
def make_client(make_service: MakeService) -> Iterator[MakeClient]:
    """Make a client of a new service, which is its attribute ``service``."""
    with ExitStack() as stack:

        def make(access: ServeAccess | None = None, started: bool = True, **options: Any) -> TestClient:
            metrics = ServeMetrics()
            service = make_service(started, [metrics], **options)
            app = ServeRoutes(service, metrics.read).make_app(access or ServeAccess())
            client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
            client.service = service  # type: ignore[attr-defined]
            return stack.enter_context(client)

        yield make
