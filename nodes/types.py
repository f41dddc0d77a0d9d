"""The port types of conditional diffusion.

Named tensors are in tensor_types.py. The structured types are small frozen dataclasses, registered as pytrees, so that
they can be traced and exported.

The levels of timesteps that samplers visit again and again: computed once for a schedule.

A conversion between predictions reads α and σ at the timestep of its step. They are about thirty small tensor
operations, which take longer than the conversion of a small sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

from guidegraph.graph.late import torch
from guidegraph.graph.types import Tensor, is_tensor, structured
from guidegraph.graph.values.ownership import change_count
from guidegraph.nodes.condition_fields import BASIC_NAMES, FIELD_AXES, check_field, find_field
from guidegraph.nodes.condition_fields import ConditionField as ConditionField
from guidegraph.nodes.sampler_types import KINDS, NoiseLevel, check_kind, widen_dtype
from guidegraph.nodes.sampler_types import Levels as Levels
from guidegraph.nodes.sampler_types import PredictionKind as PredictionKind
from guidegraph.nodes.sampler_types import Scheduler as Scheduler
from guidegraph.nodes.sampler_types import SchedulerState as SchedulerState
from guidegraph.nodes.shape_checks import check_compatible, has_values, is_transformed
from guidegraph.nodes.table import Table as Table
from guidegraph.nodes.tensor_types import (
    Image as Image,
)
from guidegraph.nodes.tensor_types import (
    Label as Label,
)
from guidegraph.nodes.tensor_types import (
    Latent as Latent,
)
from guidegraph.nodes.tensor_types import (
    Mask as Mask,
)
from guidegraph.nodes.tensor_types import (
    Noise as Noise,
)
from guidegraph.nodes.tensor_types import (
    Sample as Sample,
)
from guidegraph.nodes.tensor_types import (
    Score as Score,
)
from guidegraph.nodes.tensor_types import (
    SemanticMap as SemanticMap,
)
from guidegraph.nodes.tensor_types import (
    Timesteps as Timesteps,
)
from guidegraph_runtime.tables.form import Form

MOST_TIMESTEPS = 4096
Level: TypeAlias = "tuple[Tensor, Tensor]"
"""α and σ."""


class LevelTable(Protocol):
    """A schedule: whatever has ᾱ for each of its timesteps."""

    @property
    def alphas_bar(self) -> Tensor: ...


class _KeptLevel(NamedTuple):
    """α and σ, and how often these two and the schedule's table had been changed in place when they were made."""

    level: Level
    changes: tuple[int, int, int]


_kept: WeakKeyDictionary[LevelTable, dict[tuple[object, ...], _KeptLevel]] = WeakKeyDictionary()


def keep_level(schedule: LevelTable, x: Tensor, t: Tensor, compute: Callable[[Tensor, Tensor], Level]) -> Level:
    """α and σ of `compute(x, t)`, made once for equal timesteps and any x of one dtype, device and rank.

    Levels are computed again unless t is one concrete timestep on the CPU, and where gradients of it are taken or calls
    are recorded.
    """
    table = schedule.alphas_bar
    if t.shape != (1,) or t.device.type != "cpu" or t.requires_grad or table.requires_grad:
        return compute(x, t)
    if not has_values(t, x, table) or is_transformed():
        return compute(x, t)
    levels = _kept.get(schedule)
    if levels is None:
        levels = _kept[schedule] = {}
    key = (float(t), x.dtype, x.device, x.ndim)
    kept = levels.get(key)
    if kept is None or kept.changes != _count_changes(kept.level, table):
        if len(levels) >= MOST_TIMESTEPS:
            levels.clear()
        with torch.inference_mode(False), torch.no_grad():  # later steps may take gradients
            level = compute(x, t)
        kept = levels[key] = _KeptLevel(level, _count_changes(level, table))
    return kept.level


def _count_changes(level: Level, table: Tensor) -> tuple[int, int, int]:
    return change_count(level[0]), change_count(level[1]), change_count(table)


Scale: TypeAlias = float | Tensor
"""A guidance scale: one number, or a tensor (B) with one for each sample."""


def per_sample(scale: Any, like: Any) -> Any:
    """The scale in a shape that multiplies ``like`` (B, …): trailing axes for a tensor (1) or (B), a number unchanged.

    A tensor may already have trailing axes of 1. Raises ``ValueError`` for one with any other axes, or with another
    number of scales.
    """
    if isinstance(scale, (int, float)) or not is_tensor(scale) or scale.ndim == 0:
        return scale
    scale = drop_trailing_axes(scale)
    if scale.shape[0] not in (like.shape[0], 1):
        raise ValueError(f"{scale.shape[0]} scales do not fit {like.shape[0]} samples: give one for all or for each")
    return scale.to(device=like.device).reshape(-1, *(1,) * (like.ndim - 1))


def drop_trailing_axes(scale: Any) -> Any:
    """The scales (B) of a tensor (B, 1, …), a number unchanged. Raises ``ValueError`` for axes that are not 1."""
    if not is_tensor(scale) or scale.ndim < 2:
        return scale
    if any(size != 1 for size in scale.shape[1:]):
        raise ValueError(
            f"the scales have shape {tuple(scale.shape)}: give one number, or a tensor (B) with one for each sample"
        )
    return scale.reshape(-1)


@structured
@dataclass(frozen=True)
class Prediction:
    """A denoiser's prediction at x_t: ``value`` (B, C, H, W) is ε, x0, v or u = ε − x0, depending on ``kind``.

    ``variance`` is the raw learned variance in [-1, 1], in the shape of ``value``, or None if the network
    predicts none. Arithmetic acts on the value and needs equal kinds. A difference keeps the variance of its
    left operand. A sum keeps its right operand's variance, or its left operand's if the right has none, so
    that ``uncond + scale * (cond - uncond)`` keeps cond's.
    """

    leaf_axes: ClassVar = {"value": ("B", "C", "H", "W"), "variance": ("B", "C", "H", "W")}

    value: Tensor
    kind: PredictionKind
    variance: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            check_kind(self.kind)

    def _check_addable(self, other: Prediction) -> None:
        if self.kind != other.kind:
            raise ValueError(f"predictions of kinds '{self.kind}' and '{other.kind}' do not add: convert one first")
        if self.value.shape != other.value.shape:
            check_compatible("predictions that are added", self.value, other.value)

    def __add__(self, other: Prediction) -> Prediction:
        self._check_addable(other)
        variance = self.variance if other.variance is None else other.variance
        return Prediction(self.value + other.value, self.kind, variance)

    def __sub__(self, other: Prediction) -> Prediction:
        self._check_addable(other)
        return Prediction(self.value - other.value, self.kind, self.variance)

    def __mul__(self, scale: Scale) -> Prediction:
        return Prediction(self.value * per_sample(scale, self.value), self.kind, self.variance)

    __rmul__ = __mul__

    def extrapolate(self, other: Prediction, scale: Scale) -> Prediction:
        """``self + scale * (other - self)`` in fewer operations (Ho & Salimans 2022, eq. 6).

        scale: a number, or a tensor (B). It has the variance that the formula has, and the same errors.
        """
        other._check_addable(self)
        difference = other.value - self.value
        is_wide = difference.dtype.itemsize >= 4  # half precision would round the scale
        if is_wide and isinstance(scale, (int, float)) and not isinstance(scale, bool):
            value = self.value.add(difference, alpha=scale)
        else:
            value = self.value + per_sample(scale, difference) * difference
        return Prediction(value, self.kind, self.variance if other.variance is None else other.variance)

    def __truediv__(self, scale: Scale) -> Prediction:
        return Prediction(self.value / per_sample(scale, self.value), self.kind, self.variance)

    def __neg__(self) -> Prediction:
        return replace(self, value=-self.value)


@structured
@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule: x_t = α_t x0 + σ_t ε, variance-preserving on t = 0 … T−1 or the flow on t = 0 … T.

    ``alphas_bar``: ᾱ = α²/(α² + σ²), float64, decreasing, one for each t. ``form``: variance_preserving has
    α² + σ² = 1, so that α² = ᾱ, and flow has α = 1 − σ with t = T · σ. ``trained_from``, ``trained_to``: the first and
    last timestep that the model was trained on. Samplers stay within them by default; without them, they use all
    timesteps that have signal left (guidegraph_runtime.tables.noise_levels). ``shift``: of the flow's levels, in
    sampling and in training. The methods convert between ε, x0, v, u and score (`NoiseLevel`), take t (1) or (B) and
    x (B, …), and compute in float64 if x is float64, otherwise in float32.
    """

    leaf_axes: ClassVar = {"alphas_bar": ("T",)}

    alphas_bar: Tensor
    trained_from: float | None = None
    trained_to: float | None = None
    form: Form = "variance_preserving"
    shift: float = 1.0

    @property
    def train_steps(self) -> int:
        """T."""
        return int(self.alphas_bar.shape[0]) - int(self.first)

    @property
    def first(self) -> float:
        """The first timestep with noise: 0, or 1 of a flow."""
        return 1.0 if self.form == "flow" else 0.0

    @property
    def last(self) -> float:
        """The last timestep: T − 1, or T of a flow."""
        return float(self.alphas_bar.shape[0] - 1)

    @property
    def known(self) -> tuple[float, float]:
        """The first and last timestep that samplers visit by default."""
        from guidegraph_runtime.tables.noise_levels import NoiseSchedule

        noise = NoiseSchedule.of(self.alphas_bar.double().cpu().numpy(), self.trained_from, self.trained_to, self.form)
        return noise.low, noise.high

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ in the shape of t, float64 for a float64 t and float32 otherwise.

        log(σ/α), or the σ of a flow, is interpolated between whole timesteps, and t is clamped to the schedule.
        """
        alphas_bar = self.alphas_bar.to(device=t.device, dtype=torch.float64)
        position = t.to(torch.float64).clamp(0, self.last)
        low = position.floor().clamp(max=self.last - 1)
        weight, below = position - low, low.long()
        a, b = (0.5 * (torch.log1p(-bar) - torch.log(bar)) for bar in (alphas_bar[below], alphas_bar[below + 1]))
        dtype = widen_dtype(t.dtype)
        if self.form == "flow":
            alpha, sigma = (torch.lerp(torch.sigmoid(s * a), torch.sigmoid(s * b), weight) for s in (-1, 1))
            return alpha.to(dtype), sigma.to(dtype)
        log_ratio = torch.where(weight == 0, a, a + weight * (b - a))  # b is infinite where ᾱ ends in 0
        return torch.sigmoid(-2 * log_ratio).sqrt().to(dtype), torch.sigmoid(2 * log_ratio).sqrt().to(dtype)

    def to_x0(self, prediction: Prediction, x: Tensor, t: Tensor) -> Tensor:
        """x̂0 (B, …)."""
        return self.level_at(x, t).x0(prediction.value, prediction.kind)

    def to_eps(self, prediction: Prediction, x: Tensor, t: Tensor) -> Tensor:
        """ε̂ (B, …)."""
        return self.level_at(x, t).eps(prediction.value, prediction.kind)

    def to_v(self, prediction: Prediction, x: Tensor, t: Tensor) -> Tensor:
        """v̂ (B, …)."""
        return self.level_at(x, t).v(prediction.value, prediction.kind)

    def to_flow(self, prediction: Prediction, x: Tensor, t: Tensor) -> Tensor:
        """û = ε − x0 (B, …)."""
        return self.level_at(x, t).flow(prediction.value, prediction.kind)

    def score(self, prediction: Prediction, x: Tensor, t: Tensor) -> Tensor:
        """∇ₓ log p(x_t) = −ε̂/σ (B, …)."""
        return self.level_at(x, t).score(prediction.value, prediction.kind)

    def convert(self, prediction: Prediction, kind: PredictionKind, x: Tensor, t: Tensor) -> Prediction:
        """The prediction converted to another kind; the learned variance is kept."""
        if kind == prediction.kind:
            return prediction
        return replace(
            prediction, value=self.level_at(x, t).convert(prediction.value, prediction.kind, kind), kind=kind
        )

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = α_t x0 + σ_t ε (B, …)."""
        alpha, sigma = self.along(x0, t)
        return alpha * x0 + sigma * eps

    def along(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ in shapes that broadcast to x, (1, 1, …) or (B, 1, …), in the dtype of the computation."""
        return keep_level(self, x, t, self._compute_along)

    def _compute_along(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(t.to(device=x.device, dtype=torch.float64))
        dtype = widen_dtype(x.dtype)
        axes = (-1, *(1,) * (x.ndim - 1))
        return alpha.to(dtype).reshape(axes), sigma.to(dtype).reshape(axes)

    def level_at(self, x: Tensor, t: Tensor) -> NoiseLevel:
        """The noise level of x (B, …) at t, for several conversions at once."""
        return NoiseLevel(x, *self.along(x, t), self.form)


@structured
@dataclass(frozen=True)
class Condition:
    """The inputs that condition a denoiser; every field is optional.

    vector: (B, D), added to the time embedding. tokens: (B, M, D), for cross-attention, with mask
    (B, M), true where a token counts. spatial: (B, C, H, W), concatenated to x. more: the fields that plugins
    declare, by name; `with_fields` adds them, and `fields` has them all.
    The leading axis is B, or 1 if all samples share the condition.
    """

    leaf_axes: ClassVar = FIELD_AXES

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    spatial: Tensor | None = None
    more: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.more is not None:  # a copy in one order, since conditions of one structure are joined
            object.__setattr__(self, "more", {name: self.more[name] for name in sorted(self.more)} or None)

    @property
    def fields(self) -> Mapping[str, Tensor]:
        """The tensors of the fields that are present, by name."""
        basic = (("vector", self.vector), ("tokens", self.tokens), ("mask", self.mask), ("spatial", self.spatial))
        return {name: value for name, value in basic if value is not None} | dict(self.more or {})

    @classmethod
    def of(cls, fields: Mapping[str, Tensor]) -> Condition:
        """The condition with these tensors as its fields, by name. `with_fields` checks them, and this does not."""
        basic = {name: value for name, value in fields.items() if name in BASIC_NAMES}
        more = {name: value for name, value in fields.items() if name not in BASIC_NAMES}
        return cls(**basic, more=more or None)

    def with_fields(self, **fields: Tensor | None) -> Condition:
        """The condition with these fields in place of its own; a field that is given as None is left out.

        Raises ``ValueError`` for a name that no plugin has declared, and for a tensor with other axes than declared.
        """
        for name, value in fields.items():
            if value is None:
                find_field(name)
            else:
                check_field(name, value)
        changed = {**self.fields, **fields}
        return Condition.of({name: value for name, value in changed.items() if value is not None})


@runtime_checkable
class Denoiser(Protocol):
    """A noise-prediction network: x (B, C, H, W), t (B) float32 and a condition give a prediction."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction: ...


@runtime_checkable
class Classifier(Protocol):
    """log p(y | x_t) up to a constant: x (B, C, H, W) and t (B) give logits (B, K).

    If it has an attribute `classes`, K, exported bundles refuse other labels before they run.
    """

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Texts to a condition with tokens (B, M, D) and, where the model has one, a vector."""

    def __call__(self, texts: Sequence[str]) -> Condition: ...


@runtime_checkable
class LabelEmbedder(Protocol):
    """Class labels (B), int64, to a condition. The label `classes` is the null class.

    An embedder without a null class has an attribute `has_null` that is False.
    """

    @property
    def classes(self) -> int: ...

    def __call__(self, labels: Tensor) -> Condition: ...


@runtime_checkable
class ImageEmbedder(Protocol):
    """Pictures (B, 3, H, W) in [-1, 1] to a condition on their content, regardless of position."""

    def __call__(self, image: Tensor) -> Condition: ...


@runtime_checkable
class SemanticEmbedder(Protocol):
    """Semantic maps (B, K, H, W), of the picture's size, to a condition on the class of each pixel."""

    def __call__(self, semantic: Tensor) -> Condition: ...


@runtime_checkable
class ConditionAdapter(Protocol):
    """Converts one encoder's condition to the tokens and vector of another."""

    def __call__(self, condition: Condition) -> Condition: ...


@runtime_checkable
class Segmenter(Protocol):
    """Pictures (B, 3, H, W) in [-1, 1] to class logits (B, K, H, W) of every pixel."""

    def __call__(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """Pictures (B, 3, H, W) in [-1, 1] to feature maps (B, C, h, w), finest first, and last a pooled one (B, D)."""

    def __call__(self, image: Tensor) -> Sequence[Tensor]: ...


@runtime_checkable
class Discriminator(Protocol):
    """Pictures (B, 3, H, W) in [-1, 1] to logits (B, 1, h, w): how real each patch looks."""

    def __call__(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Autoencoder(Protocol):
    """Pictures to latents of unit variance and back. The scale factor belongs to the autoencoder."""

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...
