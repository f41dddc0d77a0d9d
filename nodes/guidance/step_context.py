"""The context of one sampler step, for guidance methods, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, structured
from guidegraph.nodes.sampler_types import NoiseLevel, widen_dtype
from guidegraph.nodes.sampling.table_rows import is_shared
from guidegraph.nodes.shape_checks import check_compatible, expand_to_batch
from guidegraph.nodes.types import Prediction, PredictionKind, Sample, Scheduler, SchedulerState, Timesteps
from guidegraph_runtime.tables.form import Form


class UnlikeRows(ValueError):
    """A method takes one row of the sampler's table for all samples, and was called with a row for each."""


@structured
@dataclass(frozen=True, eq=False)
class StepContext:
    """One step of a sampler, x = αx0 + σε, with conversions between ε, x0, v, u and score at its noise level.

    x: (B, C, H, W). t: (1) or (B), float32, as passed to the denoiser. alpha, sigma: from the sampler's row, float64 if
    x is float64, otherwise float32. step, steps: int64, the row, 0 … steps − 1, and the number of rows, one for each
    model call. These four are (1), or (B) if each sample has its own row, as in `scheduler.join`: `along` gives them
    the axes of x. form: the schedule's. Values that last from step to step are carries of the loop.
    """

    leaf_axes: ClassVar = {
        "x": ("B", "C", "H", "W"),
        **dict.fromkeys(("t", "alpha", "sigma", "step", "steps"), ("B",)),
    }

    x: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    step: Tensor
    steps: Tensor
    form: Form = "variance_preserving"

    def x0(self, prediction: Prediction) -> Tensor:
        """x̂0 (B, C, H, W) of a prediction at this step. Undefined for ε where α = 0."""
        return self._level.x0(self._prepare(prediction), prediction.kind)

    def eps(self, prediction: Prediction) -> Tensor:
        """ε̂ (B, C, H, W)."""
        return self._level.eps(self._prepare(prediction), prediction.kind)

    def v(self, prediction: Prediction) -> Tensor:
        """v̂ = αε − σx0 (B, C, H, W)."""
        return self._level.v(self._prepare(prediction), prediction.kind)

    def flow(self, prediction: Prediction) -> Tensor:
        """û = ε − x0 (B, C, H, W)."""
        return self._level.flow(self._prepare(prediction), prediction.kind)

    def score(self, prediction: Prediction) -> Tensor:
        """∇ₓ log p(x_t) = −ε̂/σ (B, C, H, W). Undefined where σ = 0."""
        return self._level.score(self._prepare(prediction), prediction.kind)

    def convert(self, prediction: Prediction, kind: PredictionKind) -> Prediction:
        """The prediction converted to another kind; the learned variance is kept.

        ``convert(Prediction(x0, "x0"), "v")`` converts a changed x̂0 back. Raises ``ValueError`` for an unknown kind.
        """
        if kind == prediction.kind:
            return prediction
        value = self._level.convert(self._prepare(prediction), prediction.kind, kind)
        return replace(prediction, value=value, kind=kind)

    def along(self, value: Tensor) -> Tensor:
        """A value (1) or (B), such as `alpha` or `step`, in a shape (1 or B, 1, …) that broadcasts to x (B, …)."""
        return value.reshape(-1, *(1,) * (self.x.ndim - 1))

    def require_one_row(self) -> None:
        """Raise ``UnlikeRows`` if the samples have rows of their own, for a method that takes one for all."""
        if not is_shared(self.alpha):
            raise UnlikeRows(
                f"it takes one noise level for all samples, and these {self.alpha.shape[0]} have rows of their own, as "
                "of scheduler.join: draw them in runs of their own"
            )

    @property
    def _level(self) -> NoiseLevel:
        return NoiseLevel(self.x.to(self.alpha.dtype), self.along(self.alpha), self.along(self.sigma), self.form)

    def _prepare(self, prediction: Prediction) -> Tensor:
        check_compatible("the prediction and x", prediction.value, self.x)
        return prediction.value.to(self.alpha.dtype)


@node("guidance.context", shape=lambda x: x.shape)
def context(scheduler: Scheduler, x: Sample, state: SchedulerState, t: Timesteps) -> StepContext:
    """A sampler's current step as one value for guidance: x, t, α, σ, step, steps, conversions.

    Wire scheduler, state and x as for scheduler.step, and t as for the denoiser. α and σ come from the sampler's row,
    as in scheduler.step.
    """
    dtype = widen_dtype(x.dtype)
    index = state.index.reshape(-1).to(scheduler.alpha.device)
    if not is_shared(index):
        expand_to_batch(index, x.shape[0], "the sampler's row")
    alpha, sigma = (
        level.index_select(0, index).to(device=x.device, dtype=dtype) for level in (scheduler.alpha, scheduler.sigma)
    )
    if t.shape[0] != 1:
        expand_to_batch(t, x.shape[0], "t")
    step, steps = (column.index_select(0, index) for column in scheduler.numbers)
    return StepContext(x, t.to(x.device), alpha, sigma, step.to(x.device), steps.to(x.device), scheduler.form)


@structured
@dataclass(frozen=True, eq=False)
class RuleMemory:
    """The memory of a denoiser's rules between two calls: a tensor (B, …) by the name of each site, such as
    "deep.up.4".

    A site's memory has the shape, dtype and device of the value that `HookedDenoiser.captured` gives there, and each
    row belongs to one sample. It starts as zeros.
    """

    values: dict[str, Tensor]

    def expand(self, batch: int) -> RuleMemory:
        """The memory with `batch` rows; a single row is repeated. Raises ``ValueError`` for another number of rows."""
        for name, value in self.values.items():
            if value.shape[0] not in (batch, 1):
                raise ValueError(
                    f"the memory of site '{name}' is of {value.shape[0]} samples and x has {batch}: carry a memory of "
                    "its own for each call, which starts from denoiser.empty_memory with the same x"
                )
        return RuleMemory({name: value.expand(batch, *value.shape[1:]) for name, value in self.values.items()})


@dataclass(frozen=True)
class RuleWithMemory:
    """A rule that is also called with its site's memory, and returns the next memory as well.

    function: takes what a rule of the site's kind takes, then the memory, and returns two values: what such a rule
    returns, and the next memory, in the shape, dtype and device of the one before. It keeps nothing itself, so that
    a call depends on its arguments alone.
    """

    function: Callable[..., tuple[Any, Tensor]]
