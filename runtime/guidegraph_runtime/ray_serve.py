"""The server of ``guidegraph-serve`` as an application of Ray Serve: one front, and replicas that draw.

    serve run guidegraph_runtime.ray_serve:build bundles=scenes,portraits=bundles/portraits-v2 replicas=2 batch=8

The front checks requests, holds the jobs and answers; it hands each job to a replica, which has bundles, workers and
queues of its own. A job whose replica is lost begins again at another one. Needs ``pip install "ray[serve]"``.
"""

from __future__ import annotations

import time
from argparse import ArgumentTypeError
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from click import ClickException
from ray import serve
from ray.exceptions import RayActorError
from starlette.applications import Starlette

from guidegraph_runtime.command import PROVIDERS, parse_threads
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.serve.command import TOKEN, read_folders, read_token
from guidegraph_runtime.serve.event_log import EventLog
from guidegraph_runtime.serve.metrics import ServeMetrics
from guidegraph_runtime.serve.options import ServeOptions, parse_amount, parse_count, parse_seconds
from guidegraph_runtime.serve.remote_service import RemoteService, ReplicaLost
from guidegraph_runtime.serve.replica import ReplicaEvent, iterate_replica_events
from guidegraph_runtime.serve.request_checks import DrawRequest
from guidegraph_runtime.serve.service import Service
from guidegraph_runtime.serve.shelf import BundleShelf
from guidegraph_runtime.serve.web.access import ServeAccess
from guidegraph_runtime.serve.web.routes import ServeRoutes
from guidegraph_runtime.sessions.sessions import SessionSettings

DRAWER = "Drawer"
DEFAULTS = ServeOptions()
MAX_DEVICES = 1024


@dataclass(frozen=True)
class RayArguments:
    """The arguments of ``build``. replicas: how many draw; max_replicas: more than that with load.

    cpus, gpus: of each replica. queue: requests that have not ended, over all replicas. without_token: whether the
    front answers everybody. Others are those of ``guidegraph-serve``.
    """

    bundles: str
    replicas: int = 1
    max_replicas: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    batch: int = DEFAULTS.batch
    queue: int = 4 * DEFAULTS.queue
    max_steps: int = DEFAULTS.steps
    max_seconds: float = DEFAULTS.seconds
    provider: str = "auto"
    threads: int = 1
    without_token: bool = False

    @property
    def folders(self) -> dict[str, Path]:
        """The folders of the bundles by name, as absolute paths, which every machine of the cluster has."""
        return {name: path.absolute() for name, path in read_folders(self.bundles.split(",")).items()}

    @property
    def options(self) -> ServeOptions:
        return ServeOptions(batch=self.batch, queue=self.queue, steps=self.max_steps, seconds=self.max_seconds)

    def make_settings(self) -> SessionSettings:
        return SessionSettings.on(self.provider, intra_threads=self.threads)


def _parse_choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise ValueError(f"expected {' or '.join(choices)}, found {text!r:.80}")
    return text


def _check_bundles(text: str) -> str:
    """The text, if it names bundles; whether their folders are there shows at the replicas. Raises ``ValueError``."""
    try:
        read_folders(text.split(","))
    except BundleError as error:
        raise ValueError(f"{error.message}; found {text!r:.80}") from None
    return text


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "bundles": _check_bundles,
    "replicas": parse_count,
    "max_replicas": partial(parse_count, low=0),
    "cpus": partial(parse_amount, expected="a number of CPU cores, 0 or more", high=MAX_DEVICES, zero=True),
    "gpus": partial(parse_amount, expected="a number of GPUs, 0 or more", high=MAX_DEVICES, zero=True),
    "batch": parse_count,
    "queue": parse_count,
    "max_steps": parse_count,
    "max_seconds": parse_seconds,
    "provider": partial(_parse_choice, choices=PROVIDERS),
    "threads": parse_threads,
    "without_token": lambda text: _parse_choice(text.lower(), ("true", "false")) == "true",
}


class Drawer:
    """A replica: a service whose workers draw."""

    def __init__(self, arguments: RayArguments):
        self._service = Service(arguments.folders, arguments.make_settings(), arguments.options)
        self._service.start()

    async def draw(self, request: DrawRequest) -> AsyncIterator[ReplicaEvent]:
        """Draw a request, and yield its state after each change."""
        async for event in iterate_replica_events(self._service, request):
            yield event


def read_arguments(arguments: Mapping[str, Any]) -> RayArguments:
    """The arguments of ``serve run``, which are texts. Raises ``BundleError``."""
    values: dict[str, Any] = {}
    for name, text in arguments.items():
        if name not in _PARSERS:
            raise _refuse(f"there is no argument '{name}'; there is: {', '.join(_PARSERS)}")
        try:
            values[name] = _PARSERS[name](str(text))
        except (ValueError, ArgumentTypeError) as error:
            raise _refuse(f"{name}: {error}") from None
    if "bundles" not in values:
        raise _refuse("expected bundles=FOLDER or bundles=NAME=FOLDER,NAME=FOLDER")
    settings = RayArguments(**values)
    if 0 < settings.max_replicas < settings.replicas:
        message = f"max_replicas: expected {settings.replicas} or more, as replicas, found {settings.max_replicas}"
        raise _refuse(message)
    return settings


def _refuse(message: str) -> BundleError:
    return BundleError("serve run", "bad-setting", message)


def _read_access(settings: RayArguments) -> ServeAccess:
    """The access of the front, which does not know at which addresses Ray listens. Raises ``BundleError``."""
    token = read_token(None, "localhost")
    if token is None and not settings.without_token:
        message = f"set {TOKEN}; if nobody else reaches the addresses where Ray listens: without_token=true"
        raise BundleError("serve run", "needs-token", message)
    return ServeAccess(token)


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application for ``serve run``. The token is that of GUIDEGRAPH_TOKEN.

    Raises ``ClickException`` for wrong arguments, which ``serve run`` prints as a line.
    """
    try:
        settings = read_arguments(arguments)
        access = _read_access(settings)
    except BundleError as error:
        raise ClickException(str(error)) from error

    def make_app() -> Starlette:
        return _make_front(settings, access)

    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas > settings.replicas:
        bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
        scaling = {"autoscaling_config": {**bounds, "target_ongoing_requests": settings.batch}}
    drawer = serve.deployment(Drawer).options(
        name=DRAWER,
        max_ongoing_requests=settings.queue,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        **scaling,
    )
    front = serve.deployment(serve.ingress(make_app)()).options(
        name="Front", max_ongoing_requests=4 * settings.queue, ray_actor_options={"num_cpus": 0}
    )
    application: serve.Application = front.bind(drawer.bind(settings))
    return application


def _make_front(settings: RayArguments, access: ServeAccess) -> Starlette:
    """The front's routes, in its process."""
    name = serve.get_replica_context().app_name
    handle = serve.get_deployment_handle(DRAWER, app_name=name).options(stream=True)

    async def draw(request: DrawRequest) -> AsyncGenerator[ReplicaEvent, None]:
        events = handle.draw.remote(request)
        try:
            async for event in events:
                yield event
        except RayActorError as error:
            raise ReplicaLost(type(error).__name__) from error
        finally:
            events.cancel()

    metrics = ServeMetrics()
    entries = BundleShelf(settings.folders, settings.make_settings()).entries
    service = RemoteService(entries, settings.options, draw, [metrics, EventLog()])
    routes = ServeRoutes(service, metrics.read, int(time.time()))

    @asynccontextmanager
    async def attach(_: Starlette) -> AsyncIterator[None]:
        service.attach()
        yield

    return routes.make_app(access, attach)
