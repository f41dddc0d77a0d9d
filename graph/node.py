"""``@node``: a function's signature is its node's schema.

Positional parameters are input ports (one with a default is optional), keyword-only parameters are
settings, and the return annotation gives the outputs: a ``NamedTuple`` names several, anything else
is the single output ``out``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from guidegraph.graph.types import ANY, PortType, fields_of, is_tensor, port_type
from guidegraph_runtime.admission import is_infinite

if TYPE_CHECKING:
    from pydantic import TypeAdapter

P = ParamSpec("P")
R = TypeVar("R")

REQUIRED = inspect.Parameter.empty
ATTRIBUTE = "__guidegraph__"
WIRED = "wired"
"""What ``check=`` calls the names of the ports and settings that are linked or given."""
SHAPES = "shapes"
"""What ``check=`` calls the shapes of ports, as far as they are known before anything is computed."""
READ = "outputs"
"""What ``extras=`` calls the names of the outputs that something reads."""
SETTINGS_ALONE = ("identity", "provides")
"""The traits that ask for settings and for no port."""


@dataclass(frozen=True)
class Port:
    """An input port or a setting of a node."""

    name: str
    annotation: Any
    type: PortType
    default: Any = REQUIRED
    setting: bool = False
    infinite: bool = False
    """Infinities are values of it, as they are where the default is one."""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """pydantic's validator for the annotation."""
        from pydantic import ConfigDict, TypeAdapter

        try:
            return TypeAdapter(self.annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except Exception:  # a type that carries a configuration of its own, such as a model or a dataclass
            return TypeAdapter(self.annotation)

    def literal(self, value: object) -> object:
        """A YAML or command-line literal as this port's Python value.

        Nothing converts silently: an int is a float and a string is a path, and that is all.
        Raises ``ValueError`` that says what was expected and found.
        """
        import json

        from pydantic import ValidationError

        if isinstance(value, Path):
            value = str(value)
        try:
            return self.adapter.validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError) as error:
            raise ValueError(_explain(error, value, self.type)) from None

    def check(self, value: object) -> object:
        """A wired value of a setting, validated. Raises ``ValueError``; tensors pass where the type admits them."""
        from pydantic import ValidationError

        if is_tensor(value):
            return value
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(_explain(error, value, self.type)) from None


def _explain(error: Exception, value: object, expected: PortType) -> str:
    details = error.errors() if hasattr(error, "errors") else []
    reasons = list(dict.fromkeys(str(d["msg"]) for d in details if "tensor" not in str(d["msg"])))
    why = "; ".join(reasons) or f"expected {expected}"
    return f"{why}; found {type(value).__name__} {value!r:.80}"


Watch: TypeAlias = Literal["nothing", "torch", "everything"]


@dataclass(frozen=True)
class NodeSpec:
    """All the engine knows of a node. Traits tell passes what they may do.

    same_type: for outputs that are annotated with a type variable, the ports that share it: the output is of the type
    of what they are linked to.
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
    needs_arguments: tuple[str, ...] = ()
    identity_settings: tuple[str, ...] = ()
    check_arguments: tuple[str, ...] = ()
    same_type: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shape_arguments: tuple[str, ...] = ()
    distribution: str = field(default="", compare=False)

    @cached_property
    def asks_machine(self) -> bool:
        """Whether a machine may lack something that the node needs: a package, a file, a part of a model."""
        paths = any(Path in port.type.alternatives for port in self.settings.values())
        return bool(paths or self.extras or self.provides)

    def port(self, name: str) -> Port | None:
        return self.inputs.get(name) or self.settings.get(name)

    @cached_property
    def watch(self) -> Watch:
        """What of the process is looked at around a call, in case it is left changed.

        Nodes that do not come with guidegraph are watched for everything. A node of guidegraph runs code of others only
        in a model that it is given, and is then watched for settings of torch.
        """
        from guidegraph.graph.hosted import kinds

        if not self.distribution.startswith("guidegraph=="):
            return "everything"
        read = {kind for port in self.inputs.values() for kind in kinds(port.type)}
        return "torch" if read & {"model", "unknown"} else "nothing"

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        return self.doc.split("\n\n")[0].replace("\n", " ")


class NodeDefinitionError(TypeError):
    """A function cannot be a node; the message says why and what to write instead."""


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
    version: str | int = 1,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a typed function a node with the given id (``namespace.name``).

    pure: same inputs give the same outputs and nothing else happens; ``False`` is never cached or merged.
    io: waits for disk or network, so it may run on a thread beside the computation.
    host: cannot be traced into a graph (tokenises, saves, loads).
    runtime: the torch-free runtime has an operation of this id, with the same ports, settings and defaults, that does
        the same, so an exported bundle can call it between its graphs.
    split: how a host node is exported: given its ports and settings that are the same in every run, by name, a
        ``Split``, or ``None`` where it cannot be.
    batchable: ports along whose batch axis several calls may become one; the first has the batch's size, the others
        that or 1.
    needs: given settings and ports by name, the ports whose values matter; a port left out receives any value of
        its type (that of a needed port), since the result must not depend on it. It is asked once the values that it
        names are known, and none of them is a tensor.
    identity: given settings by name, the port that is returned unchanged, or ``None``.
    check: given settings and ports by name, ``wired`` (the names of those that are linked or given), and ``shapes``
        (of ports by name, as far as they are known), what is wrong with the wiring: a message for each port, or an
        empty mapping. It is asked as early as ``needs`` is, and before anything else of the loop in which the call is;
        what has a default in its signature may not be known yet, and is left out then.
    shape: the leading axes of what the node gives, as far as they follow from settings and ports: those that can be
        written down by their values, the others as something with a ``shape``, or None where they are not wired. A
        mapping has those of several outputs; None is not known. It raises ``ValueError`` for what cannot go together.
        Without it a node that is ``batchable`` gives as many samples as its first port has.
    extras: optional packages that the node imports, by module the extra of guidegraph that brings it, or a function of
        settings, and of ``outputs`` (the names of those that something reads), that says so. A run for which one is
        not installed is refused before it starts.
    provides: given settings by name, the outputs that the node will give, for one that cannot always give all. It may
        look at a file, and imports nothing large; it raises ``ValueError`` for what it cannot use.
    version: part of the cache key; raise it when the result changes.

    Raises ``NodeDefinitionError`` for a signature that cannot be a schema.
    """

    if not isinstance(id, str):
        raise NodeDefinitionError(f"{getattr(id, '__qualname__', id)}: write @node('namespace.name'), with an id")
    if isinstance(batchable, (bool, str)):
        raise NodeDefinitionError(f"{id}: batchable takes port names, such as ('x', 't'); found {batchable!r}")
    for trait, given in (
        ("needs", needs),
        ("identity", identity),
        ("check", check),
        ("shape", shape),
        ("provides", provides),
        ("split", split),
    ):
        if given is not None and not callable(given):
            raise NodeDefinitionError(f"{id}: {trait} takes a function of settings; found {type(given).__name__}")

    def register(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):
            raise NodeDefinitionError(f"{id}: a node is a plain function, and this one is async")
        traits: dict[str, Any] = {"pure": pure, "io": io, "host": host, "runtime": runtime}
        traits |= {"batchable": tuple(batchable), "version": str(version)}
        traits |= {"split": split, "shape": shape, "extras": extras, "provides": provides}
        setattr(function, ATTRIBUTE, _spec(id, function, needs, identity, check, traits))
        return function

    return register


def spec_of(function: Callable[..., Any]) -> NodeSpec:
    """The schema that ``@node`` read off a function. Raises ``NodeDefinitionError`` where there is none."""
    spec = getattr(function, ATTRIBUTE, None)
    if not isinstance(spec, NodeSpec):
        name = getattr(function, "__qualname__", repr(function))
        raise NodeDefinitionError(f"{name} is not a node: decorate it with @node('namespace.name')")
    return spec


def _spec(
    id: str, function: Callable[..., Any], needs: Any, identity: Any, check: Any, traits: dict[str, Any]
) -> NodeSpec:
    name = f"{function.__module__}.{function.__qualname__}"
    if not id or not all(part.isidentifier() for part in id.split(".")) or "." not in id:
        raise NodeDefinitionError(f"{name}: node id {id!r} must be 'namespace.name', each part an identifier")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise NodeDefinitionError(f"{name}: an annotation cannot be read: {error}") from error
    inputs: dict[str, Port] = {}
    settings: dict[str, Port] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NodeDefinitionError(f"{name}: *{parameter.name} has no schema: use a Sequence[T] port")
        if parameter.name not in hints:
            raise NodeDefinitionError(f"{name}: parameter '{parameter.name}' needs a type annotation")
        setting = parameter.kind is parameter.KEYWORD_ONLY
        try:
            kind = port_type(hints[parameter.name])
        except TypeError as error:
            raise NodeDefinitionError(f"{name}: parameter '{parameter.name}': {error}") from error
        infinite = is_infinite(parameter.default)
        port = Port(parameter.name, hints[parameter.name], kind, parameter.default, setting, infinite)
        (settings if setting else inputs)[parameter.name] = port
    if "return" not in hints:
        raise NodeDefinitionError(f"{name}: the return annotation gives the outputs; write one (None for no output)")
    outputs, named = _outputs(name, hints["return"])
    asking = {"needs": needs, "identity": identity, "check": check, "shape": traits["shape"]}
    asking["provides"] = traits["provides"]
    _check_traits(name, traits["batchable"], asking, inputs, settings)
    return NodeSpec(
        id,
        function,
        inputs,
        settings,
        outputs,
        named,
        needs=needs,
        identity=identity,
        check=check,
        needs_arguments=_arguments(needs),
        identity_settings=_arguments(identity),
        same_type=_same_type(hints["return"], outputs, {name: hints[name] for name in inputs}),
        check_arguments=tuple(name for name in _arguments(check) if name not in (WIRED, SHAPES)),
        shape_arguments=_arguments(traits["shape"]),
        **traits,
    )


def _outputs(name: str, annotation: Any) -> tuple[dict[str, PortType], bool]:
    if annotation in (None, type(None)):
        return {}, False
    try:
        kind = port_type(annotation)
    except TypeError as error:
        raise NodeDefinitionError(f"{name}: return annotation: {error}") from error
    fields = fields_of(kind)
    return (fields, True) if fields else ({"out": kind if kind.alternatives else ANY}, False)


def _same_type(
    annotation: Any, outputs: Mapping[str, PortType], inputs: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """For each output that is of a type variable, the ports that are."""
    origin: Any = typing.get_origin(annotation)
    generic = isinstance(origin, type) and issubclass(origin, typing.Generic)
    given = dict(zip(origin.__parameters__, typing.get_args(annotation), strict=False)) if generic else {}
    fields = typing.get_type_hints(origin, include_extras=True) if given else {}
    found: dict[str, tuple[str, ...]] = {}
    for name in outputs:
        kind = fields.get(name, annotation if name == "out" else None)
        variable = given.get(kind, kind) if isinstance(kind, TypeVar) else None
        ports = tuple(port for port, hint in inputs.items() if hint is variable)
        if isinstance(variable, TypeVar) and ports:
            found[name] = ports
    return found


def _arguments(function: Callable[..., Any] | None) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters) if function else ()


def _check_traits(
    name: str,
    batchable: tuple[str, ...],
    traits: Mapping[str, Any],
    inputs: dict[str, Port],
    settings: dict[str, Port],
) -> None:
    if unknown := [p for p in batchable if p not in inputs]:
        raise NodeDefinitionError(f"{name}: batchable names {unknown}, which are no input ports of it")
    for trait, function in traits.items():
        known = {*settings} if trait in SETTINGS_ALONE else {*settings, *inputs}
        known |= {WIRED, SHAPES} if trait == "check" else set()
        if unknown := [a for a in _arguments(function) if a not in known]:
            kinds = "settings" if trait in SETTINGS_ALONE else "settings or ports"
            raise NodeDefinitionError(f"{name}: {trait} asks for {unknown}, which are no {kinds} of it")
