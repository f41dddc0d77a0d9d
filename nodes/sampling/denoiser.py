"""Nodes that call a denoiser, wrap it in guidance, or read its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from guidegraph.graph.errors import PortError
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor, capability
from guidegraph.nodes.condition_fields import check_reads
from guidegraph.nodes.guidance.hooks import HookedDenoiser, HookedWrapper, MemoryDenoiser, Site, select_sites
from guidegraph.nodes.guidance.step_context import RuleMemory, RuleWithMemory
from guidegraph.nodes.shape_checks import expand_leading_axis, expand_to_batch, has_values
from guidegraph.nodes.types import Condition, Denoiser, Prediction, Sample, Scale, Table, Timesteps


def list_shape_problems(denoiser: Denoiser, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The problem of the shape of x, if the denoiser can check it."""
    check = getattr(denoiser, "check_shape", None)
    if check is None or len(shapes.get("x", ())) != 4:
        return {}
    try:
        check(shapes["x"])
    except ValueError as error:
        return {"x": str(error)}
    return {}


@node("denoiser.predict", batchable=("x", "t", "condition"), check=list_shape_problems)
def predict(denoiser: Denoiser, x: Sample, t: Timesteps, condition: Condition | None = None) -> Prediction:
    """The denoiser's prediction at x (B, C, H, W) and t (1) or (B), for a condition with leading axis 1 or B.

    Raises an error for a field of the condition that the denoiser does not read.
    """
    batch = x.shape[0]
    return denoiser(x, expand_to_batch(t, batch, "t"), make_call_condition(denoiser, condition, batch))


def make_call_condition(denoiser: Denoiser, condition: Condition | None, batch: int) -> Condition:
    """The condition at a node's port, expanded to the batch. Raises ``PortError`` if the denoiser reads it in part."""
    condition = condition or Condition()
    try:
        check_reads(denoiser, condition.fields)
    except ValueError as error:
        raise PortError("condition", str(error), names_giver=True) from None
    return expand_condition(condition, batch)


def expand_condition(condition: Condition, batch: int) -> Condition:
    """The condition with every field expanded to a leading axis of `batch`.

    Unless traced, it is the condition itself if all fields have that axis.
    """
    fields = condition.fields
    tensors = list(fields.values())
    if all(tensor.shape[0] == batch for tensor in tensors) and has_values(*tensors):
        return condition
    for tensor in tensors:
        if tensor.shape[0] not in (batch, 1):
            raise ValueError(
                f"the condition is for {tensor.shape[0]} samples and x has {batch}: give one condition for all, or "
                f"start from noise with batch {tensor.shape[0]}"
            )
    return Condition.of({name: expand_leading_axis(value, batch) for name, value in fields.items()})


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance as a denoiser. The condition of a call replaces `positive`, unless it is empty."""

    denoiser: Denoiser
    positive: Condition
    negative: Condition
    scale: Scale

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        cond = predict(self.denoiser, x, t, self._positive(condition))
        return self._guide(cond, x, t)

    def _positive(self, condition: Condition | None) -> Condition:
        return condition if condition is not None and condition.fields else self.positive

    def _guide(self, cond: Prediction, x: Tensor, t: Tensor) -> Prediction:
        uncond = predict(self.denoiser, x, t, self.negative)
        return uncond.extrapolate(cond, self.scale)


@dataclass(frozen=True)
class HookedGuidedDenoiser(HookedWrapper, GuidedDenoiser):
    """A guided denoiser whose inner denoiser has hooks; rules act in both of its calls."""

    guides_itself = True

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The guided prediction, and the outputs of the sites in the conditional call."""
        batch = x.shape[0]
        positive = self._positive(condition)
        check_reads(self.denoiser, positive.fields)
        expanded = expand_condition(positive, batch)
        cond, values = self.inner.captured(x, expand_to_batch(t, batch, "t"), expanded, sites)
        return self._guide(cond, x, t), values


@node("denoiser.guided")
def guide_denoiser(denoiser: Denoiser, positive: Condition, negative: Condition, *, scale: Scale = 7.5) -> Denoiser:
    """A denoiser with classifier-free guidance inside, so that a gradient can be taken through it.

    scale: as for `guidance.cfg`.
    """
    wrapper = HookedGuidedDenoiser if isinstance(denoiser, HookedDenoiser) else GuidedDenoiser
    return wrapper(denoiser, positive, negative, scale)


@capability("denoisers that can be told a scale come from checkpoint.load: Flux.1")
@runtime_checkable
class DistilledDenoiser(Denoiser, Protocol):
    """A denoiser whose network may have been distilled from one with guidance."""

    def with_guidance(self, scale: Scale) -> DistilledDenoiser:
        """A copy that shares the weights and is told this scale; itself if the network takes no scale."""
        ...


@node("denoiser.distilled")
def set_distilled_guidance(denoiser: DistilledDenoiser, *, scale: Scale = 3.5) -> Denoiser:
    """A denoiser that passes the scale to its guidance-distilled network, as Flux.1 dev needs (Meng et al. 2023).

    The network draws in one call what it learned from classifier-free guidance; this scale multiplies no
    difference, and `guidance.cfg` may be used as well. A denoiser that takes no scale, as Flux.1 schnell, is returned
    unchanged. This is for nodes that take a denoiser, and a bundle keeps the scale of its export;
    `denoiser.predict_distilled` has it as an input.
    scale: one for all samples, or a tensor (B). Calls that a run joins, as for guidance.cfg, have more samples
    than such a tensor: give it to `denoiser.predict_distilled`.
    """
    return denoiser.with_guidance(scale)


@node("denoiser.predict_distilled", batchable=("x", "t", "condition"), check=list_shape_problems)
def predict_distilled(
    denoiser: DistilledDenoiser, x: Sample, t: Timesteps, condition: Condition | None = None, *, scale: Scale = 3.5
) -> Prediction:
    """As denoiser.predict, of a denoiser that is told a guidance scale, as Flux.1 dev (Meng et al. 2023).

    scale: one for all samples, or a tensor (B); see `denoiser.distilled`. Flux.1 schnell takes none and ignores it.
    """
    return predict(denoiser.with_guidance(scale), x, t, condition)


@node("denoiser.sites")
def list_sites(denoiser: HookedDenoiser) -> Table:
    """The sites of a denoiser, where rules can act inside its network, in order of computation.

    Columns: site, its name; kind, "input", "self", "cross" or "joint" attention, "skip", "feature" or "deep"; stage,
    "down", "middle" or "up", or "block"; and index.
    """
    sites = denoiser.sites()
    return Table(
        {
            "site": [site.name for site in sites],
            "kind": [site.kind for site in sites],
            "stage": [site.stage for site in sites],
            "index": [site.index for site in sites],
        }
    )


@node("denoiser.features")
def features(
    denoiser: HookedDenoiser, x: Sample, t: Timesteps, condition: Condition | None = None, *, site: str
) -> Tensor:
    """The output of one site of the denoiser at x (B, C, H, W) and t (1) or (B) under a condition.

    (B, C′, h, w) at "input", "feature", "skip" and "deep", and (B, heads, N, D) at attention: of N pixels at "self" and
    "cross", of the pixels and then the tokens at "joint".
    site: its name, as denoiser.sites lists it.
    Raises an error for a name that does not match exactly one site.
    """
    return capture_site(denoiser, x, t, condition, site).features


class PredictionWithFeatures(NamedTuple):
    prediction: Prediction
    features: Tensor


@node("denoiser.predict_with_features")
def predict_with_features(
    denoiser: HookedDenoiser, x: Sample, t: Timesteps, condition: Condition | None = None, *, site: str
) -> PredictionWithFeatures:
    """The prediction of `denoiser.predict` and the features of `denoiser.features`, of one call of the network.

    A training can add a loss of the features, such as `loss.feature_classes`, to the prediction's loss.
    site: its name, as denoiser.sites lists it.
    Raises an error for a name that does not match exactly one site.
    """
    return capture_site(denoiser, x, t, condition, site)


def capture_site(
    denoiser: HookedDenoiser, x: Sample, t: Timesteps, condition: Condition | None, name: str
) -> PredictionWithFeatures:
    """The prediction, and the output of the site of a name. Raises ``ValueError`` unless the name has one site."""
    matches = select_sites(denoiser, name)
    if len(matches) > 1:
        names = ", ".join(match.name for match in matches)
        raise ValueError(f"'{name}' names {len(matches)} sites, {names}: give the name of one of them")
    batch = x.shape[0]
    expanded = make_call_condition(denoiser, condition, batch)
    prediction, values = denoiser.captured(x, expand_to_batch(t, batch, "t"), expanded, matches)
    return PredictionWithFeatures(prediction, values[matches[0]])


class Remembered(NamedTuple):
    prediction: Prediction
    memory: RuleMemory


class DeepFeatures(NamedTuple):
    keep: HookedDenoiser
    reuse: HookedDenoiser


@node("denoiser.predict_with_memory", batchable=("x", "t", "memory", "condition"), check=list_shape_problems)
def predict_with_memory(
    denoiser: MemoryDenoiser, x: Sample, t: Timesteps, memory: RuleMemory, condition: Condition | None = None
) -> Remembered:
    """As denoiser.predict, for a denoiser whose rules have a memory: also takes it, and gives the next one.

    x (B, C, H, W), t (1) or (B), a condition with leading axis 1 or B. memory: a carry of the loop, one for each call
    in the body, which starts as denoiser.empty_memory.
    """
    batch = x.shape[0]
    expanded = make_call_condition(denoiser, condition, batch)
    return Remembered(*denoiser.predict_with_memory(x, expand_to_batch(t, batch, "t"), expanded, memory.expand(batch)))


@node("denoiser.empty_memory", batchable=("x", "condition"), check=list_shape_problems)
def make_empty_memory(denoiser: MemoryDenoiser, x: Sample, condition: Condition | None = None) -> RuleMemory:
    """The memory of a denoiser's rules before the first step: zeros for each sample of x (B, C, H, W).

    condition: as for denoiser.predict. The network is called once, with one sample, to find the sizes. Rules without a
    memory have none here.
    """
    condition = condition or Condition()
    check_reads(denoiser, condition.fields)
    return denoiser.empty_memory(x, condition)


@node("denoiser.deep_features")
def keep_deep_features(denoiser: HookedDenoiser, *, site: str) -> DeepFeatures:
    """Two denoisers that share the deep features of a U-Net between steps (DeepCache, Ma et al. 2024, section 3).

    `keep` predicts as the denoiser does, and keeps in its memory the features at a site. `reuse` takes them from
    the memory, and computes only the blocks above the site: those down to the skip that joins there, and those up from
    it. Both have the same weights and the same memory.
    site: one "deep" site, as denoiser.sites lists it. The last one leaves the least to compute.
    Raises an error for a site of another kind, for a name that does not match exactly one, and for one with a rule.
    """
    matches = select_sites(denoiser, site)
    if len(matches) != 1 or matches[0].kind != "deep":
        names = ", ".join(match.name for match in select_sites(denoiser, "deep"))
        raise ValueError(f"'{site}' is not one site of the kind 'deep': give one of {names}")
    return DeepFeatures(
        denoiser.with_rules({matches[0]: RuleWithMemory(keep_features)}),
        denoiser.with_rules({matches[0]: RuleWithMemory(reuse_features)}),
    )


def keep_features(compute: Callable[[], Tensor], memory: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the features (B, C, h, w), and keep them."""
    features = compute()
    return features, features


def reuse_features(compute: Callable[[], Tensor], memory: Tensor) -> tuple[Tensor, Tensor]:
    """The kept features (B, C, h, w); nothing that is deeper is computed."""
    return memory, memory
