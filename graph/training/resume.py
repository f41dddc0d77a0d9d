"""The resume state of a training loop: one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.trust.file_checks import require_regular
from guidegraph.graph.values.checksummed_file import DamagedFile, read_checked, write_checked
from guidegraph.graph.values.serialise import decode, encode
from guidegraph_runtime.files.locks import FolderBusy, hold_lock

if TYPE_CHECKING:
    import torch

FORMAT = "guidegraph-training-3"
VALUE = "value."
STATE_FILE = "state.safetensors"


class CheckpointError(GuidegraphError):
    """A checkpoint cannot be resumed from; the message says what to do."""


@dataclass
class TrainingState:
    """The state from which a training resumes: the number of finished steps, tensors by name, and other values.

    precision: of the last steps; None if the checkpoint does not say.
    """

    step: int
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    precision: str | None = None

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with a prefix, by their names without it."""
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}


@contextmanager
def lock_state(folder: Path | None) -> Iterator[None]:
    """Lock the folder of a training's checkpoint, if there is one, by a lock file beside the state.

    Raises ``CheckpointError`` if another training holds the lock, and ``WriteError`` if the folder cannot be written:
    no step runs whose checkpoint would be lost.
    """
    if folder is None:
        yield
        return
    try:
        with hold_lock(folder / f".{STATE_FILE}.lock", folder, "a training", must_write=True):
            yield
    except FolderBusy as busy:
        raise CheckpointError(f"the checkpoint is in use: {busy}") from None


def write_state(folder: Path, key: str, state: TrainingState) -> None:
    """Replace the state in a folder; if writing fails, the earlier state stays whole.

    Raises ``NotSerialisable`` for a value that cannot be stored, and ``CheckpointError`` for I/O errors such as a full
    disk.
    """
    try:
        _write_state(folder, key, state)
    except OSError as error:
        earlier = "there is no earlier one"
        if (folder / STATE_FILE).is_file():
            earlier = "the earlier one is whole: the same run, started again, goes on from it"
        raise CheckpointError(f"the checkpoint after {state.step} steps, {error}; {earlier}") from error


def _write_state(folder: Path, key: str, state: TrainingState) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    value_tensors, tree = encode(state.values)
    all_tensors = {**state.tensors, **{f"{VALUE}{name}": t for name, t in value_tensors.items()}}
    # Copied to the CPU one by one, so that a GPU need not hold them twice.
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in all_tensors.items()}
    metadata = {"format": FORMAT, "key": key, "step": json.dumps(state.step), "values": json.dumps(tree)}
    if state.precision is not None:
        metadata["precision"] = state.precision
    write_checked(folder / STATE_FILE, tensors, metadata)


def read_state(folder: Path, key: str, *, check: bool = True) -> TrainingState | None:
    """The state in a folder; ``None`` if there is none.

    Raises ``CheckpointError`` for a damaged file and, if ``check`` is set, for the file of another training.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    remedy = "restore it from a copy, or move it away to start over"
    require_regular(path)
    try:
        metadata, tensors = read_checked(path, copy=False)
    except DamagedFile as error:
        raise CheckpointError(f"{error}: {remedy}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a training checkpoint of this version: {remedy}")
    if check and metadata.get("key") != key:
        raise CheckpointError(
            f"{path} belongs to another training (its data, models, settings or node sources differ): "
            "choose another checkpoint path, move it away, or resume anyway with 'check: false' beside the path"
        )
    value_tensors = {n.removeprefix(VALUE): t.clone() for n, t in tensors.items() if n.startswith(VALUE)}
    state_tensors = {n: t for n, t in tensors.items() if not n.startswith(VALUE)}
    try:
        values = decode(json.loads(metadata["values"]), value_tensors)
        return TrainingState(json.loads(metadata["step"]), state_tensors, values, metadata.get("precision"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): {remedy}") from error


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """The states of optimisers as flat tensors. Their parameters are numbered through."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    first = 0
    for optimiser in optimisers:
        for index, entry in optimiser.state_dict()["state"].items():
            fields = {name: value for name, value in entry.items() if isinstance(value, torch.Tensor)}
            tensors |= {f"{first + index}.{name}": value for name, value in fields.items()}
        first += _count_parameters(optimiser)
    return tensors


def fits_optimisers(optimisers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the states that ``optimiser_tensors`` returned have what these optimisers keep of their parameters."""
    from guidegraph.graph.training.optimisers import list_state_names

    states = _split_states(optimisers, tensors)
    for optimiser, entries in zip(optimisers, states, strict=True):
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for index, entry in entries.items():
            shapes = {value.shape for value in entry.values() if value.dim()}
            if not list_state_names(optimiser) <= entry.keys() or shapes - {parameters[index].shape}:
                return False
    return True


def restore_optimisers(optimisers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the states that ``optimiser_tensors`` returned."""
    for optimiser, entries in zip(optimisers, _split_states(optimisers, tensors), strict=True):
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})


def _split_states(
    optimisers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]
) -> list[dict[int, dict[str, torch.Tensor]]]:
    """The state of each optimiser: tensors by name, for each of its parameters by index."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, field_name = name.partition(".")
        state.setdefault(int(index), {})[field_name] = value
    states = []
    first = 0
    for optimiser in optimisers:
        count = _count_parameters(optimiser)
        states.append({index - first: entry for index, entry in state.items() if first <= index < first + count})
        first += count
    return states


def _count_parameters(optimiser: torch.optim.Optimizer) -> int:
    return sum(len(group["params"]) for group in optimiser.param_groups)
