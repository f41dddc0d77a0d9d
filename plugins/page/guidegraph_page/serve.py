"""Serving the page until Ctrl-C."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.late import torch
from guidegraph.graph.run_config import RunConfig
from guidegraph.plugins.manager import PluginManager
from guidegraph_page.access import LOOPBACK, Access
from guidegraph_page.edits import PageEdits
from guidegraph_page.folder import WorkflowFolder
from guidegraph_page.frames import RunCache
from guidegraph_page.jobs import JobQueue
from guidegraph_page.server import PageServer
from guidegraph_page.view import Views
from guidegraph_runtime.files.run_folders import RUNS
from guidegraph_runtime.machine.memory import available_memory
from guidegraph_runtime.machine.termination import end_at_once, open_listener

CACHE_SHARE = 0.5
"""The cache's limit as a share of the memory that is free at the start: that of the GPU for runs on one."""
CACHE_BYTES = 4 << 30
"""The limit where the free memory is unknown."""


def serve(
    folder: WorkflowFolder,
    manager: PluginManager,
    config: RunConfig,
    port: int,
    browser: bool,
    print_text: Callable[[str], object],
    print_note: Callable[[str], object],
) -> None:
    """Serve the page, and return when it is ended by Ctrl-C. port: 0 for any. Raises ``GuidegraphError``."""
    try:
        opened = open_listener(LOOPBACK, port)
    except OSError as error:
        raise GuidegraphError(f"port-busy: port {port} of {LOOPBACK} cannot be used: {error.strerror}") from error
    with opened as listener:
        access = Access(listener.getsockname()[1])
        jobs = JobQueue(manager, config, RunCache(measure_cache_limit(config.device)))
        edits = PageEdits(folder, manager.registry, config.policy)
        page = PageServer(folder, Views(folder, manager.registry, config.policy), edits, jobs, Path(RUNS).absolute())
        options = uvicorn.Config(
            page.make_app(access),
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        server = uvicorn.Server(options)
        page.is_stopping = lambda: server.should_exit
        jobs.start()
        print_text(access.address)
        print_note("Ctrl-C ends it; whoever has the address can run and edit these workflows")
        if browser and not webbrowser.open(access.address):
            print_note("no browser could be opened: open the address in one")
        try:
            with suppress(KeyboardInterrupt):  # Ctrl-C, which the server passes on when it has ended
                server.run([listener])
        finally:
            if not jobs.stop():
                print_note("the current run is in a long call: the process ends amid it")
                end_at_once()


def measure_cache_limit(device: str) -> int:
    """The limit of the cache of runs on a device, in bytes."""
    if device.startswith("cuda"):
        free: int | None = torch.cuda.mem_get_info(torch.device(device))[0]
    else:
        free = available_memory()
    return CACHE_BYTES if free is None else int(free * CACHE_SHARE)
