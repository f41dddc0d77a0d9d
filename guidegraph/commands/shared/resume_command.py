"""The shell command that goes on with a stopped run, to be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from guidegraph.commands.shared.run_settings import RunSettings

if TYPE_CHECKING:
    from guidegraph.commands.shared.open_workflow import WorkflowRequest
    from guidegraph.graph.ir import Graph
    from guidegraph.runs.stopped_run import StoppedRun


def write_resume_command(
    request: WorkflowRequest, settings: RunSettings, limits: Sequence[str], graph: Graph, stopped: StoppedRun
) -> str:
    """The command with all options of the stopped run that its file does not hold.

    The file holds the parameters and the dtype, but neither files that the user named, as it may be a stranger's, nor
    values that JSON cannot hold.
    """
    words = ["guidegraph", "run", str(request.workflow), "--resume", stopped.file]
    for setting in request.settings:
        name = setting.partition("=")[0].strip()
        if name in stopped.unsaved or (name in graph.params and graph.params[name].port.type.is_path):
            words += ["--set", setting]
    return shlex.join([*words, *_list_options(request, settings, limits)])


def _list_options(request: WorkflowRequest, settings: RunSettings, limits: Sequence[str]) -> Iterator[str]:
    usual = RunSettings()
    for option, value, default in (
        ("--device", settings.device, usual.device),
        ("--cache", settings.cache, usual.cache),
        ("--cache-verify", str(settings.cache_verify), str(usual.cache_verify)),
        ("--memory-budget", settings.memory_budget, usual.memory_budget),
        ("--passes", settings.passes, usual.passes),
    ):
        if value is not None and value != default:
            yield from (option, value)
    if settings.accelerate:
        yield f"--accelerate={settings.accelerate}"
    yield from _repeat("--only", settings.only or ())
    yield from _repeat("--plugin", request.plugins.modules)
    yield from () if request.plugins.installed else ("--no-plugins",)
    grants = request.grants
    for option, paths in (("read", grants.read), ("write", grants.write), ("code", grants.code)):
        yield from _repeat(f"--allow-{option}", map(str, paths))
    yield from _repeat("--limit", limits)


def _repeat(option: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)
