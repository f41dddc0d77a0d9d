"""``@node``: a function's signature is its node's schema.

Positional parameters are input ports (a default makes one optional), keyword-only parameters are
settings, and the return annotation gives the outputs: a ``NamedTuple`` names several, any other type
is the single output ``out``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from guidegraph.graph.errors import suggest
from guidegraph.graph.output_format import Formats
from guidegraph.graph.port import Port, port_kinds, read_ports
from guidegraph.graph.types import PortType, Tensor, read_types
from guidegraph.graph.values.output_check import OutputCheck, make_output_check

if TYPE_CHECKING:
    from guidegraph_runtime.declare.settings import Range

P = ParamSpec("P")
R = TypeVar("R")

SPEC_ATTRIBUTE = "__guidegraph__"
WIRED = "wired"
"""Argument of ``check=``: the names of the ports and settings that have a link or a literal."""
SHAPES = "shapes"
"""Argument of ``check=``: the shapes of ports that are known before the run."""
READ = "outputs"
"""Argument of ``extras=``: the names of the outputs that are read."""
SETTINGS_ONLY = ("identity", "provides")
"""Traits whose functions take settings but no ports."""


Watch: TypeAlias = Literal["nothing", "torch", "everything"]
SHIPPED = ("guidegraph==", "guidegraph-diffusers==", "guidegraph-families==")
"""The distributions of this project that have nodes or families, as they are named before a version."""


@dataclass(frozen=True)
class NodeSpec:
    """A node's schema and traits. The passes rewrite only as the traits allow.

    same_type: for each output annotated with a type variable, the ports annotated with it: the output has the type of
    their links. plugin: the module that registered the node, unless it is built in. contributors: lists the plugins
    whose functions a node that `asks` may call, each as its distribution with its version and its module.
    """

    id: str
    function: Callable[..., Any]
    inputs: dict[str, Port]
    settings: dict[str, Port]
    outputs: dict[str, PortType]
    named_outputs: bool
    version: str = "1"
    pure: bool = True
    io: bool = False
    host: bool = False
    runtime: bool = False
    split: Callable[..., Any] | None = None
    batchable: tuple[str, ...] = ()
    needs: Callable[..., set[str]] | None = None
    identity: Callable[..., str | None] | None = None
    check: Callable[..., Mapping[str, str]] | None = None
    shape: Callable[..., Any] | None = None
    extras: Callable[..., Mapping[str, str]] | Mapping[str, str] | None = None
    provides: Callable[..., Collection[str]] | None = None
    ranges: Callable[..., Mapping[str, Range]] | None = None
    needs_arguments: tuple[str, ...] = ()
    identity_settings: tuple[str, ...] = ()
    check_arguments: tuple[str, ...] = ()
    ranges_arguments: tuple[str, ...] = ()
    same_type: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shape_arguments: tuple[str, ...] = ()
    distribution: str = field(default="", compare=False)
    plugin: str = field(default="", compare=False)
    asks: str = ""
    contributors: Callable[[], Sequence[tuple[str, str]]] | None = field(default=None, compare=False)

    @cached_property
    def has_requirements(self) -> bool:
        """Whether the node may need something that this machine lacks: a package, a file, a component of a model."""
        paths = any(Path in port.type.alternatives for port in self.settings.values())
        return bool(paths or self.extras or self.provides)

    @cached_property
    def path_ports(self) -> frozenset[str]:
        """The ports and settings that name files or folders."""
        return frozenset(name for name, port in self.ports.items() if port.type.is_path)

    @cached_property
    def output_checks(self) -> tuple[OutputCheck | None, ...]:
        """A type check for each output; ``None`` if any value fits."""
        return tuple(map(make_output_check, self.outputs.values()))

    @cached_property
    def output_positions(self) -> dict[str, int]:
        """The position of each output by name."""
        return {name: i for i, name in enumerate(self.outputs)}

    @cached_property
    def ports(self) -> dict[str, Port]:
        """The input ports and the settings."""
        return {**self.inputs, **self.settings}

    @cached_property
    def watch(self) -> Watch:
        """The process state that is saved before each call and restored after it.

        For nodes that do not ship with guidegraph: everything. guidegraph's own nodes run third-party code only
        through a model on a port, for which it is torch's settings, or by asking other plugins.
        """
        owners = [self.distribution, *(owner for owner, _ in (self.contributors() if self.contributors else ()))]
        if not all(owner.startswith(SHIPPED) for owner in owners):
            return "everything"
        kinds_read = {kind for port in self.inputs.values() for kind in port_kinds(port.type)}
        return "torch" if kinds_read & {"model", "unknown"} else "nothing"

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        return self.doc.split("\n\n")[0].replace("\n", " ")


class NodeDefinitionError(TypeError):
    """A function cannot be a node; the message gives the reason and the correction."""


def node(
    id: str,
    *,
    pure: bool = True,
    io: bool = False,
    host: bool = False,
    runtime: bool = False,
    split: Callable[..., Any] | None = None,
    batchable: Iterable[str] = (),
    needs: Callable[..., set[str]] | None = None,
    identity: Callable[..., str | None] | None = None,
    check: Callable[..., Mapping[str, str]] | None = None,
    shape: Callable[..., Any] | None = None,
    extras: Callable[..., Mapping[str, str]] | Mapping[str, str] | None = None,
    provides: Callable[..., Collection[str]] | None = None,
    ranges: Callable[..., Mapping[str, Range]] | None = None,
    asks: str = "",
    version: str | int = 1,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a typed function as the node ``id`` (``namespace.name``).

    pure: equal inputs give equal outputs, without side effects; calls of an impure node are never cached or merged.
    io: the node waits for disk or network, so it may run on a thread while others compute.
    host: the node cannot be traced into a graph (it tokenises, saves or loads).
    runtime: the torch-free runtime has an equivalent operation of this id, with the same ports, settings and defaults,
        so an exported bundle can call it between its graphs.
    split: how a host node is exported. Takes the ports and settings that are constant over runs, by name; returns a
        ``Split``, or ``None`` if the node cannot be exported.
    batchable: ports along whose batch axis several calls may be merged; the first has the batch size, the others that
        size or 1.
    needs: takes settings and ports by name; returns the ports whose values matter. Any other port may receive any
        value of its type (the type of a needed port), so the result must not depend on it. Called once its arguments
        are known; none of them is a tensor.
    identity: takes settings by name; returns the port that is passed through unchanged, or ``None``.
    check: takes settings and ports by name, ``wired`` (the names of those with a link or a literal) and ``shapes``
        (the known shapes of ports, by name); returns a message for each port that is wired incorrectly. Called as
        early as ``needs``, and before anything else in the loop that contains the call; arguments with a default are
        omitted while their value is unknown.
    shape: returns the leading axes of the output as far as settings and ports determine them; a mapping for several
        outputs; ``None`` if unknown. Plain data is passed by value, other ports as an object with a ``shape``,
        unlinked ports as ``None``. Raises ``ValueError`` for shapes that do not fit together. Without it, a
        ``batchable`` node gives as many samples as its first port has.
    extras: the optional packages that the node imports: a mapping from module to the extra of guidegraph that installs
        it, or a function of settings and ``outputs`` (the names of the outputs that are read) that returns one. A run
        is refused before it starts if a package is missing.
    provides: takes settings by name; returns the outputs that the node will give, for a node that cannot always give
        all. It may read a file but must not import large packages; raises ``ValueError`` for a file it cannot use.
    ranges: takes settings and ports by name; returns the ranges of the numbers of other settings and ports, as far as
        these values determine them. An exported bundle refuses other numbers before it runs. Called at export, if its
        arguments are the same in every run and none is a tensor.
    asks: the hook whose results, of all plugins, the node uses; their code is part of the cache key. Of built-in nodes.
    version: part of the cache key; increase it when results change.

    Raises ``NodeDefinitionError`` for a signature that cannot be a schema.
    """

    if not isinstance(id, str):
        raise NodeDefinitionError(f"{getattr(id, '__qualname__', id)}: write @node('namespace.name'), with an id")
    if isinstance(batchable, (bool, str)):
        raise NodeDefinitionError(f"{id}: batchable takes port names, such as ('x', 't'); found {batchable!r}")
    for trait, function in (
        ("needs", needs),
        ("identity", identity),
        ("check", check),
        ("shape", shape),
        ("provides", provides),
        ("ranges", ranges),
        ("split", split),
    ):
        if function is not None and not callable(function):
            raise NodeDefinitionError(f"{id}: {trait} takes a function of settings; found {type(function).__name__}")

    def register(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):
            raise NodeDefinitionError(f"{id}: a node is a plain function, and this one is async")
        traits: dict[str, Any] = {"pure": pure, "io": io, "host": host, "runtime": runtime}
        traits |= {"batchable": tuple(batchable), "version": str(version)}
        traits |= {"split": split, "shape": shape, "extras": extras, "provides": provides, "ranges": ranges}
        traits["asks"] = asks
        setattr(function, SPEC_ATTRIBUTE, _make_spec(id, function, needs, identity, check, traits))
        return function

    return register


def get_spec(function: Callable[..., Any]) -> NodeSpec:
    """The schema that ``@node`` attached to a function. Raises ``NodeDefinitionError`` if there is none."""
    spec = getattr(function, SPEC_ATTRIBUTE, None)
    if not isinstance(spec, NodeSpec):
        name = getattr(function, "__qualname__", repr(function))
        raise NodeDefinitionError(f"{name} is not a node: decorate it with @node('namespace.name')")
    return spec


def _make_spec(
    id: str, function: Callable[..., Any], needs: Any, identity: Any, check: Any, traits: dict[str, Any]
) -> NodeSpec:
    name = f"{function.__module__}.{function.__qualname__}"
    if "." not in id or not all(map(str.isidentifier, id.split("."))):
        raise NodeDefinitionError(f"{name}: node id {id!r} must be 'namespace.name', each part an identifier")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise NodeDefinitionError(f"{name}: an annotation cannot be read: {error}") from error
    try:
        kinds, outputs, named_outputs = read_types(hints)
        inputs, settings = read_ports(function, hints, kinds)
    except TypeError as error:
        raise NodeDefinitionError(f"{name}: {error}") from error
    trait_functions = {"needs": needs, "identity": identity, "check": check, "shape": traits["shape"]}
    trait_functions |= {"provides": traits["provides"], "ranges": traits["ranges"]}
    batchable = traits["batchable"]
    if unknown := sorted({*batchable} - inputs.keys(), key=batchable.index):
        raise NodeDefinitionError(f"{name}: batchable names {unknown}, which are not its input ports")
    arguments: dict[str, tuple[str, ...]] = dict.fromkeys(trait_functions, ())
    for trait, trait_function in trait_functions.items():
        if trait_function is not None:
            arguments[trait] = tuple(inspect.signature(trait_function).parameters)
            _check_trait(name, trait, arguments[trait], inputs, settings)
    return NodeSpec(
        id,
        function,
        inputs,
        settings,
        outputs,
        named_outputs,
        needs=needs,
        identity=identity,
        check=check,
        needs_arguments=arguments["needs"],
        identity_settings=arguments["identity"],
        same_type=_bind_type_variables(hints["return"], outputs, inputs),
        check_arguments=tuple([name for name in arguments["check"] if name not in (WIRED, SHAPES)]) if check else (),
        ranges_arguments=arguments["ranges"],
        shape_arguments=arguments["shape"],
        **traits,
    )


def _bind_type_variables(
    annotation: Any, outputs: Mapping[str, PortType], inputs: Mapping[str, Port]
) -> dict[str, tuple[str, ...]]:
    """For each output annotated with a type variable, the ports annotated with the same one."""
    origin: Any = typing.get_origin(annotation)
    generic = isinstance(origin, type) and issubclass(origin, typing.Generic)
    bindings = dict(zip(origin.__parameters__, typing.get_args(annotation), strict=False)) if generic else {}
    fields = typing.get_type_hints(origin, include_extras=True) if bindings else {}
    ports_by_output: dict[str, tuple[str, ...]] = {}
    for name in outputs:
        kind = fields.get(name, annotation if name == "out" else None)
        variable = bindings.get(kind, kind) if isinstance(kind, TypeVar) else None
        if isinstance(variable, TypeVar) and (ports := [p.name for p in inputs.values() if p.annotation is variable]):
            ports_by_output[name] = tuple(ports)
    return ports_by_output


def _check_trait(
    name: str, trait: str, names: tuple[str, ...], inputs: dict[str, Port], settings: dict[str, Port]
) -> None:
    """Check that a node has the ports and settings that the function of a trait takes by these names."""
    allowed = {*settings} if trait in SETTINGS_ONLY else {*settings, *inputs}
    allowed |= {WIRED, SHAPES} if trait == "check" else set()
    if unknown := sorted({*names} - allowed, key=names.index):
        kinds = "setting" if trait in SETTINGS_ONLY else "setting or port"
        raise NodeDefinitionError(
            f"{name}: {trait}= takes an argument '{unknown[0]}', but the node has no such {kinds}; "
            f"{suggest(unknown[0], sorted(allowed), 'arguments')}"
        )


@dataclass(frozen=True)
class Registry:
    """All nodes, types and plugins that a workflow may use.

    nodes: specifications by id. types: port types by name, for ``type:`` of a parameter.
    failed: namespaces whose plugin did not load, with the reason.
    versions: versions of plugin distributions, for ``requires``. absent: installed distributions whose plugin failed
    or is disabled, with the reason. folders: the folders of each namespace's plugin, for workflows named
    ``NAMESPACE:FILE``; empty for a plugin that is a single module. formats: the file formats of port types, by the
    names of the types.
    """

    nodes: Mapping[str, NodeSpec]
    types: Mapping[str, type] = field(default_factory=lambda: {"Tensor": Tensor})
    failed: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    formats: Formats = field(default_factory=dict)
