"""The resume state of a training loop: one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.serialise import decode, encode
from guidegraph.graph.trust.files import require_regular
from guidegraph_runtime.files import atomic_path

if TYPE_CHECKING:
    import torch

FORMAT = "guidegraph-training-2"
VALUE = "value."
FILE = "state.safetensors"


class CheckpointError(GuidegraphError):
    """A checkpoint cannot be resumed from; the message says what to do."""


@dataclass
class State:
    """Everything a resumed run needs: the number of finished steps, tensors by name, and values of any kind.

    precision: what the last of these steps were computed in; None where a checkpoint does not say.
    """

    step: int
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    precision: str | None = None

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under a prefix, by the rest of their names."""
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}


def write_state(folder: Path, key: str, state: State) -> None:
    """Write a state in place of the one before it. Raises ``NotSerialisable`` for a value that cannot be kept."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    held, tree = encode(state.values)
    named = {**state.tensors, **{f"{VALUE}{name}": t for name, t in held.items()}}
    # Copied one by one to the CPU: the memory of a GPU need not hold them twice.
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in named.items()}
    metadata = {"format": FORMAT, "key": key, "step": json.dumps(state.step), "values": json.dumps(tree)}
    if state.precision is not None:
        metadata["precision"] = state.precision
    with atomic_path(folder / FILE) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)


def read_state(folder: Path, key: str, *, check: bool = True) -> State | None:
    """The state in a folder; ``None`` where there is none.

    Raises ``CheckpointError`` for a damaged file, and, where ``check`` is set, for one of another training.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.exists():
        return None
    require_regular(path)
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a training checkpoint of this version: move it away")
            if check and metadata.get("key") != key:
                raise CheckpointError(
                    f"{path} belongs to another training (its data, models, settings or node sources differ): "
                    "choose another checkpoint path, move it away, or resume anyway with 'check: false' beside the path"
                )
            tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
            held = {n.removeprefix(VALUE): t for n, t in tensors.items() if n.startswith(VALUE)}
            kept = {n: t for n, t in tensors.items() if not n.startswith(VALUE)}
            values = decode(json.loads(metadata["values"]), held)
            return State(json.loads(metadata["step"]), kept, values, metadata.get("precision"))
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): move it away to start anew") from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimiser's state as flat tensors."""
    import torch

    return {
        f"{index}.{name}": value
        for index, entry in optimiser.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what ``optimiser_tensors`` gave."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, field_name = name.partition(".")
        state.setdefault(int(index), {})[field_name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
