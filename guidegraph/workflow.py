"""Workflows from Python: ``load_workflow(path).run(**params)``, as on the command line."""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from guidegraph.drawing.svg import draw_for_notebook
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import GuidegraphError, Mark, Problem, WorkflowError, suggest
from guidegraph.graph.events import Observer
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.execution.loop_context import Attachments
from guidegraph.graph.execution.run_record import RunResult
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.language.named_workflows import locate_workflow
from guidegraph.graph.late import torch
from guidegraph.graph.memory.pause_collector import pause_collector
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.passes import ALL_PASSES
from guidegraph.graph.planning.plan import Plan, compile_plan
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.shared_runs.many_runs import note_number, run_one_by_one, run_together
from guidegraph.graph.stopping.loop_state import LoopStopped
from guidegraph.graph.trust.limits import Limits, current_limits, enforce_limits
from guidegraph.graph.trust.policy import OWN_WORKFLOW, Policy
from guidegraph.graph.types import PortType
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.given_pictures import write_given_pictures
from guidegraph.runs.stopped_run import StoppedRun, make_stopped_run
from guidegraph.session import Session, list_folder_problems
from guidegraph_runtime.machine.memory import parse_size

if TYPE_CHECKING:
    from guidegraph.graph.execution.loop_context import Previewed
    from guidegraph.graph.shared_runs.many_runs import ManyRuns

CacheChoice = str | Path | None
"""Where values are cached: ``None`` in memory, a folder on disk as well, ``"off"`` nowhere."""

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")

_AT_RUN = ("only", "stop_at")
"""Settings that each run has of its own."""

_memory = MemoryCache()
_UNSET = object()


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter of a workflow. type: as ``guidegraph nodes`` prints it. default: ``None`` if it is required."""

    name: str
    type: str
    default: Any
    required: bool
    help: str

    def __str__(self) -> str:
        default = repr(self.default)
        shown = default if len(default) <= 60 else f"{default[:59]}…"
        return f"{self.name}: {self.type}" + ("" if self.required else f" = {shown}")


class Workflow:
    """A validated workflow and its run settings.

    device: ``cpu``, ``cuda`` or ``cuda:i``; dtype: a floating torch dtype's name. cache: ``None`` keeps values in
    memory, a folder keeps them on disk as well, ``"off"`` keeps none. passes: names from ``guidegraph plan`` (all by
    default). policy: which files the workflow may read, write and load code from; by default it may read and write
    the files it names, and loads no code. memory_budget: the largest size of model weights on the device at once, in
    bytes or as ``"6GB"``. limits: the limits of a run, ``Limits()`` by default. accelerate: ``"onnx"`` runs the parts
    of loops around a model in onnxruntime, ``"compile"`` with torch.compile. settings: the other fields of
    ``RunConfig``.
    Raises ``ValueError`` for a device or dtype that does not exist, for a budget that is not a size, for a budget on
    the CPU, and for an unknown accelerator, and ``TypeError`` for an argument of another type.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        cache: CacheChoice = None,
        passes: Collection[str] | None = None,
        observers: Sequence[Observer] = (),
        manager: PluginManager | None = None,
        memory_budget: int | str | None = None,
        policy: Policy = OWN_WORKFLOW,
        limits: Limits | None = None,
        **settings: Any,
    ):
        device, dtype = str(device), str(dtype).removeprefix("torch.")
        _check_device(device)
        _check_type("graph", graph, Graph, "a Graph: load_workflow(path) reads a workflow")
        _check_type("cache", cache, (str, Path, NoneType), "a folder, 'off' for none, or None for the memory")
        _check_type("passes", passes, (list, tuple, set, frozenset, NoneType), "a list of names, such as ['hoist']")
        _check_type("observers", observers, (list, tuple), "a list of functions, such as [print]")
        _check_type("policy", policy, Policy, "a Policy")
        _check_type("limits", limits, (Limits, NoneType), "a Limits")
        for observer in observers:
            _check_callable("observers", observer)
        for name in settings:
            if name not in MORE_SETTINGS:
                raise TypeError(f"there is no setting '{name}'; {suggest(name, MORE_SETTINGS, 'more settings')}")
        self.graph = graph
        self.manager = manager
        self.config = RunConfig(
            device=device,
            dtype=dtype,
            passes=ALL_PASSES if passes is None else frozenset(passes),
            cache=Path(cache).absolute() if cache not in (None, "off") else None,
            memory_budget=None if memory_budget is None else parse_size(memory_budget),
            policy=policy,
            limits=limits or current_limits(),
            **settings,
        )
        self.attachments = Attachments(memory=None if cache == "off" else _memory, observers=tuple(observers))
        if reason := self.config.budget_problem:
            raise ValueError(reason)

    @cached_property
    def _file_params(self) -> list[str]:
        return [name for name, parameter in self.graph.params.items() if parameter.port.type.is_path]

    @property
    def params(self) -> dict[str, ParameterInfo]:
        """The parameters by name, with type, default and help."""
        return {
            name: ParameterInfo(name, str(p.port.type), None if p.required else p.default, p.required, p.help)
            for name, p in self.graph.params.items()
        }

    @property
    def outputs(self) -> dict[str, str]:
        """The types of the outputs by name."""
        return {name: str(output.type) for name, output in self.graph.outputs.items()}

    def __repr__(self) -> str:
        """The file, a line for each parameter with its help, and the outputs."""
        lines = [f"Workflow '{self.graph.file}' on {self.config.device} in {self.config.dtype}"]
        lines += [f"  {p}" + (f"  # {p.help}" if p.help else "") for p in self.params.values()]
        return "\n".join([*lines, f"  -> {', '.join(f'{name}: {kind}' for name, kind in self.outputs.items())}"])

    def _repr_html_(self) -> str:
        """The drawing of the graph, which notebooks show for a workflow at the end of a cell."""
        return draw_for_notebook(self.graph)

    def bind(self, params: Mapping[str, object]) -> dict[str, Any]:
        """Checked values of all parameters. Raises ``WorkflowError`` that lists all problems."""
        params = self._read_params(params)
        with enforce_limits(self.config.limits):
            return bind(self.graph, params)

    def _read_params(self, params: Mapping[str, object]) -> Mapping[str, object]:
        """The arguments with files in place of pictures. Raises ``TypeError`` unless they are a mapping of names."""
        if type(params) is not dict:  # asked first, as every run comes by here
            _check_type("params", params, Mapping, "a mapping of names to values, such as {'seed': 7}")
        for name in params:
            if type(name) is not str:
                _check_type("the name of a parameter", name, str, "a text")
        if self._file_params:
            return write_given_pictures(params, self._file_params)
        return params

    def plan(self, params: Mapping[str, object], only: Collection[str] | None = None) -> Plan:
        """The compiled plan for these parameters. Raises ``WorkflowError``, also for outputs that do not exist."""
        _check_only(only)
        config = replace(self.config, only=only)
        if problems := Session(self.graph, config).list_output_problems():
            raise WorkflowError(problems)
        return compile_plan(self.graph, self.bind(params), config)

    def run(self, /, *, stop_at: object = _UNSET, resume: object = _UNSET, **params: object) -> Any:
        """Run, and return the outputs by name.

        stop_at: stop after so many iterations of the only loop, or at ``LOOP:ITERATIONS``, and return a ``StoppedRun``
        in place of the outputs. resume: a stopped run, or the path of its file, to go on from with its parameters and
        those in ``params``.
        A workflow with parameters of these names is stopped and resumed by ``run_with``.
        Raises ``WorkflowError`` before anything runs if a parameter is wrong or the stopped run cannot take a change,
        and ``NodeError`` if a node fails.
        """
        options = {name: v for name, v in (("stop_at", stop_at), ("resume", resume)) if v is not _UNSET}
        params |= {name: options.pop(name) for name in [*options] if name in self.graph.params}
        place, earlier = options.get("stop_at"), options.get("resume")
        stop = None if place is None else str(place)
        if earlier is not None and not isinstance(earlier, (str, Path, StoppedRun)):
            raise TypeError(f"resume is a StoppedRun, or the path of its file; found {type(earlier).__name__}")
        stopped = StoppedRun.load(earlier) if isinstance(earlier, (str, Path)) else earlier
        if stopped is not None:
            params = stopped.fill_params(self.graph, params)
        try:
            outputs = self.run_with(params, stop_at=stop, resume=stopped).outputs
        except LoopStopped as error:
            return make_stopped_run(self.graph, self.bind(params), self.config, error.state, stopped)
        if stop is not None:
            raise GuidegraphError(f"the run has ended, and did not reach the loop that it should stop in ({stop})")
        return outputs

    def run_many(self, requests: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
        """Run once for each set of parameters, and return the outputs of each, in order. See ``run_many_with``."""
        return [result.outputs for result in self.run_many_with(requests).results]

    def run_many_with(self, requests: Sequence[Mapping[str, object]], *, at_once: int = 16) -> ManyRuns:
        """Run once for each set of parameters; the runs share the calls of networks, and agree in nothing else.

        They may differ in prompt, seed, scale, steps, sampler and start. Calls of one batchable node become one call
        if they have the same model and samples of one size; ``unshared`` of the result says which do not, and why. Each
        result is within rounding that of ``run_with``.
        at_once: the most runs that are begun and not ended; as one ends, the next begins.
        Raises the errors of ``run_with``, with a note of the run's number; an error ends the other runs.
        """
        _check_type("requests", requests, (list, tuple), "a list of mappings, such as [{'seed': 1}, {'seed': 2}]")
        if at_once < 1:
            raise ValueError(f"at least one run is made at once; found {at_once}")
        count = len(requests)
        for i, params in enumerate(requests):
            with note_number(i, count):
                self.bind(params)

        def run_one(i: int, graph: Graph, cancel: CancelToken) -> RunResult:
            workflow = copy.copy(self)
            workflow.graph = graph
            return workflow.run_with(requests[i], cancel=cancel)

        if self.config.accelerate:
            reason = f"parts of loops are accelerated ({self.config.accelerate}), and each run has its own"
            return run_one_by_one(self.graph, count, run_one, reason)
        return run_together(self.graph, count, run_one, at_once)

    def run_with(
        self,
        params: Mapping[str, object],
        *,
        only: Collection[str] | None = None,
        cancel: CancelToken | None = None,
        on_output: Callable[[str, Any, PortType], None] | None = None,
        on_preview: Callable[[Previewed], None] | None = None,
        stop_at: int | str | None = None,
        resume: StoppedRun | None = None,
    ) -> RunResult:
        """Run with options: outputs to make, a cancel token, and callbacks for outputs and training previews.

        stop_at: where to stop, as for ``run``; raises ``LoopStopped`` there. resume: a stopped run to go on from, with
        all parameters from ``params``.
        """
        _check_only(only)
        _check_type("cancel", cancel, (CancelToken, NoneType), "a CancelToken")
        for name, callback in (("on_output", on_output), ("on_preview", on_preview)):
            if callback is not None:
                _check_callable(name, callback)
        config = replace(self.config, only=only, stop_at="" if stop_at is None else str(stop_at))
        arguments = self._read_params(params)
        with enforce_limits(config.limits):
            problems = list_folder_problems({"cache": config.cache})
            prepared = Session(self.graph, config, stopped=resume).prepare(arguments, problems=problems)
        plugins: Sequence[Observer] = ()
        if self.manager is not None:
            plugins = self.manager.observers(self.graph, prepared.values, config)
        attachments = replace(
            self.attachments,
            observers=[*self.attachments.observers, *plugins],
            cancel=cancel or CancelToken(),
            on_output=on_output,
            on_preview=on_preview,
        )
        return prepared.run(attachments)


def _check_type(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise ``TypeError`` for an argument of another type."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} is {expected}; found {type(value).__name__} {value!r:.60}")


def _check_device(device: str) -> None:
    """Raise ``ValueError`` for a device that torch does not know."""
    if _DEVICE.fullmatch(device):
        return
    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(f"there is no device '{device}'; devices: cpu, cuda, cuda:i") from None


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} takes functions; found {type(value).__name__} {value!r:.60}")


def _check_only(only: Collection[str] | None) -> None:
    """Raise ``TypeError`` for a text in place of a list of outputs."""
    if isinstance(only, str):
        raise TypeError(f"only lists names of outputs; found the text '{only}': write ['{only}']")
    _check_type("only", only, (Collection, NoneType), "a list of names of outputs")


@pause_collector()
def load_workflow(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    cache: CacheChoice = None,
    passes: Collection[str] | None = None,
    observers: Sequence[Observer] = (),
    plugins: Sequence[str] = (),
    registry: Registry | None = None,
    sources: Mapping[str, str] | None = None,
    memory_budget: int | str | None = None,
    policy: Policy = OWN_WORKFLOW,
    limits: Limits | None = None,
    **settings: Any,
) -> Workflow:
    """Read and check a workflow: a path, ``NAMESPACE:FILE`` of a plugin, or ``pkg:FILE`` of this package.

    plugins: modules or Python files with hooks or nodes; ``"__main__"`` is a notebook. registry: nodes in place of the
    installed ones. sources: texts in place of files, by path. Raises ``WorkflowError`` that lists all problems,
    ``ValueError`` for a source that is not used, and ``TypeError`` for an argument of another type.
    """
    _check_arguments(path, plugins, registry, sources, policy, limits)
    manager = _load_plugins(plugins) if registry is None else None
    registry = manager.registry if manager is not None else registry
    assert registry is not None
    graph = _build_from_sources(path, registry, sources or {}, limits, policy)
    return Workflow(
        graph,
        device=device,
        dtype=dtype,
        cache=cache,
        passes=passes,
        observers=observers,
        manager=manager,
        memory_budget=memory_budget,
        policy=policy,
        limits=limits,
        **settings,
    )


def _show_settings(function: Callable[..., Any]) -> None:
    """Give a function with ``**settings`` the signature that names them."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[:-1]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for name, field in MORE_SETTINGS.items()
    ]
    function.__signature__ = signature.replace(parameters=[*parameters, *more])  # type: ignore[attr-defined]


_NAMED = inspect.signature(Workflow.__init__).parameters
MORE_SETTINGS = {
    field.name: field for field in fields(RunConfig) if field.name not in _NAMED and field.name not in _AT_RUN
}
"""The fields of ``RunConfig`` that the signatures below do not spell out."""

for _function in (Workflow.__init__, load_workflow):
    _show_settings(_function)


def _check_arguments(
    path: object, plugins: Sequence[object], registry: object, sources: object, policy: object, limits: object
) -> None:
    """Raise ``TypeError``, or ``ValueError`` for a text in place of a path, for arguments of ``load_workflow``."""
    _check_type("path", path, (str, Path), "a file of a workflow, or a name such as 'pkg:text_to_image.yaml'")
    if "\n" in str(path):
        raise ValueError("path names a file; found a text of several lines: give it as sources={'draw.yaml': text}")
    _check_type("plugins", plugins, (list, tuple), "a list of names of modules, such as ['__main__']")
    for plugin in plugins:
        _check_type("a plugin", plugin, str, "the name of a module or the path of a Python file")
    _check_type("registry", registry, (Registry, NoneType), "a Registry")
    _check_type("sources", sources, (Mapping, NoneType), "a mapping of paths to texts")
    _check_type("policy", policy, Policy, "a Policy")
    _check_type("limits", limits, (Limits, NoneType), "a Limits")


def _build_from_sources(
    path: str | Path, registry: Registry, sources: Mapping[str, str], limits: Limits | None, policy: Policy
) -> Graph:
    """Build a workflow with texts in place of files. Raises as ``build``, and ``ValueError`` for an unused text."""
    file = locate_workflow(Path(path), registry)
    texts = {os.path.abspath(locate_workflow(Path(name), registry)): text for name, text in sources.items()}
    graph = build(file, registry, texts, limits=limits, stranger=policy.stranger)
    if unused := texts.keys() - graph.sources.keys():
        names = ", ".join(sorted(map(repr, unused)))
        raise ValueError(f"sources has {names}, which '{path}' does not use")
    return graph


def _load_plugins(modules: Sequence[str]) -> PluginManager:
    manager = PluginManager(modules, lazy=True)
    manager.load_third_party()
    if failed := [status for status in manager.failures if status.name in modules]:
        raise WorkflowError(
            Problem(Mark("plugins", 1, 1), "plugin-failed", f"{s.name}: {s.reason}" + (f"; {s.fix}" if s.fix else ""))
            for s in failed
        )
    return manager
