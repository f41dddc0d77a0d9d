"""Nodes that call a denoiser whose rules have a memory, and rules that keep the deep features of a U-Net."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.guidance.hooks import HookedDenoiser, MemoryDenoiser, select_sites
from guidegraph.nodes.guidance.rule_memory import RuleMemory, RuleWithMemory
from guidegraph.nodes.sampling.denoiser import expand_condition, list_shape_problems
from guidegraph.nodes.shape_checks import expand_to_batch
from guidegraph.nodes.types import Condition, Prediction, Sample, Timesteps


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
    expanded = expand_condition(condition or Condition(), batch)
    return Remembered(*denoiser.predict_with_memory(x, expand_to_batch(t, batch, "t"), expanded, memory.expand(batch)))


@node("denoiser.empty_memory", batchable=("x", "condition"), check=list_shape_problems)
def make_empty_memory(denoiser: MemoryDenoiser, x: Sample, condition: Condition | None = None) -> RuleMemory:
    """The memory of a denoiser's rules before the first step: zeros for each sample of x (B, C, H, W).

    condition: as for denoiser.predict. The network is called once, with one sample, to find the sizes. Rules without a
    memory have none here.
    """
    return denoiser.empty_memory(x, condition or Condition())


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
