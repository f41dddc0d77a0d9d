"""Which operations of a plan a run needs: those that its outputs depend on, of a choice the branch that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph_runtime.device import on_host
from guidegraph_runtime.errors import one_of
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest_types import Operation
from guidegraph_runtime.memory import Memory

CHOOSE = "choose"
WHEN = "when"
OTHERWISE = "otherwise"


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

    def taken(self, memory: Memory) -> str:
        """The branch for the value as it is. Raises ``ValueError``, which names the choice, where there is none."""
        value = self.value if self.when is None else on_host(memory.read(self.when))
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

    def values(self, label: str, memory: Memory) -> dict[str, Any]:
        """The values of the choice, by name, where it takes this branch."""
        branch = self.branches[label]
        return {name: memory.read(at) for name, at in branch.links.items()} or {self.node: branch.value}


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


def needed(plan: Sequence[Operation], wanted: Iterable[str], taken: Mapping[str, str] | None = None) -> list[Operation]:
    """The operations that some values depend on, in order.

    taken: the branches of choices, by node; of another choice only what it is made by counts. Without it every branch
    counts.
    """
    names = set(wanted)
    kept = []
    for operation in reversed(plan):
        if names.isdisjoint(operation.outputs):
            continue
        kept.append(operation)
        if operation.op == CHOOSE and taken is not None:
            names |= _chosen_reads(Choice.of(operation), taken)
        else:
            names |= reads(operation)
    return kept[::-1]


def reads(operation: Operation) -> set[str]:
    """The names of the values that an operation, or its body, reads."""
    links = {*(Loop.of(operation).reads() if operation.op == "loop" else operation.inputs.values())}
    return links.union(*map(reads, operation.body or ()))


def _chosen_reads(choice: Choice, taken: Mapping[str, str]) -> set[str]:
    names = {*choice.branches[taken[choice.node]].links.values()} if choice.node in taken else set()
    return names if choice.when is None else {*names, choice.when}


def on_demand(plan: Sequence[Operation], wanted: Sequence[str], memory: Memory) -> Iterator[Operation]:
    """The operations to run for some values, in an order in which they can be, of choices the branches that they take.

    Each must be run before the next is asked for. Raises ``ValueError`` for a choice whose value has no branch.
    """
    taken: dict[str, str] = {}
    done: set[int] = set()
    choices = {id(one): Choice.of(one) for one in plan if one.op == CHOOSE}
    while True:
        waiting: set[str] = set()
        count = len(taken)
        for operation in needed(plan, wanted, taken):
            if id(operation) in done:
                continue
            choice = choices.get(id(operation))
            if choice is not None and choice.node not in taken:
                if choice.when not in waiting:
                    taken[choice.node] = choice.taken(memory)
                waiting |= {*operation.outputs}
                continue
            links = reads(operation) if choice is None else _chosen_reads(choice, taken)
            if links & waiting:
                waiting |= {*operation.outputs}
                continue
            yield operation
            done.add(id(operation))
        if len(taken) == count:
            return
