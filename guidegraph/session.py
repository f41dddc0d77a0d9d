"""One way to run: everything about a run is checked before it, for the command line, Python, the page and sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.language.yaml_tree import shorten
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.admission import list_admission_problems
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.stopping.choose_loop import check_stop
from guidegraph.graph.trust.effects import list_effects
from guidegraph.graph.trust.policy import find_effect_problems
from guidegraph.runs.run import RecordedRun
from guidegraph.runs.stopped_run import check_repeatable, check_stopped_run
from guidegraph_runtime.files.run_folders import make_run_folder
from guidegraph_runtime.machine.shortages import with_shortage

if TYPE_CHECKING:
    from guidegraph.graph.execution.loop_context import Attachments
    from guidegraph.graph.execution.run_record import RunResult
    from guidegraph.runs.recipe import Recipe
    from guidegraph.runs.stopped_run import StoppedRun


@dataclass(frozen=True)
class Session:
    """A workflow and the settings of its runs, which ``prepare`` checks for the values of the parameters.

    registry: the installed nodes, for runs whose outputs are written to files; ``None`` for runs that return them.
    stopped: the run to go on from. recipe: of the picture at ``picture``, which the workflow was read from.
    every_branch: check the files of all branches, as an export has them all, not only of those that the run takes.
    """

    graph: Graph
    config: RunConfig
    registry: Registry | None = None
    stopped: StoppedRun | None = None
    recipe: Recipe | None = None
    picture: Path = Path()
    every_branch: bool = False

    def prepare(
        self,
        arguments: Mapping[str, object],
        *,
        text: bool = False,
        label: str = "params",
        problems: Sequence[Problem] = (),
        only: str = "only",
    ) -> Prepared:
        """Bind the parameters and check the run. Nothing is run or written.

        arguments, text and label: as for ``bind``. problems: those that were found before. only: the option or
        argument that names the outputs. Raises ``WorkflowError`` that lists ``problems`` and all problems of the run.
        """
        values, misfits = self.bind(arguments, text=text, label=label)
        output_problems, run_problems = self.list_output_problems(only), self.list_problems(values, bound=not misfits)
        if all_problems := [*problems, *output_problems, *misfits, *run_problems]:
            raise WorkflowError(all_problems)
        return Prepared(self, values)

    def bind(
        self, arguments: Mapping[str, object], *, text: bool = False, label: str = "params"
    ) -> tuple[dict[str, Any], list[Problem]]:
        """The values of the parameters that have no problem, and the problems of the others."""
        try:
            return bind(self.graph, arguments, text=text, label=label), []
        except WorkflowError as error:
            problems = error.problems
        names = {problem.path.removeprefix("params.") for problem in problems}
        parameters = {name: parameter for name, parameter in self.graph.params.items() if name not in names}
        arguments = {name: value for name, value in arguments.items() if name in parameters}
        try:
            return bind(replace(self.graph, params=parameters), arguments, text=text, label=label), problems
        except WorkflowError:  # a problem of several parameters together
            return {}, problems

    def list_output_problems(self, only: str = "only") -> list[Problem]:
        """The requested outputs that do not exist and, if outputs are written to files, those without a format."""
        graph, requested = self.graph, self.config.only
        problems = [
            Problem(
                Mark(only, 1, 1),
                "unknown-output",
                f"there is no output '{name}'; {suggest(name, graph.outputs, 'outputs')}",
            )
            for name in requested or ()
            if name not in graph.outputs
        ]
        if self.registry is None:
            return problems
        from guidegraph.runs.outputs import output_problems

        return [*problems, *output_problems(graph, self.registry, requested)]

    def list_problems(self, values: Mapping[str, Any], *, bound: bool = True) -> list[Problem]:
        """All problems of a run with these values: forbidden files, what does not fit or is not here, a wrong stop.

        bound: whether all parameters have a value; without, what depends on the missing ones is not checked.
        """
        graph, config = self.graph, self.config
        if any(name not in graph.outputs for name in config.only or ()):
            return []  # which operations the run needs is unknown
        problems = self.list_forbidden(values)
        if not problems:  # these checks open files
            problems = list_admission_problems(graph, values, config.only)
        try:
            self._check_stop(values, bound)
        except WorkflowError as error:
            problems += error.problems
        return problems

    def list_forbidden(self, values: Mapping[str, Any]) -> list[Problem]:
        """The files that a run with these values would use, and that the policy does not allow."""
        if not self.graph.traits.files:
            return []
        needed = find_needed_ops(self.graph, self.config.only, {} if self.every_branch else values)
        return find_effect_problems(list_effects(needed, values), self.config.policy)

    def _check_stop(self, values: Mapping[str, Any], bound: bool) -> None:
        """Check where the run stops, and the run that it goes on from. Raises ``WorkflowError``."""
        if self.recipe is not None:
            check_repeatable(self.recipe, self.stopped, self.picture)
        if self.stopped is not None and bound:
            check_stopped_run(self.stopped, self.graph, values, self.config)
        elif self.stopped is None and self.config.stop_at:
            check_stop(self.graph, values, self.config)


@dataclass(frozen=True)
class Prepared:
    """A run that was checked: its session, and a checked value for each parameter."""

    session: Session
    values: dict[str, Any]

    def run(self, attachments: Attachments) -> RunResult:
        """Run, and return the outputs. Raises the errors of ``graph.execution.run``."""
        from guidegraph.graph.execution.run import run

        stopped = self.session.stopped
        if stopped is not None:
            attachments = replace(attachments, resume=stopped.state)
        return run(self.session.graph, self.values, self.session.config, attachments)

    def record(self, folder: Path) -> RecordedRun:
        """The run into an existing folder. The session has a registry."""
        session = self.session
        assert session.registry is not None
        return RecordedRun(session.graph, session.registry, self.values, session.config, folder, session.stopped)


def make_folder(folder: Path | None, name: str) -> Path:
    """Make the folder for the files of a run: ``folder``, or a new one in ``runs``. Raises ``WorkflowError``."""
    try:
        return make_run_folder(folder, name)
    except OSError as error:
        reason = f"the folder for the files cannot be made: {with_shortage(str(error), error)}"
        raise WorkflowError([Problem(Mark("--out", 1, 1), "no-folder", reason)]) from error


def list_folder_problems(folders: Mapping[str, Path | None]) -> list[Problem]:
    """The folders, by the option that names them, that cannot be made, as far as this is known before a run."""
    problems = []
    for option, folder in folders.items():
        if folder is None:
            continue
        try:
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            is_folder = existing.is_dir()
        except OSError as error:  # a name that no file system takes
            message = f"{error.strerror}: '{shorten(str(folder))}'"
            problems.append(Problem(Mark(option, 1, 1), "bad-folder", message))
            continue
        if not is_folder:
            problems.append(Problem(Mark(option, 1, 1), "not-a-folder", f"'{existing}' is not a folder"))
    return problems
