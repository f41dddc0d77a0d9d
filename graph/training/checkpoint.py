"""The checkpoint of a training: its key, and saving and loading of the models and values in it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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

        total: the steps of the training. Raises ``CheckpointError`` for a checkpoint after more steps.
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
        if self.is_first:
            self._warn(state)
        for name, t in progress.models.items():
            load_trained_state(t.model, state.part(f"model.{name}."))
            restore_optimisers(t.optimisers, state.part(f"optimiser.{name}."))
            if t.average is not None:
                load_trained_state(t.average, state.part(f"ema.{name}."))
        values_on_device = to_device(state.values, device)
        # Without a check of the key, the loop may carry and collect other names than it did.
        history, carry = values_on_device["history"], values_on_device["carry"]
        progress.history |= {name: _unpack(history[name]) for name in progress.history if name in history}
        progress.carry |= {name: carry[name] for name in progress.carry if name in carry}
        restore_generators(device, state.tensors)
        return state.step

    def _warn(self, state: TrainingState) -> None:
        if state.doubt:
            warnings.warn(state.doubt, stacklevel=2)
        if state.precision not in (None, self.precision):
            warnings.warn(
                f"the checkpoint in '{self.folder}' was trained in {state.precision} up to step {state.step}, and goes "
                f"on in {self.precision}: the losses differ by rounding from those of a training that was not stopped",
                stacklevel=2,
            )

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
