"""Reads and checks what one plugin contributes, without other plugins."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pluggy

from guidegraph import graph
from guidegraph.graph.errors import suggest
from guidegraph.graph.node import SPEC_ATTRIBUTE, NodeDefinitionError, NodeSpec, get_spec
from guidegraph.graph.output_format import OutputFormat
from guidegraph.nodes.checkpoints.family import Family
from guidegraph.nodes.condition_fields import ConditionField
from guidegraph.plugins import hookspecs
from guidegraph.plugins.entry_points import DISABLE, NAMESPACES_GROUP, PluginError
from guidegraph_runtime.error_text import describe_error

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("guidegraph_"))


@dataclass(frozen=True)
class Contribution:
    """A plugin's nodes by id, port types by name, file formats, fields of conditions, and families of checkpoints."""

    nodes: dict[str, NodeSpec]
    types: dict[str, type]
    formats: list[OutputFormat]
    condition_fields: list[ConditionField]
    families: list[Family]

    @property
    def namespaces(self) -> list[str]:
        return list(dict.fromkeys(id.partition(".")[0] for id in self.nodes))


def make_hook_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def read_contribution(plugin: object, namespaces: Sequence[str] | None) -> Contribution:
    """Read and check a plugin's nodes, types, file formats, condition fields and families.

    namespaces: one of them begins each id; None allows any, and a module without hooks, such as a notebook
    (``__main__``), contributes the nodes that it defines.

    Raises ``PluginError`` for an unknown hook, a wrong signature, a return value that is not a list of nodes (types,
    fields), and a foreign or duplicate id; an exception of the plugin's own code is its cause.
    """
    _check_marks(plugin)
    manager = make_hook_manager()
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split()), f"the hooks are {', '.join(HOOKS)}") from None
    functions = _collect(manager.hook.guidegraph_nodes, "node functions")
    if not manager.get_hookcallers(plugin):
        name = getattr(plugin, "__name__", None)
        own = {id(v): v for v in vars(plugin).values() if inspect.isfunction(v) and v.__module__ == name}  # once each
        functions = [function for function in own.values() if hasattr(function, SPEC_ATTRIBUTE)]
        if not functions or namespaces is not None:
            fix = "mark a function 'guidegraph_nodes' that returns the node functions with @hookimpl"
            raise PluginError("implements no hook of guidegraph", fix)
    nodes: dict[str, NodeSpec] = {}
    for function in functions:
        try:
            spec = get_spec(function)
        except NodeDefinitionError as error:
            reason = f"guidegraph_nodes returned something else: {error}"
            raise PluginError(reason, "return functions made by @node") from None
        if namespaces is not None and spec.id.partition(".")[0] not in namespaces:
            namespace, _, name = spec.id.rpartition(".")
            declaration = f"declare '{namespace}' in {NAMESPACES_GROUP} in its pyproject.toml"
            fix = f"call it '{namespaces[0]}.{name}', or {declaration}"
            prefixes = " or ".join(f"'{allowed}.'" for allowed in namespaces)
            raise PluginError(f"the node id '{spec.id}' does not begin with {prefixes}", fix)
        if spec.id in nodes:
            raise PluginError(f"two nodes have the id '{spec.id}'", "give each node an id of its own")
        nodes[spec.id] = spec
    types: dict[str, type] = {}
    for cls in _collect(manager.hook.guidegraph_types, "port types"):
        if not isinstance(cls, type):
            raise PluginError(f"guidegraph_types returned {cls!r}, which is not a class", "return classes")
        if types.get(cls.__name__, cls) is not cls:
            raise PluginError(f"two port types are called '{cls.__name__}'", "rename one of them")
        types[cls.__name__] = cls
    formats = _collect_formats(manager.hook.guidegraph_outputs)
    fields = _collect_fields(manager.hook.guidegraph_condition_fields)
    return Contribution(nodes, types, formats, fields, collect_families(manager.hook.guidegraph_families))


def _collect_formats(hook: pluggy.HookCaller) -> list[OutputFormat]:
    formats: dict[tuple[str, str], OutputFormat] = {}
    for format in _collect(hook, "output formats"):
        if not isinstance(format, OutputFormat):
            raise PluginError(f"{hook.name} returned {format!r:.80}", "return OutputFormat(type, suffix, write)")
        if not isinstance(format.type, type) or not callable(format.write):
            raise PluginError(
                f"the format {format.suffix!r} needs a class as its type and a function as its writer",
                "return OutputFormat(type, suffix, write)",
            )
        if not re.fullmatch(r"(\.[A-Za-z0-9_-]+)+", format.suffix):
            raise PluginError(f"the suffix {format.suffix!r} of {format.type.__name__} is none", "write it as '.wav'")
        if formats.setdefault((format.type.__name__, format.suffix), format) is not format:
            raise PluginError(f"two formats are called {format.name}", "remove one of them")
    return list(formats.values())


def _collect_fields(hook: pluggy.HookCaller) -> list[ConditionField]:
    """A plugin's fields of conditions. Raises ``PluginError`` for another object, and for two fields of one name."""
    fields: dict[str, ConditionField] = {}
    for field in _collect(hook, "condition fields"):
        if not isinstance(field, ConditionField):
            reason = f"{hook.name} returned {field!r:.80}, which is not a ConditionField"
            raise PluginError(reason, "return a list of ConditionField(name, axes)")
        if fields.get(field.name, field) != field:
            raise PluginError(f"two condition fields are called '{field.name}'", "rename one of them")
        fields[field.name] = field
    return list(fields.values())


def collect_families(hook: pluggy.HookCaller) -> list[Family]:
    """A plugin's families of checkpoints. Raises ``PluginError`` for another object, and for two of one name."""
    families: dict[str, Family] = {}
    for family in _collect(hook, "families"):
        fits = isinstance(family, Family) and callable(family.recognise) and callable(family.open)
        if not fits or not (isinstance(family.name, str) and family.name.strip()):
            raise PluginError(
                f"{hook.name} returned {family!r:.80}, which is not a Family with a name and two functions",
                "return a list of Family(name, recognise, open)",
            )
        if families.setdefault(family.name, family) is not family:
            raise PluginError(f"two families are called '{family.name}'", "rename one of them")
    return list(families.values())


def _check_marks(plugin: object) -> None:
    """Raise ``PluginError`` for a hook without its marker, which would be silently ignored."""
    for name, value in list(vars(plugin).items()) if hasattr(plugin, "__dict__") else ():
        if not name.startswith("guidegraph_") or not inspect.isfunction(value):
            continue
        if not hasattr(value, f"{hookspecs.PROJECT}_impl"):
            raise PluginError(f"the function {name} is not marked as a hook", "decorate it with @hookimpl")
        if name not in HOOKS:
            raise PluginError(f"there is no hook '{name}'; {suggest(name, HOOKS, 'hooks')}", "rename or remove it")


def _collect(hook: pluggy.HookCaller, expected: str) -> list[Any]:
    try:
        results = hook()
        collected: list[Any] = []
        for result in results:
            if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
                raise PluginError(f"{hook.name} returned {result!r:.80}", f"return a list of {expected}")
            collected += result
        return collected
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        fix = f"repair the hook{format_location(error)}; it must return a list of {expected}"
        raise PluginError(f"{hook.name} failed: {describe_error(error)}", fix) from error


def describe_removal(name: str, modules: Collection[str] = ()) -> str:
    """How to leave a plugin out. modules: those that ``--plugin`` names; the others are installed."""
    return f"leave out --plugin {name}" if name in modules else f"leave it out with {DISABLE}"


def load_or_explain(load: Callable[[], Any], fix: str, removal: str) -> Any:
    """Return the result of ``load``. Raises ``PluginError`` with the remedy ``fix``, or a more specific one.

    removal: how to leave the plugin out.
    """
    try:
        return load()
    except (KeyboardInterrupt, PluginError):
        raise
    except NodeDefinitionError as error:
        fix = f"repair the node's signature{format_location(error)}"
        raise PluginError(f"cannot be imported: {error}", fix) from error
    except ImportError as error:
        raise PluginError(f"cannot be imported: {describe_error(error)}", fix) from error
    except BaseException as error:
        fix = f"repair it{format_location(error)}, or {removal}"
        raise PluginError(f"cannot be imported: {describe_error(error)}", fix) from error


def format_location(error: BaseException) -> str:
    """Format the error's location in the plugin's code: " at FILE:LINE", or an empty string if unknown.

    It is the last line of the package that the loader called, also if a library that it uses raised the error.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    folders = [Path(str(module.__file__)).parent for module in (graph, pluggy)]
    frames: list[tuple[FrameType, int]] = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        is_import = file[:1] == "<" or "importlib" in file or Path(file).parent == Path(__file__).parent
        if not is_import and not any(map(Path(file).is_relative_to, folders)):
            frames.append((frame, line))
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
    own = [entry for entry, package in zip(frames, packages, strict=True) if package == packages[0]]
    return f" at {own[-1][0].f_code.co_filename}:{own[-1][1]}" if own else ""


def explain_failure(error: BaseException, removal: str) -> tuple[str, str, str]:
    """The reason, the fix and, if the plugin's own code failed, the traceback of an error.

    removal: how to leave the plugin out.
    """
    if isinstance(error, PluginError):
        cause = error.__cause__
        return str(error), error.fix, "".join(traceback.format_exception(cause)) if cause else ""
    return (
        describe_error(error),
        f"repair the plugin{format_location(error)}, or {removal}",
        "".join(traceback.format_exception(error)),
    )


Value = TypeVar("Value")


class LazyMapping(Mapping[str, Value]):
    """A view of ``values``, which ``load`` and ``load_all`` fill in.

    load: called with a key that is missing. load_all: called before the mapping is iterated or counted.
    """

    def __init__(self, values: Mapping[str, Value], load: Callable[[str], object], load_all: Callable[[], object]):
        self._values, self._load, self._load_all = values, load, load_all

    def __getitem__(self, key: str) -> Value:
        try:
            return self._values[key]
        except KeyError:  # looked up once: another thread may be filling the values in
            self._load(key)
            return self._values[key]

    def __iter__(self) -> Iterator[str]:
        self._load_all()
        return iter(self._values)

    def __len__(self) -> int:
        self._load_all()
        return len(self._values)
