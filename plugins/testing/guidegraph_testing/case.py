"""A node with the values to call it: the subject of a check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from guidegraph.graph.errors import suggest
from guidegraph.graph.node import NodeSpec, get_spec
from guidegraph_testing.catalogue import CHECKS


class Nonconforming(AssertionError):
    """A node violates its contract. The message gives the expectation, the actual result and the remedy."""

    def __init__(self, node: str, expected: str, actual: str, remedy: str):
        super().__init__(f"{node}: expected {expected}\n  found: {actual}\n  to do: {remedy}")
        self.expected, self.found, self.remedy = expected, actual, remedy


class NoExample(Nonconforming):
    """No example value exists for a port or a setting of the node."""


class Inapplicable(Exception):
    """A check does not apply to this node; the message is the reason."""


@dataclass(frozen=True)
class NodeCase:
    """A node and the values to check it with.

    node: a function made by ``@node``. inputs, settings: values in place of the examples, by name; other required ports
    and settings get an example of their type, and the rest their defaults. name: distinguishes several cases of a node.
    skip: for each check that does not hold by design, the reason. detached: for each port without a gradient by design,
    the reason. tries: values of settings and ports to try in the checks of ``needs=`` and ``identity=``.
    constant: numeric settings that stay fixed in an exported graph. plugin: the module with the plugin's hooks.

    Raises ``ValueError`` for a name that neither the node nor the kit has.
    """

    node: Callable[..., Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    skip: Mapping[str, str] = field(default_factory=dict)
    detached: Mapping[str, str] = field(default_factory=dict)
    tries: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    constant: Collection[str] = ()
    plugin: object = None

    def __post_init__(self) -> None:
        spec = self.spec
        fields = {
            "inputs": (self.inputs, spec.inputs, "ports"),
            "settings": (self.settings, spec.settings, "settings"),
            "skip": (self.skip, CHECKS, "checks"),
            "detached": (self.detached, spec.inputs, "ports"),
            "tries": (self.tries, {**spec.settings, **spec.inputs}, "settings and ports"),
            "constant": (self.constant, spec.settings, "settings"),
        }
        for argument, (values, names, noun) in fields.items():
            if unknown := [name for name in values if name not in names]:
                raise ValueError(f"{spec.id}: {argument} names '{unknown[0]}'; {suggest(unknown[0], names, noun)}")
        if empty := [name for name, reason in {**self.skip, **self.detached}.items() if not reason.strip()]:
            raise ValueError(f"{spec.id}: '{empty[0]}' is left out without a reason: say why")

    @property
    def spec(self) -> NodeSpec:
        return get_spec(self.node)

    @property
    def id(self) -> str:
        """The name of the case in reports."""
        return f"{self.spec.id}-{self.name}" if self.name else self.spec.id

    def having(self, **values: Any) -> NodeCase:
        """The same case with other values of settings and ports."""
        ports = {name: value for name, value in values.items() if name in self.spec.inputs}
        settings = {name: value for name, value in values.items() if name not in ports}
        return replace(self, inputs={**self.inputs, **ports}, settings={**self.settings, **settings})

    def error(self, expected: str, actual: str, remedy: str) -> Nonconforming:
        return Nonconforming(self.id, expected, actual, remedy)
