"""The shell command that goes on with a stopped run, to be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from guidegraph.commands.shared.run_settings import RunSettings
from guidegraph.graph.run_config import list_options

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
    for name, run_option in list_options("run").items():
        flag, value = f"--{name.replace('_', '-')}", settings[name]
        if not run_option.resumed or value is None or value == run_option.default:
            continue
        if isinstance(value, list):
            yield from _repeat(flag, map(str, value))
        elif isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (flag, str(value))
    yield from _repeat("--plugin", request.plugins.modules)
    yield from () if request.plugins.installed else ("--no-plugins",)
    grants = request.grants
    for option, paths in (("read", grants.read), ("write", grants.write), ("code", grants.code)):
        yield from _repeat(f"--allow-{option}", map(str, paths))
    yield from _repeat("--limit", limits)


def _repeat(option: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)
