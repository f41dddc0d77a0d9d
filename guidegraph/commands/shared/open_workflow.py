"""From arguments to a validated graph and checked values. Problems are collected and reported together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.plugins import require_all_plugins, require_plugins
from guidegraph.commands.shared.printing import print_note
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.named_workflows import locate_workflow
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.policy import Grants, Policy
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.runs.recipe import PICTURE_PARAMS, Recipe, apply_params, apply_recipe, is_picture, read_recipe
from guidegraph.runs.stopped_run import StoppedRun, list_param_problems
from guidegraph.session import Session
from guidegraph_runtime.printing import visible_line

if TYPE_CHECKING:
    from guidegraph.plugins.manager import PluginManager


@dataclass(frozen=True)
class WorkflowRequest:
    """A workflow and the options of every command on one, not yet checked.

    settings: the texts of ``--set K=V``. lazy: import only the plugins that the workflow names. resume: the file of a
    stopped run.
    """

    workflow: Path
    settings: Sequence[str]
    plugins: PluginSelection
    grants: Grants
    lazy: bool = False
    resume: Path | None = None

    @property
    def set_names(self) -> frozenset[str]:
        """The names of the parameters that ``--set`` gives."""
        return frozenset(setting.partition("=")[0].strip() for setting in self.settings)

    def load_plugins(self) -> PluginManager:
        """Load the plugins. Raises ``WorkflowError`` if a module requested by name cannot be used."""
        return require_plugins(self.plugins) if self.lazy else require_all_plugins(self.plugins)

    def open(self, problems: Sequence[Problem] = ()) -> OpenedWorkflow:
        """Load the plugins and read the workflow. Raises ``WorkflowError`` with ``problems`` and any new ones."""
        manager = self.load_plugins()
        try:
            graph, recipe = open_workflow(self.workflow, manager.registry)
            stopped = None if self.resume is None else StoppedRun.load(self.resume)
        except WorkflowError as error:
            raise WorkflowError([*problems, *error.problems]) from None
        return OpenedWorkflow(graph, recipe, manager, self, stopped)


def open_workflow(path: Path, registry: Registry) -> tuple[Graph, Recipe | None]:
    """Read a workflow from a file, a plugin, or a picture with its recipe. Raises ``WorkflowError``."""
    path = locate_workflow(path, registry)
    if not is_picture(path):
        return build(path, registry), None
    recipe = read_recipe(path)
    file, current = recipe.workflow, Path.cwd()
    file = file.relative_to(current) if file.is_relative_to(current) else file  # as the picture names it, for errors
    return build(file, registry, recipe.sources, stranger=True), recipe


@contextmanager
def name_picture(path: Path) -> Iterator[None]:
    """Print the name of a picture above errors of its workflow: the files that these name need not exist here."""
    try:
        yield
    except WorkflowError as error:
        if is_picture(path) and _is_in_picture(error, path):
            print_note(visible_line(f"{path}: the workflow in this picture has errors:"))
        raise


def _is_in_picture(error: WorkflowError, picture: Path) -> bool:
    """Whether a problem is in the workflow or the parameters that a picture carries."""
    try:
        sources = read_recipe(picture).sources
    except WorkflowError:  # it carries none
        return False
    files = {problem.mark.file for problem in error.problems}
    return PICTURE_PARAMS in files or any(os.path.abspath(file) in sources for file in files)


@dataclass(frozen=True)
class OpenedWorkflow:
    """A validated workflow, the recipe of the picture that it was read from, and the run to go on from, if any."""

    graph: Graph
    recipe: Recipe | None
    manager: PluginManager
    request: WorkflowRequest
    stopped: StoppedRun | None = None

    @property
    def registry(self) -> Registry:
        return self.manager.registry

    def policy(self, out: Path | None = None, user_params: Iterable[str] = ()) -> Policy:
        """The policy of the workflow. user_params: parameters that the user sets, in addition to those of ``--set``."""
        names = self.request.set_names.union(user_params)
        return Policy(self.recipe is not None, out, self.request.grants, names)

    def complete(
        self, config: RunConfig, dtype: str | None, out: Path | None, user_params: Iterable[str] = ()
    ) -> RunConfig:
        """The settings of a run with the policy, and with the picture's outputs and dtype where none are requested."""
        recipe, policy = self.recipe, self.policy(out, user_params)
        if self.stopped is not None and dtype is None:
            config, dtype = replace(config, dtype=self.stopped.dtype), self.stopped.dtype
        if recipe is None:
            return replace(config, policy=policy)
        return replace(
            config, only=config.only or recipe.only, dtype=config.dtype if dtype else recipe.dtype, policy=policy
        )

    def start_session(self, config: RunConfig, problems: list[Problem]) -> Session:
        """The session of the workflow, with the parameters of a picture or a stopped run as defaults.

        Problems with these are appended.
        """
        graph, stopped = self.graph, self.stopped
        try:
            if stopped is not None:
                problems += list_param_problems(stopped, graph, self.request.set_names, self.policy())
                present = {name: value for name, value in stopped.params.items() if name in graph.params}
                graph = apply_params(graph, present, f"the parameters in {stopped.file}")
            graph = apply_recipe(graph, self.recipe)
        except WorkflowError as error:
            problems += error.problems
        return Session(graph, config, self.registry, stopped, self.recipe, self.request.workflow)


def parse_settings(settings: Sequence[str], problems: list[Problem]) -> dict[str, str]:
    """The texts of ``--set K=V`` by parameter."""
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            problems.append(argument_problem("bad-setting", f"'{setting}' is not K=V", "--set"))
        else:
            texts[name.strip()] = value
    return texts
