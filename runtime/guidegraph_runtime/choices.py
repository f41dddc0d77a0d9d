"""A choice of a bundle's plan: what it is made by, and what each of its branches gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from guidegraph_runtime.errors import one_of
from guidegraph_runtime.manifest_types import Operation

CHOOSE = "choose"
WHEN = "when"
OTHERWISE = "otherwise"


def has_choices(plan: Iterable[Operation]) -> bool:
    """Whether a plan makes choices, those of bodies apart."""
    return any(operation.op == CHOOSE for operation in plan)


@dataclass(frozen=True)
class Branch:
    """What one branch of a choice gives: for each value of the choice its own name for it, or one plain value."""

    links: Mapping[str, str]
    value: Any = None


@dataclass(frozen=True)
class Choice:
    """What a choice's operation says of it. when: the name of the value that it is made by, or that value itself."""

    node: str
    when: str | None
    value: Any
    branches: Mapping[str, Branch]

    @classmethod
    def of(cls, operation: Operation) -> Choice:
        """The choice that an operation describes. Raises ``ValueError``, which names it, for one that is not whole."""
        try:
            return cls._of(operation)
        except ValueError as error:
            raise ValueError(f"{operation.node} ({CHOOSE}): {error}") from None

    @classmethod
    def _of(cls, operation: Operation) -> Choice:
        settings, when = operation.settings, operation.inputs.get(WHEN)
        if unknown := settings.keys() - {WHEN, "of"}:
            raise ValueError(f"a choice has no setting '{min(unknown)}'")
        if (when is None) != (WHEN in settings):
            raise ValueError(f"a choice is made by one value, '{WHEN}': a link or a setting")
        of = settings.get("of")
        if not isinstance(of, Mapping) or not of:
            raise ValueError(f"'of' of a choice has its branches by value; found {of!r:.80}")
        branches = {str(label): _branch(str(label), one, operation) for label, one in of.items()}
        return cls(operation.node, when, settings.get(WHEN), branches)

    def taken(self, values: Callable[[str], Any]) -> str:
        """The branch for the value as it is, given what reads a value by its name.

        Raises ``ValueError``, which names the choice, where there is none.
        """
        value = self.value if self.when is None else values(self.when)
        label = label_of(value)
        if label in self.branches and label != OTHERWISE:
            return str(label)
        if label is not None and OTHERWISE in self.branches:
            return OTHERWISE
        if label is None:
            message = f"a choice is made by a text, a whole number, true or false; found {value!r:.80}"
        else:
            message = f"no branch '{label:.60}'; {one_of(label, self.branches)}"
        raise ValueError(f"{self.node} ({CHOOSE}): {message}")

    def values(self, label: str, values: Callable[[str], Any]) -> dict[str, Any]:
        """The values of the choice, by name, where it takes this branch."""
        branch = self.branches[label]
        return {name: values(at) for name, at in branch.links.items()} or {self.node: branch.value}


def _branch(label: str, given: object, operation: Operation) -> Branch:
    if isinstance(given, Mapping) and [*given] == ["is"]:
        return Branch({}, given["is"])
    links = given.get("from") if isinstance(given, Mapping) and [*given] == ["from"] else None
    if not isinstance(links, Mapping) or not links or not all(isinstance(one, str) for one in links.values()):
        raise ValueError(f"branch '{label:.60}' of a choice names values by name; found {given!r:.80}")
    if links.keys() != {*operation.outputs}:
        raise ValueError(f"branch '{label:.60}' of a choice gives {sorted(links)}, not {sorted(operation.outputs)}")
    return Branch({str(name): str(one) for name, one in links.items()})


def label_of(value: object) -> str | None:
    """What a branch for this value is called; ``None`` for what no branch can be for.

    An array of one element counts as that number.
    """
    item = value.item() if getattr(value, "size", None) == 1 else value  # type: ignore[attr-defined]
    if isinstance(item, bool):
        return str(item).lower()
    return str(item) if isinstance(item, (int, str)) else None
