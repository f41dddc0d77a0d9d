"""The state of a loop between two iterations: everything that its remaining iterations need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import Cancelled, GuidegraphError
from guidegraph.graph.values.serialise import NotSerialisable, decode, encode, tensor_bytes

if TYPE_CHECKING:
    import torch

REFUSED = "cannot-resume"


@dataclass(frozen=True, eq=False)
class LoopState:
    """A loop after ``done`` of ``total`` iterations. loop: its key.

    tree: the values of its carries and its collected values so far, as ``encode`` writes them. tensors: the tensors of
    the tree by name, on the CPU. host: the names of the tensors that were on the CPU in the run, too.
    digest: of everything above; caches distinguish resumed loops by it.
    """

    loop: str
    done: int
    total: int
    tree: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    host: frozenset[str]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in self.tensors.items()}
        parts = [self.loop, self.done, self.total, self.tree, shapes]
        digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16)
        for name in sorted(self.tensors):
            digest.update(tensor_bytes(self.tensors[name]))
        object.__setattr__(self, "digest", digest.hexdigest())

    def read_carry(self, device: torch.device | None = None) -> dict[str, Any]:
        """The values of the carries by name, with tensors on the device of a run; on the CPU without one."""
        return self._decode("carry", device)

    def read_collected(self, device: torch.device | None = None) -> dict[str, list[Any]]:
        """The collected values of all iterations so far, in order, by name."""
        return self._decode("collected", device)

    def has_names(self, carry: str) -> bool:
        """Whether the value of a carry has a dict anywhere."""
        return '{"dict": ' in json.dumps(self.tree["carry"]["dict"].get(carry))

    def find_missing_names(self, carry: str, start: Any) -> list[str]:
        """The names in the dicts of a carry's value at the start of the loop that its value in the state lacks.

        A value that no file can hold has none.
        """
        try:
            return _find_missing_names(self.tree["carry"]["dict"].get(carry), encode(start)[1])
        except NotSerialisable:
            return []

    def _decode(self, group: str, device: torch.device | None) -> dict[str, Any]:
        tensors = {
            name: tensor if device is None or name in self.host else tensor.to(device)
            for name, tensor in self.tensors.items()
        }
        values: dict[str, Any] = decode(self.tree[group], tensors)
        return values


def _find_missing_names(kept: Any, start: Any) -> list[str]:
    """Compare two trees that ``encode`` made, where both have a dict."""
    if not isinstance(kept, dict) or not isinstance(start, dict):
        return []
    missing = []
    for kind in {*kept} & {*start} & {"dict", "fields", "list", "tuple"}:
        old, new = kept[kind], start[kind]
        if isinstance(old, dict):
            missing += [name for name in new if name not in old]
            pairs = [(old[name], new[name]) for name in new if name in old]
        else:
            pairs = [*zip(old, new, strict=False)]  # a history may have grown
        missing += [name for pair in pairs for name in _find_missing_names(*pair)]
    return missing


class LoopStopped(Cancelled):
    """A run has ended between two iterations of a loop, as requested. state: of that loop, to resume from."""

    status = "stopped"

    def __init__(self, state: LoopState):
        self.state = state
        super().__init__(f"stopped after {state.done} of {state.total} iterations of nodes.{state.loop}")


def capture_state(
    loop: str, done: int, total: int, carry: Mapping[str, Any], collected: Mapping[str, Sequence[Any]]
) -> LoopState:
    """The state with copies of these values. Raises ``GuidegraphError`` for one that no file can hold."""
    for kind, values in (("carry", carry), ("collect", collected)):
        for name, value in values.items():
            try:
                encode(value)
            except NotSerialisable as error:
                reason = f"its {kind} '{name}' cannot be kept in a file: {error}"
                raise GuidegraphError(f"cannot-stop: nodes.{loop} cannot be stopped: {reason}") from None
    tensors, tree = encode({"carry": dict(carry), "collected": {name: [*kept] for name, kept in collected.items()}})
    host = frozenset(name for name, tensor in tensors.items() if tensor.device.type == "cpu")
    copies = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return LoopState(loop, done, total, tree["dict"], copies, host)


class StopToken:
    """A token that stops a run after the current iteration of the loop that it is in; set by any thread."""

    def __init__(self) -> None:
        self.requested = False

    def stop(self) -> None:
        self.requested = True

    def withdraw(self) -> None:
        """Take the request back, of a loop that cannot be stopped."""
        self.requested = False
