"""The server of ``guidegraph-serve`` as an application of Ray Serve: one front, and replicas that draw.

    serve run guidegraph_serve.ray_serve:build bundles=scenes,portraits=bundles/portraits-v2 replicas=2 batch=8

The front checks requests, holds the jobs and answers; it hands each job to the replica with the least open work, which
has bundles, workers and queues of its own. A job whose replica is lost begins again at another one. Needs
``pip install "./plugins/serve[ray]"`` in a checkout.
"""

from __future__ import annotations

import time
import weakref
from argparse import ArgumentTypeError
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from click import ClickException
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica
from starlette.applications import Starlette

from guidegraph_runtime.command import PROVIDERS, parse_threads
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.command import TOKEN, read_folders, read_token
from guidegraph_serve.jobs import DrawRequest, ServeOptions, parse_amount, parse_count, parse_seconds
from guidegraph_serve.observers import EventLog, ServeMetrics
from guidegraph_serve.remote_service import RemoteService, ReplicaEvent, ReplicaLost, iterate_replica_events
from guidegraph_serve.replica_loads import ReplicaLoads
from guidegraph_serve.service import Service
from guidegraph_serve.shelf import BundleShelf, ShelfEntry
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes

DRAWER = "Drawer"
DEFAULTS = ServeOptions()
MAX_DEVICES = 1024


def _parse_choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise ValueError(f"expected {' or '.join(choices)}, found {text!r:.80}")
    return text


def _parse_flag(text: str) -> bool:
    return _parse_choice(text.lower(), ("true", "false")) == "true"


def _check_bundles(text: str) -> str:
    """The text, if it names bundles. Raises ``ValueError``."""
    try:
        read_folders(text.split(","))
    except BundleError as error:
        raise ValueError(f"{error.message}; found {text!r:.80}") from None
    return text


_parse_cpus = partial(parse_amount, expected="a number of CPU cores, 0 or more", high=MAX_DEVICES, zero=True)
_parse_gpus = partial(parse_amount, expected="a number of GPUs, 0 or more", high=MAX_DEVICES, zero=True)


def _argument(parse: Callable[[str], Any], default: Any) -> Any:
    """An argument of ``serve run``. parse: reads its text; raises ``ValueError`` or ``ArgumentTypeError``."""
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True)
class RayArguments:
    """The arguments of ``build``. replicas: how many draw; max_replicas: more than that with load.

    cpus, gpus: of each replica. queue: requests that have not ended, over all replicas. without_token: whether the
    front answers everybody. The others are as for ``guidegraph-serve``.
    """

    bundles: str = field(metadata={"parse": _check_bundles})
    replicas: int = _argument(parse_count, 1)
    max_replicas: int = _argument(partial(parse_count, low=0), 0)
    cpus: float = _argument(_parse_cpus, 1.0)
    gpus: float = _argument(_parse_gpus, 0.0)
    batch: int = _argument(parse_count, DEFAULTS.batch)
    queue: int = _argument(parse_count, 4 * DEFAULTS.queue)
    max_steps: int = _argument(parse_count, DEFAULTS.steps)
    max_seconds: float = _argument(parse_seconds, DEFAULTS.seconds)
    provider: str = _argument(partial(_parse_choice, choices=PROVIDERS), "auto")
    threads: int = _argument(parse_threads, 1)
    without_token: bool = _argument(_parse_flag, False)

    @property
    def folders(self) -> dict[str, Path]:
        """The folders of the bundles by name, as absolute paths, which every machine of the cluster has."""
        return {name: path.absolute() for name, path in read_folders(self.bundles.split(",")).items()}

    @property
    def options(self) -> ServeOptions:
        return ServeOptions(batch=self.batch, queue=self.queue, steps=self.max_steps, seconds=self.max_seconds)

    def make_settings(self) -> SessionSettings:
        """The settings of the replicas."""
        return SessionSettings.on(self.provider, intra_threads=self.threads)

    def check_bundles(self) -> dict[str, ShelfEntry]:
        """The bundles, which check requests here and compute nothing. Raises ``BundleError`` for an invalid one."""
        return BundleShelf(self.folders, SessionSettings.on("cpu", intra_threads=1)).entries


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    argument.name: argument.metadata["parse"] for argument in fields(RayArguments)
}


class LeastWorkRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Sends each request to the replica with the least open work; Ray makes one in each process that sends.

    Ray's own router compares the requests that a replica last said it has. It sends what arrives at once to the same
    replica, since it counts a request when that is sent, and forgets counts after ten seconds, within a request.
    """

    queue_len_response_deadline_s = 1.0
    """Seconds within which a replica answers whether it takes requests; drawing takes its time."""

    def initialize_state(self) -> None:
        self._loads = ReplicaLoads()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas, one in each rank, that with the least work first."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # before it asks again, where no replica takes it
        replicas = {str(replica.replica_id): replica for replica in candidate_replicas}
        (request,) = pending_request.args
        pending = weakref.ref(pending_request)
        key = pending_request.metadata.internal_request_id
        return [[replicas[name]] for name in self._loads.assign(key, request.work, replicas, lambda: pending() is None)]

    def count_request(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Count a request that a replica has taken until its events end."""
        key = pending_request.metadata.internal_request_id
        self._loads.send(key, str(replica_id))
        result.add_done_callback(lambda _: self._loads.release(key))

    on_request_routed = count_request  # the name that Ray calls


class Drawer:
    """A replica: a service whose workers draw."""

    def __init__(self, arguments: RayArguments):
        self._service = Service(arguments.folders, arguments.make_settings(), arguments.options)
        self._service.start()

    async def draw(self, request: DrawRequest) -> AsyncIterator[ReplicaEvent]:
        """Draw a request, and yield its state. See ``iterate_replica_events``."""
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
    """The application for ``serve run``. The token is read from GUIDEGRAPH_TOKEN.

    Raises ``ClickException`` for wrong arguments and bundles, which ``serve run`` prints as a line.
    """
    try:
        settings = read_arguments(arguments)
        access = _read_access(settings)
        settings.check_bundles()
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
        request_router_config=RequestRouterConfig(request_router_class=LeastWorkRouter),
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
    service = RemoteService(settings.check_bundles(), settings.options, draw, [metrics, EventLog()])
    routes = ServeRoutes(service, metrics.read, int(time.time()))

    @asynccontextmanager
    async def attach(_: Starlette) -> AsyncIterator[None]:
        service.attach()
        yield

    return routes.make_app(access, attach)
