"""A run that was stopped between two iterations of a loop: its file, and going on from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.paths import PACKAGE, resolve_path
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.stopping.choose_loop import STOP, find_stop
from guidegraph.graph.stopping.loop_origin import check_origin, check_resume, find_changed, is_same, read_origin
from guidegraph.graph.stopping.loop_state import REFUSED, LoopState
from guidegraph.graph.stopping.state_file import BAD_STATE, read_state_file, state_error, write_state_file
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy, is_shipped
from guidegraph.runs.recipe import Recipe, portable_params, recipe_params

RESUME = "--resume"


@dataclass(frozen=True)
class StoppedRun:
    """The state of a loop, and the run that it is from.

    origin: see ``describe_origin``. params: the parameters as JSON. unsaved: those that JSON cannot hold. dtype: of the
    run. workflow: the file's name; digest: of the texts of all its files.
    segments: the earlier parts of the run, if something was changed between them: until which iteration, with which
    parameters and texts. file: where it was read from; empty if it was not.
    """

    state: LoopState
    origin: dict[str, Any]
    params: dict[str, Any]
    unsaved: list[str]
    dtype: str
    workflow: str
    digest: str
    segments: list[dict[str, Any]]
    file: str = ""

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file, atomically. Raises ``OSError``."""
        write_state_file(Path(path), self.state, {name: vars(self)[name] for name in _FIELDS})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file that ``save`` wrote. Raises ``WorkflowError`` that names any other file."""
        from pydantic import TypeAdapter, ValidationError

        state, run = read_state_file(Path(path))
        try:
            fields = {name: TypeAdapter(kind).validate_python(run[name]) for name, kind in _FIELDS.items()}
            check_origin(fields["origin"])
            return cls(state, **fields, file=str(path))
        except KeyError as error:
            message = f"its description of the run lacks {error}: expected a file that 'guidegraph run {STOP}' wrote"
            raise state_error(Path(path), BAD_STATE, message) from error
        except (TypeError, AttributeError, ValidationError) as error:
            raise state_error(Path(path), BAD_STATE, f"its description of the run is damaged: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Where it was stopped, as JSON for a record, with the name of its file."""
        file, state = Path(self.file).name, self.state
        return {"file": file, "digest": state.digest, "loop": state.loop, "done": state.done, "total": state.total}

    def name_file(self) -> str:
        """A name for its file: the loop and the number of iterations."""
        loop = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in self.state.loop)
        return f"stopped-{loop}-{self.state.done:04d}.safetensors"

    def fill_params(self, graph: Graph, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Its parameters that a graph has, with those of ``arguments`` in their place.

        Raises ``WorkflowError`` for a value that it does not hold and that is not among the arguments. One that was
        read from a file may be a stranger's: also for a file that it alone names, not the workflow or the arguments.
        """
        if problems := list_param_problems(self, graph, arguments, OWN_WORKFLOW):
            raise WorkflowError(problems)
        return {**{name: value for name, value in self.params.items() if name in graph.params}, **arguments}

    def list_segments(
        self, graph: Graph, values: Mapping[str, Any], only: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        """The parts of the run before this graph with these values goes on; none if nothing was ever changed.

        A file whose contents have changed, and another version of a node, are changes as well.
        """
        is_changed = find_changed(self.params, portable_params(values)) or self.digest != digest_texts(graph)
        now = read_origin(graph, values, only, self.state.loop)
        if not self.segments and not is_changed and is_same(self.origin, now):
            return []
        return [*self.segments, {"until": self.state.done, "params": self.params, "workflow": self.digest}]


_FIELDS: dict[str, Any] = {
    "origin": dict[str, Any],
    "params": dict[str, Any],
    "unsaved": list[str],
    "dtype": str,
    "workflow": str,
    "digest": str,
    "segments": list[dict[str, Any]],
}


def make_stopped_run(
    graph: Graph, values: Mapping[str, Any], config: RunConfig, state: LoopState, earlier: StoppedRun | None = None
) -> StoppedRun:
    """The stopped run of a graph. earlier: the one that it went on from."""
    params = portable_params(values)
    return StoppedRun(
        state,
        read_origin(graph, values, config.only, state.loop),
        params,
        sorted({*values} - {*params}),
        config.dtype,
        graph.file.name,
        digest_texts(graph),
        earlier.list_segments(graph, values, config.only) if earlier else [],
    )


def strip_folders(segments: Sequence[Mapping[str, Any]], graph: Graph) -> list[dict[str, Any]]:
    """Segments for a picture, which may be published: as in its parameters, no path names a folder of this machine.

    Parameters that the graph no longer has are left out.
    """

    def strip(name: str, value: Any) -> Any:
        if not graph.params[name].port.type.is_path or value is None:
            return value
        if isinstance(value, list):
            return [strip(name, element) for element in value]
        return value if str(value).startswith(PACKAGE) else recipe_params({name: Path(str(value))})[name]

    stripped = []
    for segment in segments:
        params = segment.get("params")  # a stranger's file may have anything here
        present = {name: params[name] for name in params if name in graph.params} if isinstance(params, dict) else {}
        stripped.append({**segment, "params": {name: strip(name, value) for name, value in present.items()}})
    return stripped


def digest_texts(graph: Graph) -> str:
    """The digest of the texts of a workflow's files, wherever they are."""
    texts = [graph.sources.get(str(graph.file), ""), *sorted(graph.sources.values())]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def check_stopped_run(stopped: StoppedRun, graph: Graph, values: Mapping[str, Any], config: RunConfig) -> None:
    """Check that a stopped run can be resumed. values: the parameters of the resumed run.

    Raises ``WorkflowError`` that lists each change that the state cannot take, or for a ``--stop-at`` that is not one
    of the iterations left.
    """
    if config.dtype != stopped.dtype:
        message = f"the state is of a run in {stopped.dtype}; this run is in {config.dtype}"
        raise WorkflowError([Problem(Mark(RESUME, 1, 1), REFUSED, message)])
    changed = find_changed(stopped.params, portable_params(values))
    check_resume(graph, values, config.only, stopped.state, stopped.origin, changed)
    if config.stop_at:
        state, (loop, iterations) = stopped.state, find_stop(graph, values, config)
        if loop == state.loop and not state.done < iterations <= state.total:
            expected = f"from {state.done + 1} to {state.total}" if state.done < state.total else "none, all are done"
            begun = f"the run goes on after {state.done} of {state.total} iterations of nodes.{loop}"
            message = f"{begun}: expected {expected}; found {iterations}"
            raise WorkflowError([Problem(Mark(STOP, 1, 1), "bad-stop", message)])


def check_repeatable(recipe: Recipe | None, stopped: StoppedRun | None, picture: Path) -> None:
    """Raise ``WorkflowError`` for a picture that went on from another stopped run with changes."""
    resumed = recipe.resumed if recipe is not None else None
    if resumed is None or (stopped is not None and stopped.state.digest == resumed.get("digest")):
        return
    message = (
        f"this picture was made from a run that was stopped after {resumed.get('done')} iterations and went on with "
        f"changes: it is repeated with --resume and the file '{resumed.get('file')}' of that run"
    )
    raise state_error(picture, "missing-state", message)


def list_param_problems(
    stopped: StoppedRun, graph: Graph, user_params: Collection[str], policy: Policy
) -> list[Problem]:
    """The parameters that the user has to give: files named in the state's file, and values that it does not hold.

    The file may be a stranger's, so it names no file to read on its own: only the workflow, the user or a grant does.
    A stopped run of this process may name any.
    """
    problems = []
    for name in stopped.unsaved:
        if name in graph.params and name not in user_params:
            message = f"'{name}' is a value that the file does not hold: give the same again"
            problems.append(Problem(Mark(RESUME, 1, 1), "missing-param", message, f"params.{name}"))
    for name, value in stopped.params.items() if stopped.file else ():
        parameter = graph.params.get(name)
        if parameter is None or name in user_params or not parameter.port.type.is_path:
            continue
        default = {} if parameter.required else portable_params({name: parameter.default})
        for path in [str(path) for path in (value if isinstance(value, list) else [value]) if path is not None]:
            if value != default.get(name, ...) and not _is_allowed(path, policy):
                message = f"the file names '{path}'; to allow it: --set {name}={path}, or --allow-read {path}"
                problems.append(Problem(Mark(RESUME, 1, 1), "forbidden-read", message, f"params.{name}"))
    return problems


def _is_allowed(path: str, policy: Policy) -> bool:
    if "\0" in path:
        return False
    if path.startswith(PACKAGE):
        return True
    allowed = [folder.resolve() for folder in policy.grants.read]
    resolved = resolve_path(path, Path.cwd()).resolve()
    return is_shipped(resolved) or any(resolved.is_relative_to(a) for a in allowed)
