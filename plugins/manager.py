"""The plugin loader: each plugin is loaded separately, and a failing plugin leaves no trace.

A plugin is first loaded into its own plugin manager; its nodes and types are checked against the existing ones; only
then does it join the others.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from guidegraph import nodes
from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.events import Event, Observer
from guidegraph.graph.memory.pause_collector import pause_for_import
from guidegraph.graph.node import NodeSpec, Registry
from guidegraph.graph.output_format import OutputFormat
from guidegraph.graph.types import PortType
from guidegraph.nodes.checkpoints.family import AskingFunction, Offer
from guidegraph.nodes.condition_fields import declare_fields
from guidegraph.plugins import builtin, hookspecs
from guidegraph.plugins.contribution import (
    Contribution,
    LazyMapping,
    describe_removal,
    explain_failure,
    load_or_explain,
    make_hook_manager,
    read_contribution,
)
from guidegraph.plugins.entry_points import (
    DISABLE,
    NAMESPACES,
    NAMESPACES_GROUP,
    OWN_DISTRIBUTION,
    PluginError,
    check_entry,
    check_requirement,
    find_packages,
    import_plugin_module,
    is_own,
    list_entry_points,
    list_namespaces,
    normalise_name,
    package_folders,
    read_disabled_plugins,
    read_distribution,
)
from guidegraph.plugins.hookspecs import RunInfo, hook_of
from guidegraph.plugins.import_guard import OutputToStderr, guard_import, keep_settings, rollback_on_failure
from guidegraph.plugins.previews import make_preview
from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.machine.optional_packages import package_command

if TYPE_CHECKING:
    from guidegraph.graph.ir import Graph
    from guidegraph.graph.run_config import RunConfig


log = logging.getLogger(__name__)

FAMILIES = "families"
"""The package with the released families, which `checkpoint.load` reads without other plugins too."""
LEFT_OUT = "installed plugins are left out (--no-plugins)"


@dataclass(frozen=True)
class PluginStatus:
    """The state of one plugin, for ``guidegraph plugins``.

    name: its namespace (of a module given with ``--plugin``, the module). reason: one line, empty for state ok. fix:
    how to repair it. traceback: if the plugin's own code failed. notes: undesirable effects of its import on the
    process.
    """

    name: str
    distribution: str
    version: str
    state: Literal["ok", "failed", "disabled"]
    nodes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    condition_fields: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    reason: str = ""
    fix: str = ""
    traceback: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.state == "ok"

    def with_names(self, contribution: Contribution) -> PluginStatus:
        """The state with the names of everything that the plugin brings."""
        return replace(
            self,
            nodes=tuple(contribution.nodes),
            types=tuple(contribution.types),
            formats=tuple(format.name for format in contribution.formats),
            condition_fields=tuple(field.name for field in contribution.condition_fields),
            families=tuple(family.name for family in contribution.families),
        )


class PluginManager:
    """All plugins of this process: the built-in nodes, entry points, and modules named on the command line."""

    def __init__(
        self,
        extra_modules: Sequence[str] = (),
        *,
        disable: Iterable[str] | None = None,
        entry_points: bool = True,
        lazy: bool = False,
    ) -> None:
        """disable: namespaces to leave out (by default those in ``GUIDEGRAPH_DISABLE_PLUGINS``). entry_points: whether
        other projects' installed plugins are loaded; otherwise only their names are known. lazy: import an installed
        plugin when its namespace or distribution is looked up in the registry, or all of them when it is iterated; not
        with ``extra_modules``. The built-in nodes are always imported in this way."""
        self._hooks = make_hook_manager()
        self._status: dict[str, PluginStatus] = {}
        self._nodes: dict[str, NodeSpec] = {}
        self._types: dict[str, type] = {}
        self._formats: dict[str, list[OutputFormat]] = {}
        self._families: dict[tuple[str, str], list[Offer]] = {}
        self._failed: dict[str, str] = {}
        self._absent: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._folders: dict[str, Sequence[Path]] = {}
        self._apps: list[Any] = []
        self._modules = tuple(extra_modules)
        self._pending: list[importlib.metadata.EntryPoint] = []
        self._lock, self._complete = threading.RLock(), False
        self._builtin = self._add_builtin()
        disabled = read_disabled_plugins() if disable is None else set(disable)
        self.installed = [entry.name for entry in list_entry_points()]
        self.unknown_disabled = sorted(disabled - set(self.installed))
        self._declared = list_entry_points(NAMESPACES_GROUP)
        entries = [entry for entry in list_entry_points() if entry.name in NAMESPACES]
        present = {entry.name for entry in entries if is_own(read_distribution(entry)[0])}
        for package, namespaces in NAMESPACES.items():
            if package not in present:
                reason = f"it is in the package guidegraph-{package}: {package_command(package)}"
                for namespace in namespaces:
                    earlier = self._failed.get(namespace)
                    self._failed[namespace] = f"{earlier}; or {reason}" if earlier else reason
        for entry in list_entry_points():
            reason = f"disabled by {DISABLE}" if entry.name in disabled else ""
            if reason or (not entry_points and not is_own(read_distribution(entry)[0])):
                error = PluginError(reason or LEFT_OUT)
                self._fail(entry.name, *read_distribution(entry), error, "disabled", self._list_namespaces(entry))
            else:
                self._pending.append(entry)
        self._report_lost_namespaces()
        if extra_modules or not lazy:
            self.load_all()
        for name in extra_modules:
            self._add_module(name)

    @property
    def statuses(self) -> list[PluginStatus]:
        """The state of the built-in nodes, all of which this imports, and of each plugin that was imported or left
        out."""
        self._complete_builtin()
        return list(self._status.values())

    @property
    def failures(self) -> list[PluginStatus]:
        """The plugins that failed so far."""
        return [status for status in self._status.values() if status.state == "failed"]

    @property
    def registry(self) -> Registry:
        """The nodes and types of the plugins. Those that are not imported yet are when they are looked up."""
        if not self._pending and self._complete:
            return Registry(
                dict(self._nodes),
                dict(self._types),
                dict(self._failed),
                dict(self._versions),
                dict(self._absent),
                dict(self._folders),
                dict(self._formats),
            )
        return Registry(
            LazyMapping(self._nodes, self._load_node, self.complete),
            LazyMapping(self._types, lambda name: self.complete(), self.complete),
            LazyMapping(self._failed, self.load, self.load_all),
            LazyMapping(self._versions, self.load, self.load_third_party),
            LazyMapping(self._absent, self.load, self.load_all),
            LazyMapping(self._folders, self.load, self.load_all),
            LazyMapping(self._formats, self._load_formats, self.complete),
        )

    def load(self, name: str) -> None:
        """Import the plugins that a node's id, a namespace or a distribution names, unless they are imported."""
        namespace = name.partition(".")[0]
        self._add_entry_points(
            lambda entry: (
                namespace in self._list_namespaces(entry) or normalise_name(read_distribution(entry)[0]) == name
            )
        )

    def _report_lost_namespaces(self) -> None:
        """Fail declared namespaces whose distribution has no such plugin."""
        plugins = [(entry.name, *read_distribution(entry)) for entry in list_entry_points()] if self._declared else []
        for declared in self._declared:
            if (declared.value, *read_distribution(declared)) not in plugins:
                reason = f"the namespace '{declared.name}' is declared for '{declared.value}', which is no plugin of it"
                fix = "write the name of its entry point in the group 'guidegraph' after '='"
                self._fail(declared.name, *read_distribution(declared), PluginError(reason, fix), namespaces=())

    def _list_namespaces(self, entry: importlib.metadata.EntryPoint) -> list[str]:
        return list_namespaces(entry, self._declared)

    def load_all(self) -> None:
        """Import all installed plugins that are not imported yet."""
        self._add_entry_points(lambda entry: True)

    def load_third_party(self) -> None:
        """Import the installed plugins of other distributions: their observers see every run."""
        self._add_entry_points(lambda entry: not is_own(read_distribution(entry)[0]))

    def load_families(self) -> None:
        """Import the package of released families, and all plugins that may have others."""
        self.load(FAMILIES)
        self.load_third_party()

    def _load_formats(self, name: str) -> None:
        """Add the built-in formats, and import other distributions if none is of the type with this name."""
        self._add_formats(OWN_DISTRIBUTION, builtin.guidegraph_outputs())
        if name not in self._formats:
            self.load_third_party()

    def _add_formats(self, name: str, formats: Iterable[OutputFormat]) -> None:
        for format in formats:
            of_type = self._formats.setdefault(format.type.__name__, [])
            if all(format.suffix != other.suffix for other in of_type):
                of_type.append(format)

    def list_families(self) -> list[Offer]:
        """The families of checkpoints, our own first. Imports their package and the plugins of other distributions."""
        self.load_families()
        offers = [offer for offers in self._families.values() for offer in offers]
        return sorted(offers, key=lambda offer: offer.plugin != OWN_DISTRIBUTION)

    def list_family_plugins(self) -> list[tuple[str, str]]:
        """The plugins with families, as their distributions with versions and their modules, in order."""
        self.load_families()
        return sorted(self._families)

    def complete(self) -> None:
        """Import all built-in nodes and types, and all installed plugins, that are not imported yet."""
        self._complete_builtin()
        self.load_all()

    def package_folders(self) -> list[Path]:
        """The folders of the built-in nodes and of the imported plugins' packages."""
        return [Path(nodes.__path__[0]), *(folder for folders in self._folders.values() for folder in folders)]

    def add_commands(self, app: Any) -> None:
        """Let every third-party plugin that is imported add its commands, once.

        One that fails, or takes a name that exists, adds none. The command line adds those of this project by itself.
        """
        if any(app is known_app for known_app in self._apps):
            return
        self._apps.append(app)
        for name, plugin in self._hooks.list_name_plugin():
            if is_own(self._status[name].distribution):
                continue
            try:
                with rollback_on_failure(app), redirect_stdout(sys.stderr):
                    hookspecs.hook_of(self._hooks, "guidegraph_commands", plugin)(app=app)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._report(name, error)

    def command_plugins(self) -> list[str]:
        """The names of the imported plugins that add commands."""
        names = [each.plugin_name for each in self._hooks.hook.guidegraph_commands.get_hookimpls()]
        return [name for name in names if not is_own(self._status[name].distribution)]

    def observers(
        self,
        graph: Graph,
        params: Mapping[str, Any],
        config: RunConfig,
        warn: Callable[[str], object] = log.warning,
    ) -> list[Observer]:
        """The plugins' observers of a run. One that fails, then or later, is reported, and the run goes on."""
        return make_observers(self._hooks, graph, params, config, warn, self._report)

    def preview(self, value: Any, kind: PortType) -> str | bytes | None:
        """The preview of a value at a port of a plugin's own type: a text or a PNG; ``None`` without one."""
        types = {name: [self._types[t] for t in status.types] for name, status in self._status.items()}
        return make_preview(self._hooks, types, value, kind, self._report)

    def _add_builtin(self) -> builtin.BuiltinNodes:
        version = str(sys.modules[__name__.partition(".")[0]].__version__)
        self._versions[OWN_DISTRIBUTION] = version
        with suppress(importlib.metadata.PackageNotFoundError):  # a source checkout that is not installed
            self._versions["guidegraph-runtime"] = importlib.metadata.version("guidegraph-runtime")
        self._hooks.register(builtin, name=OWN_DISTRIBUTION)
        self._status[OWN_DISTRIBUTION] = PluginStatus(OWN_DISTRIBUTION, OWN_DISTRIBUTION, version, "ok")
        self._owners[OWN_DISTRIBUTION] = f"{OWN_DISTRIBUTION}=={version}"
        return builtin.BuiltinNodes(self._owners[OWN_DISTRIBUTION])

    def _load_node(self, id: str) -> None:
        """Import what may define a node: modules of built-in nodes, or an installed plugin."""
        with self._lock:
            if spec := self._builtin.find(id):
                self._nodes[id] = self.bind_asking(spec)
            else:
                self.load(id)

    def bind_asking(self, spec: NodeSpec) -> NodeSpec:
        """The node, with the families of all plugins if it asks for them."""
        if spec.asks != hookspecs.guidegraph_families.__name__:
            return spec
        function = AskingFunction(spec.function, self.list_families)
        return replace(spec, function=function, contributors=self.list_family_plugins)

    def _complete_builtin(self) -> None:
        with self._lock:
            if self._complete:
                return
            contribution = self._builtin.load_all()
            plugin_nodes = {id: spec for id, spec in self._nodes.items() if id not in contribution.nodes}
            self._nodes.clear()
            self._nodes |= {id: self.bind_asking(spec) for id, spec in contribution.nodes.items()} | plugin_nodes
            self._types |= contribution.types
            self._add_formats(OWN_DISTRIBUTION, contribution.formats)
            self._owners |= dict.fromkeys(contribution.namespaces, self._builtin.owner)
            status = self._status[OWN_DISTRIBUTION]
            self._status[OWN_DISTRIBUTION] = status.with_names(contribution)
            self._complete = True

    def _add_entry_points(self, is_due: Callable[[importlib.metadata.EntryPoint], bool]) -> None:
        """Import the pending plugins that are due. Waits for another thread that imports some."""
        with self._lock:
            for entry in list(filter(is_due, self._pending)):
                if entry in self._pending:  # one with types or fields imports those before it
                    self._add_entry_point(entry)

    def _add_entry_point(self, entry: importlib.metadata.EntryPoint) -> None:
        position = self._pending.index(entry)
        self._pending.remove(entry)
        distribution, version = read_distribution(entry)
        namespaces = self._list_namespaces(entry)
        notes: list[str] = []
        try:
            check_entry(entry, namespaces)
            if not is_own(distribution):
                earlier = [
                    e for e in self._pending[:position] if not {*namespaces}.isdisjoint(self._list_namespaces(e))
                ]
                self._add_entry_points(earlier.__contains__)  # of two with one namespace the first plugin's is taken
                self._check_namespaces(namespaces)
            check_requirement(entry, self._versions[OWN_DISTRIBUTION])
            with _guard_import(entry.name, distribution, notes):
                removal = describe_removal(entry.name)
                plugin = load_or_explain(entry.load, f"install what it needs, or {removal}", removal)
                contribution = read_contribution(plugin, namespaces)
            if contribution.types or contribution.condition_fields:  # of two with one name the first plugin's is taken
                self._add_entry_points(self._pending[:position].__contains__)
            self._join(entry.name, plugin, entry.module, contribution, distribution, version, notes)
            self._folders[entry.name] = package_folders(entry.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit, and a plugin's own BaseExceptions
            self._fail(entry.name, distribution, version, error, namespaces=namespaces, notes=notes)

    def _add_module(self, name: str) -> None:
        namespace = name.removesuffix(".py").replace("/", ".").rpartition(".")[2]
        distribution, version = namespace, "0"
        notes: list[str] = []
        try:
            takes = "--plugin takes the name of a module or the path of a Python file (.py)"
            is_missing = name.endswith(".py") and not Path(name).is_file()
            fix = f"name a file that exists; {takes}" if is_missing else f"install what it needs; {takes}"
            with _guard_import(name, distribution, notes):
                module: ModuleType = load_or_explain(
                    lambda: import_plugin_module(name), fix, describe_removal(name, self._modules)
                )
                if self._hooks.is_registered(module):
                    return
                version = str(getattr(module, "__version__", "0"))
                contribution = read_contribution(module, None)
            self._check_namespaces(contribution.namespaces)
            self._join(name, module, module.__name__, contribution, distribution, version, notes)
            self._folders |= dict.fromkeys(contribution.namespaces, package_folders(module.__name__))
            for provided in contribution.namespaces:  # it replaces an installed plugin that is left out
                self._failed.pop(provided, None)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(name, distribution, version, error, namespaces=[namespace], notes=notes)

    def _check_namespaces(self, namespaces: Iterable[str]) -> None:
        """Raise ``PluginError`` for a namespace of another distribution, or of a package of this project.

        Those packages share theirs with the core and each other, and are not checked.
        """
        for namespace in namespaces:
            if self._builtin.may_define(namespace):
                self._complete_builtin()
            if owner := self._owners.get(namespace) or " and ".join(find_packages(namespace)):
                fix = "rename this plugin and its nodes, or leave the other one out"
                raise PluginError(f"the namespace '{namespace}' belongs to {owner}", fix)

    def _join(
        self,
        name: str,
        plugin: object,
        module: str,
        contribution: Contribution,
        distribution: str,
        version: str,
        notes: Sequence[str] = (),
    ) -> None:
        """Add the nodes, types, fields and families of a checked plugin. Raises before changing anything."""
        if contribution.types:
            self._types |= self._builtin.load_types()
        for type_name, cls in contribution.types.items():
            if self._types.get(type_name, cls) is not cls:
                owner = f"{self._types[type_name].__module__}.{type_name}"
                raise PluginError(f"the port type '{type_name}' exists already: {owner}", "rename the type")
        if contribution.formats:
            self._add_formats(OWN_DISTRIBUTION, builtin.guidegraph_outputs())
        for format in contribution.formats:
            for other in self._formats.get(format.type.__name__, ()):
                if other.type is not format.type or other.suffix == format.suffix:
                    owner = f"{other.type.__module__}.{other.type.__name__}, written by {other.write.__module__}"
                    raise PluginError(f"the format {format.name} exists already: {owner}", "choose another suffix")
        try:
            declare_fields(contribution.condition_fields, name)
        except ValueError as error:
            raise PluginError(str(error), "rename the field in one of them, or leave one plugin out") from None
        self._hooks.register(plugin, name=name)
        owner = f"{distribution}=={version}"
        self._nodes |= {id: replace(spec, distribution=owner, plugin=module) for id, spec in contribution.nodes.items()}
        self._types |= contribution.types
        self._add_formats(name, contribution.formats)
        if contribution.families:
            home = OWN_DISTRIBUTION if is_own(distribution) else name
            self._families[owner, module] = [Offer(family, home) for family in contribution.families]
        names = [*contribution.namespaces, *([name] if name.isidentifier() else [])]
        self._owners = dict.fromkeys(names, owner) | self._owners
        self._versions[normalise_name(distribution)] = version
        status = PluginStatus(name, distribution, version, "ok", notes=tuple(notes))
        self._status[name] = status.with_names(contribution)

    def _fail(
        self,
        name: str,
        distribution: str,
        version: str,
        error: BaseException,
        state: Literal["failed", "disabled"] = "failed",
        namespaces: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        reason, fix, trace = explain_failure(error, describe_removal(name, self._modules))
        key = name if name not in self._status else f"{name} ({distribution})"
        self._status[key] = PluginStatus(
            name, distribution, version, state, reason=reason, fix=fix, traceback=trace, notes=tuple(notes)
        )
        self._absent[normalise_name(distribution)] = reason
        self._failed |= dict.fromkeys(namespaces, f"{reason} (plugin '{name}' of {distribution} {version})")

    def _report(self, name: str, error: BaseException) -> None:
        """Record that a loaded plugin failed in a later hook; its nodes stay."""
        reason, fix, trace = explain_failure(error, describe_removal(name, self._modules))
        self._status[name] = replace(self._status[name], state="failed", reason=reason, fix=fix, traceback=trace)


def default_registry(
    extra_modules: Sequence[str] = (), *, disable: Iterable[str] | None = None, entry_points: bool = True
) -> Registry:
    """The nodes and types of this process. ``entry_points=False`` leaves out installed plugins."""
    manager = PluginManager(extra_modules, disable=disable, entry_points=entry_points)
    manager.complete()
    return manager.registry


@contextmanager
def _guard_import(name: str, distribution: str, notes: list[str]) -> Iterator[None]:
    """Around the import of a plugin: guards it, and sends its output to stderr."""
    with ExitStack() as stack:
        stack.enter_context(pause_for_import())
        if not is_own(distribution):
            stack.enter_context(guard_import(name))
        stack.enter_context(keep_settings(notes))
        stack.enter_context(redirect_stdout(OutputToStderr()))
        yield


HOOK = "guidegraph_observer"


class GuardedObserver:
    """A plugin's observer; if it fails, the failure is reported, the observer is left out, and the run continues."""

    def __init__(self, observer: Observer, warn: Callable[[str], object]):
        self._observer: Observer | None = observer
        self._warn = warn

    def __call__(self, event: Event) -> None:
        if self._observer is None:
            return
        try:
            with redirect_stdout(sys.stderr):  # a program may read a command's standard output
                self._observer(event)
        except BaseException as error:
            if is_interrupt(error):
                raise
            name = getattr(self._observer, "__qualname__", type(self._observer).__name__)
            self._warn(f"warning: the observer {name} failed and is left out: {describe_error(error)}")
            self._observer = None


def make_observers(
    hooks: pluggy.PluginManager,
    graph: Graph,
    params: Mapping[str, Any],
    config: RunConfig,
    warn: Callable[[str], object],
    report: Callable[[str, BaseException], None],
) -> list[Observer]:
    """The observers of a run with these parameters, which are copied for them if a plugin has the hook.

    report: called with a plugin whose hook fails, and with the error. warn: called if an observer fails later.
    """
    observers: list[Observer] = []
    if not getattr(hooks.hook, HOOK).get_hookimpls():
        return observers
    info = RunInfo(graph, params, config.device, config.dtype)
    for name, plugin in hooks.list_name_plugin():
        try:
            with redirect_stdout(sys.stderr):
                returned = hook_of(hooks, HOOK, plugin)(run=info)
            if unfit := [o for o in returned if not callable(o)]:
                raise PluginError(f"{HOOK} returned {unfit[0]!r}", "return a callable, or None")
            observers += [GuardedObserver(o, warn) for o in returned]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            report(name, error)
    return observers
