"""The checkpoint of a training: its key, and saving and loading of the models and values in it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from guidegraph.graph.execution.loop import stack
from guidegraph.graph.execution.to_device import to_device
from guidegraph.graph.ir import Loop, walk
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.training.live_models import get_trained_state, load_trained_state
from guidegraph.graph.training.resume import (
    CheckpointError,
    TrainingState,
    fits_optimisers,
    optimiser_tensors,
    read_state,
    restore_optimisers,
    write_state,
)
from guidegraph.graph.training.trained_model import TrainedModel
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.serialise import NotSerialisable, encode
from guidegraph.graph.values.torch_generators import restore_generators

if TYPE_CHECKING:
    import torch


def resume_key(plan: Plan, loop: Loop) -> str:
    """The key of a training's checkpoint: a digest of its graph, without number of steps, precision and device.

    The device is left out because each of several processes has its own, and one process names its device differently.
    So is the accelerator: what it computes is the same within rounding.
    """
    digests = Digests(plan.config.dtype, structural=True)
    digests.add(plan.bound)
    bound = next((op for op in walk(plan.bound) if op.key == loop.key), loop)
    assert isinstance(bound, Loop)
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
