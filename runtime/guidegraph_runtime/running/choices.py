"""The choices of a bundle's plan: the selector of each, and the values of its branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN
from guidegraph_runtime.errors import suggest_name


def has_choices(plan: Iterable[Operation]) -> bool:
    """Whether a plan makes choices outside the bodies of its loops."""
    return any(operation.op == CHOOSE for operation in plan)


@dataclass(frozen=True)
class Branch:
    """A branch of a choice: for each value of the choice the name of the branch's value, or one plain value."""

    links: Mapping[str, str]
    value: Any = None


@dataclass(frozen=True)
class Choice:
    """A choice operation. when: the name of the value that selects the branch. value: that value, if a literal."""

    node: str
    when: str | None
    value: Any
    branches: Mapping[str, Branch]

    @classmethod
    def of(cls, operation: Operation) -> Choice:
        """Parse a choice operation. Raises ``ValueError``, which names it, if it is incomplete."""
        try:
            return cls._of(operation)
        except ValueError as error:
            raise ValueError(f"{operation.node} ({CHOOSE}): {error}") from None

    @classmethod
    def _of(cls, operation: Operation) -> Choice:
        settings, when = operation.settings, operation.inputs.get(WHEN)
        if unknown := settings.keys() - {WHEN, OF}:
            raise ValueError(f"a choice has no setting '{min(unknown)}'")
        if (when is None) != (WHEN in settings):
            raise ValueError(f"a choice needs one value, '{WHEN}': a link or a setting")
        of = settings.get("of")
        if not isinstance(of, Mapping) or not of:
            raise ValueError(f"'of' of a choice has its branches by value; found {of!r:.80}")
        branches = {str(label): _branch(str(label), branch, operation) for label, branch in of.items()}
        return cls(operation.node, when, settings.get(WHEN), branches)

    def select_branch(self, read: Callable[[str], Any]) -> str:
        """Return the label of the branch to take. read: reads a value by name.

        Raises ``ValueError``, which names the choice, if no branch matches.
        """
        value = self.value if self.when is None else read(self.when)
        label = label_of(value)
        if label in self.branches and label != OTHERWISE:
            return str(label)
        if label is not None and OTHERWISE in self.branches:
            return OTHERWISE
        if label is None:
            message = f"a choice is made by a text, a whole number, true or false; found {value!r:.80}"
        else:
            message = f"no branch '{label:.60}'; {suggest_name(label, self.branches)}"
        raise ValueError(f"{self.node} ({CHOOSE}): {message}")

    def values(self, label: str, read: Callable[[str], Any]) -> dict[str, Any]:
        """Return the values of the choice by name if it takes this branch. read: reads a value by name."""
        branch = self.branches[label]
        return {name: read(source) for name, source in branch.links.items()} or {self.node: branch.value}


def _branch(label: str, setting: object, operation: Operation) -> Branch:
    if isinstance(setting, Mapping) and [*setting] == ["is"]:
        return Branch({}, setting["is"])
    links = setting.get("from") if isinstance(setting, Mapping) and [*setting] == ["from"] else None
    if not isinstance(links, Mapping) or not links or not all(isinstance(source, str) for source in links.values()):
        raise ValueError(f"branch '{label:.60}' of a choice names values by name; found {setting!r:.80}")
    if links.keys() != {*operation.outputs}:
        raise ValueError(f"branch '{label:.60}' of a choice gives {sorted(links)}, not {sorted(operation.outputs)}")
    return Branch({str(name): str(source) for name, source in links.items()})


def label_of(value: object) -> str | None:
    """The label of the branch for a value; ``None`` for a value that cannot select a branch.

    An array of one element counts as that number.
    """
    item = value.item() if getattr(value, "size", None) == 1 else value  # type: ignore[attr-defined]
    if isinstance(item, bool):
        return str(item).lower()
    return str(item) if isinstance(item, (int, str)) else None
