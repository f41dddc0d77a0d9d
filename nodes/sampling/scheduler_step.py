"""The step that all samplers share: one row of the sampler's table, applied to the sample and the sampler's state."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_types import Gt

from guidegraph.graph.execution.watched_sizes import is_watching, offer_value, watch_size
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.ownership import change_count
from guidegraph.nodes.derive import node_for
from guidegraph.nodes.sampler_types import NoiseLevel, widen_dtype
from guidegraph.nodes.sampling.table_rows import Terms, along, is_shared, take_entry, take_row
from guidegraph.nodes.shape_checks import cast_like, check_compatible, has_values
from guidegraph.nodes.types import Noise, Prediction, Sample, Scheduler, SchedulerState, Score, Table, Timesteps
from guidegraph_runtime.operations.schedule import noisy_shape
from guidegraph_runtime.tables.rows import INPUTS, K

if TYPE_CHECKING:
    from torch import Tensor


class Step(NamedTuple):
    x: Sample
    state: SchedulerState


NO_NOISE = (
    "this sampler draws noise at its steps and nothing is wired here: add `fresh: {use: noise.gaussian, in: {like: "
    "carry.x, index: loop.index, seed: params.seed}}` to the body and `noise: fresh` to the step's `in`, or choose a "
    "deterministic sampler (eta 0)"
)
NO_VARIANCE = (
    "this sampler's steps have no variance, so a score cannot shift their mean (algorithm 1 needs DDPM or another "
    "sampler that draws noise, of two steps or more): use guidance.shift_eps (algorithm 2) and leave this port unwired"
)
NO_RENOISE = (
    "this sampler's rows do not noise x̂0 again with ε alone: they also read x or values that it keeps, or no ε at all. "
    "Use ddim, euler, euler_ancestral or tcd, with two steps or more, or leave this port unwired"
)


DIVERGED = 5.0
"""A run has failed if the root mean square of its last x̂0 is above this multiple of the data's.

With the shipped models, runs with good pictures end at 0.8 to 1.6 times the data's (3.5 at guidance scale 20), and runs
that start at levels the model was not trained on end at 20 to 700 times.
"""
OUT_OF_RANGE = (
    "x̂0 is out of the range that its model knows: it ends with a root mean square of {size:.3g}, and the data has "
    "DATA. The picture is likely noise: start the sampler at a level that the model was trained on, or guide less (a "
    "model whose data is on another scale: set data_rms)"
)


def _list_needed_ports(scheduler: Scheduler) -> set[str]:
    """The ports that the sampler's table reads: noise only if a row has a gain for it."""
    ports = {"scheduler", "x", "prediction", "state", "t", "score", "renoise"}
    return ports | {"noise"} if scheduler.reads_noise else ports


def _wiring_problems(scheduler: Scheduler, wired: Collection[str]) -> dict[str, str]:
    """Problems, by port, of the optional ports that are wired or missing for a sampler's table."""
    problems: dict[str, str] = {}
    if scheduler.reads_noise and "noise" not in wired:
        problems["noise"] = NO_NOISE
    if not scheduler.reads_score and "score" in wired:
        problems["score"] = NO_VARIANCE
    if not scheduler.renoisable and "renoise" in wired:
        problems["renoise"] = NO_RENOISE
    return problems


def _check_ports(
    scheduler: Scheduler, x: Sample, score: Score | None, noise: Noise | None, renoise: Prediction | None
) -> None:
    """Raise ``ValueError`` if an optional port does not fit the sampler's table or the shape of x."""
    if score is None and noise is None and renoise is None and not scheduler.reads_noise:
        return
    optional = {"score": score, "noise": noise, "renoise": renoise}
    wired = [name for name, value in optional.items() if value is not None]
    for name, message in _wiring_problems(scheduler, wired).items():
        raise ValueError(f"port '{name}': {message}")
    for name, port in (("score", score), ("noise", noise)):
        if port is not None:
            check_compatible(f"x and port '{name}'", x, port)


@node("scheduler.step", needs=_list_needed_ports, check=_wiring_problems)
def step(
    scheduler: Scheduler,
    x: Sample,
    prediction: Prediction,
    state: SchedulerState,
    t: Timesteps,
    score: Score | None = None,
    noise: Noise | None = None,
    renoise: Prediction | None = None,
    *,
    data_rms: Annotated[float, Gt(0)] | None = 1.0,
) -> Step:
    """Move x (B, C, H, W) along the sampler by one model call.

    state.index selects the row, which has α and σ, for all samples (1) or for each (B), as in `scheduler.join`: t is
    only for the reader. score: Σ · score is added to the mean (Dhariwal & Nichol 2021, algorithm 1).
    noise: fresh standard normal noise, for samplers that draw it.
    renoise: a prediction whose ε replaces the row's, as in CFG++ (Chung et al. 2024), for samplers that noise x̂0 again
    with ε alone: ddim, euler, euler_ancestral and tcd.
    data_rms: the root mean square of the model's data, about 1 for latents of unit scale and at most 1 for pictures in
    [-1, 1]. A run whose last x̂0 is more than five times as large warns once and names the step; null: never.
    Computes and returns float64 if x is float64, otherwise float32, whatever the dtype of the networks, because a
    sampler adds up many small steps.
    """
    _check_ports(scheduler, x, score, noise, renoise)
    row = _Row(scheduler, x, state)
    spread = row.spread(prediction)
    drawn = None if noise is None else noise.to(row.x).expand_as(x) * spread
    x0, eps = row.x0_and_eps(prediction, renoise)
    if data_rms is not None:
        _watch_range(x0, prediction, data_rms, row)
    if has_values(x0):
        offer_value(x0)
    moved, slots = row.apply(x0, eps, drawn)
    if score is not None:
        moved = moved + row.score_gain * spread**2 * score.to(row.x)
    return Step(moved, SchedulerState(row.next_index(), slots))


@node("scheduler.mean")
def mean(scheduler: Scheduler, x: Sample, prediction: Prediction, state: SchedulerState, t: Timesteps) -> Sample:
    """μ (B, C, H, W), the result of scheduler.step without noise and score, to take a classifier's gradient at.

    float64 if x is float64, otherwise float32.
    """
    row = _Row(scheduler, x, state)
    moved, _ = row.apply(*row.x0_and_eps(prediction))
    return moved


@node_for("scheduler.add_noise", shape=noisy_shape)
def add_noise(scheduler: Scheduler, x0: Sample, noise: Noise, state: SchedulerState | None) -> Sample:
    check_compatible("x0 and noise", x0, noise)
    dtype = widen_dtype(x0.dtype)
    index = _next_calls(scheduler, max(x0.shape[0], noise.shape[0]), state)
    levels = (
        torch.cat([level, level.new_full((1,), end)]) for level, end in ((scheduler.alpha, 1), (scheduler.sigma, 0))
    )
    alpha, sigma = (along(take_entry(level, index, x0.to(dtype)), x0) for level in levels)
    return alpha * x0.to(dtype) + sigma * noise.to(device=x0.device, dtype=dtype)


def _next_calls(scheduler: Scheduler, batch: int, state: SchedulerState | None) -> Tensor:
    """The row of the next call for all samples (1), or of a joined table for each (B); R after a sampler's last."""
    if not scheduler.joined:
        return scheduler.t.new_zeros(1, dtype=torch.int64) if state is None else state.index
    samples = batch if state is None else state.index.shape[0]
    first = len(scheduler.t) // samples * torch.arange(samples, device=scheduler.t.device)
    index = first if state is None else state.index.to(first.device)
    length = scheduler.numbers[1][first]
    return torch.where(index - first < length, index, len(scheduler.t))


@node("scheduler.table")
def table(scheduler: Scheduler) -> Table:
    """The sampler's rows as a table to read or plot: t, α, σ, σ/α, the score gain Σ, and the coefficients of the row.

    Column `x.eps` is the coefficient of ε in the next x, `s1.x0` the coefficient of x̂0 in the first kept value, and so
    on. Columns that are zero in every row are left out.
    """
    row = torch.arange(len(scheduler.t))
    levels = {"row": row, "t": scheduler.t, "alpha": scheduler.alpha, "sigma": scheduler.sigma}
    columns = {**levels, "sigma/alpha": scheduler.sigma / scheduler.alpha, "score_gain": scheduler.score_gain}
    for i, output in enumerate(("x", *INPUTS[4:])):
        for j, name in enumerate(INPUTS):
            if bool(scheduler.matrix[:, i, j].any()):
                columns[f"{output}.{name}"] = scheduler.matrix[:, i, j]
    return Table({name: values.tolist() for name, values in columns.items()})


class _Row:
    """The row at state.index, in the dtype and on the device of the computation."""

    def __init__(self, scheduler: Scheduler, x: Tensor, state: SchedulerState) -> None:
        self.scheduler, self.x = scheduler, x.to(widen_dtype(x.dtype))
        self.slots = state.sized_slots(self.x)
        if self.slots.shape[1:] != self.x.shape:
            raise ValueError(
                f"the sampler's state has kept values of shape {tuple(self.slots.shape[1:])} and x has shape "
                f"{tuple(self.x.shape)}: wire the state that the last step of this x returned"
            )
        self._index, self._shared = state.index, is_shared(state.index)
        if not self._shared and state.index.shape[0] != x.shape[0]:
            raise ValueError(
                f"the sampler's state has rows for {state.index.shape[0]} samples and x has {x.shape[0]}: give one row "
                "for all or for each"
            )
        self._row = take_row(scheduler, state.index, self.x)
        self.alpha, self.sigma = along(self._row.alpha, self.x), along(self._row.sigma, self.x)

    def next_index(self) -> Tensor:
        """The index of the next row, for the state after this one, in the shape of this one."""
        following = self._row.following
        if following is None or self._index.ndim == 0 or change_count(following):
            return self._index + 1
        return following

    def _take(self, column: Tensor) -> Tensor:
        """The row's entry of another column of the table."""
        return take_entry(column, self._index, self.x)

    @property
    def score_gain(self) -> Tensor:
        """Σ in μ + Σ · score."""
        return along(self._take(self.scheduler.score_gain), self.x)

    def apply(self, x0: Tensor, eps: Tensor, drawn: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x′ and s′ = M · [x, x0, ε, noise, s]. drawn: the noise, zero by default."""
        row = self._row
        if row.terms and row.zeros is not None:
            moved = self._add_terms(row.terms, (self.x, x0, eps, drawn))
            if moved.requires_grad or not self.x.requires_grad:  # the product has a gradient for x, if only of zeros
                return moved, row.zeros.expand(self.slots.shape)
        if drawn is None:
            drawn = torch.zeros_like(self.x)
        if not self._shared:
            values = torch.cat([torch.stack([self.x, x0, eps, drawn], 1), self.slots.transpose(0, 1)], 1)
            moved = (row.matrix @ values.flatten(2)).unflatten(2, self.x.shape[1:])
            return moved[:, 0], moved[:, 1:].transpose(0, 1)
        shape = self.x.shape
        inputs = torch.cat([self.x, x0, eps, drawn, self.slots.reshape(-1, *shape[1:])])
        outputs = torch.mm(row.matrix, inputs.reshape(len(INPUTS), -1)).reshape(-1, *shape)
        return outputs.select(0, 0), outputs.narrow(0, 1, K)

    def _add_terms(self, terms: Terms, inputs: Sequence[Tensor | None]) -> Tensor:
        """The sum of inputs by their coefficients: a row that keeps nothing has few of them, and no need of M.

        It is contiguous, as the product with M is, also if the network's output has its channels last.
        """
        total: Tensor | None = None
        for position, coefficient in terms:
            value = inputs[position] if position < len(inputs) else self.slots[position - len(inputs)]
            if value is not None:
                total = coefficient * value if total is None else total.add(value, alpha=coefficient)
        return torch.zeros_like(self.x) if total is None else total.contiguous()

    def spread(self, prediction: Prediction) -> Tensor | float:
        """The standard deviation of a learned variance (Nichol & Dhariwal 2021, eq. 15); 1 without one."""
        if not self.scheduler.learned:
            return 1.0
        if prediction.variance is None:
            raise ValueError(
                "the sampler's variance is 'learned' and the prediction has none: use fixed_small or fixed_large"
            )
        low, high = (along(bound, self.x) for bound in self._take(self.scheduler.log_variance).unbind(-1))
        fraction = (prediction.variance.to(self.x) + 1) / 2
        return (0.5 * (low + fraction * (high - low))).exp()

    def x0_and_eps(self, prediction: Prediction, renoise: Prediction | None = None) -> tuple[Tensor, Tensor]:
        """x̂0, clipped by the sampler's settings, and ε̂, from `renoise` if it is wired."""
        value, level = self._prepare(prediction), NoiseLevel(self.x, self.alpha, self.sigma, self.scheduler.form)
        x0, eps = level.x0(value, prediction.kind), level.eps(value, prediction.kind)
        clipped, rederive = self._clip(x0)
        if rederive is True:
            eps = level.eps(clipped, "x0")
        elif rederive is not False:
            eps = torch.where(rederive, level.eps(clipped, "x0"), eps)
        if renoise is not None:
            eps = level.eps(self._prepare(renoise), renoise.kind)
        return clipped, eps

    def _clip(self, x0: Tensor) -> tuple[Tensor, Tensor | bool]:
        """x̂0 after the sampler's clipping, and whether ε is derived again from it: one flag, or one for each sample."""
        table = self.scheduler
        settings: tuple[Any, ...] = (table.clip, table.threshold, table.threshold_max)
        flags: Any = table.rederive_eps
        if is_tensor(settings[0]):
            clip, threshold, threshold_max = (self._take(column).reshape(-1) for column in settings)
            flag = take_entry(flags, self._index, flags).reshape(-1).to(x0.device)
            clipped, is_bounded = clip_each(x0, clip, threshold, threshold_max)
            return clipped, along(flag & is_bounded, x0)
        clipped = clip_x0(x0, *settings)
        return clipped, clipped is not x0 and flags

    def _prepare(self, prediction: Prediction) -> Tensor:
        """The prediction's value in the row's dtype. Raises ``ValueError`` if it does not fit x or the sampler."""
        if prediction.value.shape != self.x.shape:
            raise ValueError(
                f"the prediction has shape {tuple(prediction.value.shape)} and x has shape {tuple(self.x.shape)}"
            )
        if self.scheduler.zero_snr and prediction.kind == "eps":
            raise ValueError(
                "the sampler starts at α = 0, where an ε prediction says nothing of x0: use a model that predicts v, "
                "x0 or flow, or levels that start where signal is left"
            )
        return cast_like(prediction.value, self.x)


def _watch_range(x0: Tensor, prediction: Prediction, data_rms: float, row: _Row) -> None:
    """Report the root mean square of each sample's x̂0, so that the run warns if one ends far above the data's.

    A loop that ends with σ > α does not warn: its x̂0 is a guess, and another sampler may continue from there.
    """
    if is_watching():
        alpha, sigma = row.alpha, row.sigma
        value = x0.clone() if x0 is prediction.value else x0  # the memory of a network's output may be used again
        watch_size(value, DIVERGED * data_rms, _range_message(data_rms), lambda: (sigma <= alpha).all(), _rms)


def _rms(x0: Tensor) -> Tensor:
    """The root mean square of each sample (B); in a graph, the largest."""
    axes = tuple(range(1, x0.ndim))
    if has_values(x0):
        norm: Tensor = torch.linalg.vector_norm(x0, dim=axes)
        return norm / math.sqrt(math.prod(x0.shape[1:]))
    return x0.square().mean(dim=axes).amax(dim=0).sqrt()  # traceable for any size


@cache
def _range_message(data_rms: float) -> str:
    return OUT_OF_RANGE.replace("DATA", f"{data_rms:g}")


def clip_x0(x0: Tensor, clip: float | None, threshold: float | None, threshold_max: float | None = None) -> Tensor:
    """Clip x̂0 (B, …) to [−clip, clip]. With a threshold p, first scale each sample so that quantile p of |x̂0| fits.

    clip: None does not clip, or counts as 1 with a threshold. threshold_max: upper bound of the quantile. The scale
    factor is at most 1 (Saharia et al. 2022, section 2.3), unless threshold_max is below clip.
    """
    if threshold is None:
        return x0 if clip is None else x0.clamp(-clip, clip)
    bound = 1.0 if clip is None else clip
    edge = torch.quantile(_magnitudes(x0), threshold, dim=1).clamp(min=bound)
    if threshold_max is not None:
        edge = edge.clamp(max=threshold_max)
    edge = edge.reshape(-1, *(1,) * (x0.ndim - 1))
    return (torch.maximum(torch.minimum(x0, edge), -edge) * (bound / edge)).to(x0.dtype)


def clip_each(x0: Tensor, clip: Tensor, threshold: Tensor, threshold_max: Tensor) -> tuple[Tensor, Tensor]:
    """As `clip_x0`, with bounds (B), or (1) for all samples, that are NaN for none; and whether a sample has bounds."""
    unbounded, fixed = clip.isnan() & threshold.isnan(), threshold.isnan()
    bound = torch.where(unbounded, torch.inf, torch.where(clip.isnan(), 1.0, clip))
    magnitudes = _magnitudes(x0)
    quantiles = torch.quantile(magnitudes, threshold.nan_to_num(1.0).to(magnitudes), dim=1)  # (B or 1, B)
    quantile = quantiles[0] if threshold.shape[0] == 1 else quantiles.diagonal()
    limited = torch.minimum(torch.maximum(quantile, bound), threshold_max.nan_to_num(torch.inf))
    edge = torch.where(fixed, bound, limited)
    factor = torch.where(unbounded, 1.0, bound / edge)
    edge, factor = (value.reshape(-1, *(1,) * (x0.ndim - 1)) for value in (edge, factor))
    return (torch.maximum(torch.minimum(x0, edge), -edge) * factor).to(x0.dtype), ~unbounded


def _magnitudes(x0: Tensor) -> Tensor:
    """|x̂0| (B, N) for quantiles, which torch computes in float32 and float64 alone."""
    wide: Tensor = x0.to(torch.promote_types(x0.dtype, torch.float32)).abs().flatten(1)
    return wide
