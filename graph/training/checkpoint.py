"""The checkpoint of a training: its key, and saving and loading of the models and values in it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from guidegraph.graph.errors import GuidegraphError
from guidegraph.graph.execution.loop import stack, to_device
from guidegraph.graph.ir import Loop, find_loops, walk
from guidegraph.graph.late import torch
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.training.optimisers import list_state_names
from guidegraph.graph.training.trained_model import TrainedModel, get_trained_state, load_trained_state
from guidegraph.graph.trust.file_checks import require_regular
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.serialise import DamagedFile, NotSerialisable, decode, encode, read_checked, write_checked
from guidegraph_runtime.files.locks import FolderBusy, hold_lock


def preserve_generators(device: torch.device) -> AbstractContextManager[None]:
    """A context manager that restores torch's generators of the CPU and of a device at the end."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def read_generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's CPU generator, ``rng``, and of another device's, ``rng.device``, which dropout uses."""
    states = {"rng": torch.random.get_rng_state()}
    if device.type != "cpu":
        states["rng.device"] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_generators(device: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Restore saved states. Without a state for the device's generator, that one is left alone."""
    torch.random.set_rng_state(states["rng"])
    if device.type != "cpu" and "rng.device" in states:
        torch.get_device_module(device).set_rng_state(states["rng.device"], device)


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
        folder.mkdir(parents=True, exist_ok=True)
        value_tensors, tree = encode(state.values)
        all_tensors = {**state.tensors, **{f"{VALUE}{name}": t for name, t in value_tensors.items()}}
        # Copied to the CPU one by one, so that a GPU need not hold them twice.
        tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in all_tensors.items()}
        metadata = {"format": FORMAT, "key": key, "step": json.dumps(state.step), "values": json.dumps(tree)}
        if state.precision is not None:
            metadata["precision"] = state.precision
        write_checked(folder / STATE_FILE, tensors, metadata)
    except OSError as error:
        earlier = "there is no earlier one"
        if (folder / STATE_FILE).is_file():
            earlier = "the earlier one is whole: the same run, started again, goes on from it"
        raise CheckpointError(f"the checkpoint after {state.step} steps, {error}; {earlier}") from error


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


def resume_key(plan: Plan, loop: Loop) -> str:
    """The key of a training's checkpoint: a digest of its graph, without number of steps, precision and device.

    The device is left out because each of several processes has its own, and one process names its device differently.
    So is the accelerator: what it computes is the same within rounding.
    """
    digests = Digests(plan.config.dtype, structural=True)
    digests.add(plan.bound)
    bound = find_loops(walk(plan.bound)).get(loop.key, loop)
    return digests.loop_digest(bound, without=("precision", "steps"))


@dataclass
class TrainingProgress:
    """The values of a training between two steps: models, other carries, collected values, generators' states."""

    models: Mapping[str, TrainedModel]
    carry: dict[str, Any]
    history: dict[str, list[Any]]
    generators: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a training.

    folder: None if it keeps none. precision: of this run. check: whether a checkpoint with another key is an error.
    is_first: whether this process writes it, and warns.
    """

    folder: Path | None
    key: str
    precision: str
    check: bool
    is_first: bool

    def load(self, progress: TrainingProgress, device: torch.device, total: int) -> int:
        """Load the checkpoint, if there is one, and return the step to resume from.

        total: the steps of the training. Raises ``CheckpointError`` for a checkpoint after more steps, or of
        other weights.
        """
        if self.folder is None:
            return 0
        state = read_state(self.folder, self.key, check=self.check)
        if state is None:
            return 0
        if state.step > total:
            done = f"the checkpoint in '{self.folder}' is of {state.step} steps, and this training has {total}"
            raise CheckpointError(
                f"{done}: set 'steps' to {state.step} for its models as they are, or to more to go on; for fewer, "
                "choose another checkpoint path"
            )
        self._warn_of_differences(state, progress)
        for name, t in progress.models.items():
            self._load_model(name, t, state)
        values_on_device = to_device(state.values, device)
        # Without a check of the key, the loop may carry and collect other names than it did.
        history, carry = values_on_device["history"], values_on_device["carry"]
        progress.history |= {name: _unpack(history[name]) for name in progress.history if name in history}
        progress.carry |= {name: carry[name] for name in progress.carry if name in carry}
        restore_generators(device, state.tensors)
        return state.step

    def _load_model(self, name: str, t: TrainedModel, state: TrainingState) -> None:
        """Load a model, its optimisers and its moving average. Raises ``CheckpointError`` for weights that do not fit.

        Without a check of the key, the optimisers may be others and the average new: they then start at this step.
        """
        weights, average = state.part(f"model.{name}."), state.part(f"ema.{name}.")
        optimisers = state.part(f"optimiser.{name}.")
        source = f"the checkpoint in '{self.folder}'"
        try:
            load_trained_state(t.model, weights)
            if t.average is not None:
                load_trained_state(t.average, average or weights)
        except RuntimeError as error:
            misfit = shorten(str(error), 500, placeholder=" …")
            raise CheckpointError(
                f"{source} does not fit the model '{name}' ({misfit}): choose another checkpoint path, or train the "
                "model that it is of"
            ) from error
        if t.average is not None and not average:
            self._warn(
                f"{source} has no moving average of '{name}': it starts from the weights after {state.step} steps"
            )
        if fits_optimisers(t.optimisers, optimisers):
            restore_optimisers(t.optimisers, optimisers)
        else:
            self._warn(f"{source} is of another optimizer of '{name}': {t.spec.optimizer} starts over")

    def _warn_of_differences(self, state: TrainingState, progress: TrainingProgress) -> None:
        source = f"the checkpoint in '{self.folder}'"
        if state.precision not in (None, self.precision):
            self._warn(
                f"{source} was trained in {state.precision} up to step {state.step}, and goes on in {self.precision}: "
                "the losses differ by rounding from those of a training that was not stopped"
            )
        for name in [name for name in progress.history if name not in state.values["history"]]:
            self._warn(f"'{name}' is collected from step {state.step} on: {source} has no earlier values of it")
        for name in [name for name in progress.carry if name not in state.values["carry"]]:
            self._warn(f"'{name}' is carried from step {state.step} on, from its first value: {source} has none of it")

    def _warn(self, message: str) -> None:
        if self.is_first:
            warnings.warn(message, stacklevel=2)

    def check_serialisable(self, progress: TrainingProgress) -> None:
        """Raise ``ValueError`` if the checkpoint could not store the values."""
        if self.folder is None:
            return
        for kind, values in (("carry", progress.carry), ("collect", progress.history)):
            for name, value in values.items():
                try:
                    encode(value)
                except NotSerialisable as error:
                    raise ValueError(f"{kind} '{name}' cannot be kept in a checkpoint: {error}") from None

    def save(self, progress: TrainingProgress, done: int) -> None:
        """Write the progress after ``done`` steps."""
        if self.folder is None or not self.is_first:
            return
        state = TrainingState(done, dict(progress.generators), precision=self.precision)
        for name, t in progress.models.items():
            state.tensors |= {f"model.{name}.{k}": v for k, v in get_trained_state(t.model).items()}
            state.tensors |= {f"optimiser.{name}.{k}": v for k, v in optimiser_tensors(t.optimisers).items()}
            if t.average is not None:
                state.tensors |= {f"ema.{name}.{k}": v for k, v in get_trained_state(t.average).items()}
        state.values = {"history": {n: _pack(v) for n, v in progress.history.items()}, "carry": progress.carry}
        write_state(self.folder, self.key, state)


def _pack(values: list[Any]) -> dict[str, Any]:
    """Collected values for a checkpoint; tensors of one shape are stacked."""
    stacked = stack(values)
    return {"stacked": stacked} if is_tensor(stacked) else {"each": values}


def _unpack(packed: dict[str, Any]) -> list[Any]:
    return list(packed["stacked"].unbind()) if "stacked" in packed else list(packed["each"])
