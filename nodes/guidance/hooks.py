"""Hooks into a denoiser: named sites inside its network, and the rules that act there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeAlias, cast, runtime_checkable

from guidegraph.graph.errors import suggest
from guidegraph.graph.types import Tensor, capability
from guidegraph.nodes.guidance.step_context import RuleMemory, RuleWithMemory
from guidegraph.nodes.types import Condition, Denoiser, Prediction

SiteKind: TypeAlias = Literal["input", "self", "cross", "joint", "skip", "feature", "deep"]
SiteStage: TypeAlias = Literal["down", "middle", "up", "block"]


@dataclass(frozen=True)
class Site:
    """A site inside a U-Net or a transformer where a rule can act.

    kind: "input", the features that enter a block with attention; "self", attention among the pixels; "cross",
    attention from the pixels to the tokens; "joint", attention among the pixels and the tokens; "skip", where features
    of the down path are concatenated to features of the up path, or where the change by a transformer's block is added
    to its input; "feature", the output of a block; "deep", the features that enter a block of the up path, with
    everything deeper that computes them. stage: the down path, the middle, or the up path; "block" in a transformer.
    index: counts the sites of a kind and stage from 0, in order of computation.
    """

    kind: SiteKind
    stage: SiteStage
    index: int

    @property
    def name(self) -> str:
        """The name used in workflows, such as "self.middle.0"."""
        return f"{self.kind}.{self.stage}.{self.index}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class AttentionCall:
    """One attention of a forward pass, the argument of a rule at a "self", "cross" or "joint" site.

    query (B, heads, N, D) of the N = h · w pixels of a map, row by row; key and value (B, heads, L, D) of the same
    pixels or of L tokens. At "joint", query, key and value hold the h · w pixels and then the tokens. In a
    transformer, a pixel is a patch. mask (B, L), true where a key may be attended to, or None for all. size: (h, w).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    size: tuple[int, int]

    def attend(self, *, query: Tensor | None = None, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """softmax(QKᵀ/√D) V (B, heads, N, D) as the network computes it. Arguments replace its query, key or value."""
        from guidegraph.nodes.models.networks.attention import attention

        return attention(
            self.query if query is None else query,
            self.key if key is None else key,
            self.value if value is None else value,
            self.mask,
        )

    def weights(self, *, query: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """The attention map softmax(QKᵀ/√D) (B, heads, N, L), which `attend` never holds in memory."""
        from guidegraph.nodes.models.networks.attention import attention_weights

        return attention_weights(self.query if query is None else query, self.key if key is None else key, self.mask)


AttentionRule: TypeAlias = Callable[[AttentionCall], Tensor]
"""At "self", "cross" and "joint": returns the attention's output, in the shape of the query."""

SkipRule: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""At "skip": maps features (B, C, h, w) and skipped features (B, C′, h, w) to those to join instead.

A U-Net concatenates them. In a transformer they are the change by a block and its input, and are added; a block with
two streams calls the rule for its tokens too, (B, C, L, 1), so such a rule cannot have a memory.
"""

FeatureRule: TypeAlias = Callable[[Tensor], Tensor]
"""At "input" and "feature": maps what enters or leaves a block, (B, C, h, w), to the features to use instead.

The block computes its change from what the rule at "input" returns. The features to which the change is added are the
network's own. In Stable Diffusion's U-Nets that addition comes after the last block of a spatial transformer.
"""

DeepRule: TypeAlias = Callable[[Callable[[], Tensor]], Tensor]
"""At "deep": takes a function that computes the features (B, C, h, w), and returns the features to use.

If the rule does not call the function, the network does not compute what is deeper than the site.
"""

Rule: TypeAlias = AttentionRule | SkipRule | FeatureRule | DeepRule | RuleWithMemory
"""The computation at a site. It computes with tensors only and keeps nothing, so that it can be exported; values that
last from call to call are the memory of a `RuleWithMemory`."""


@capability("denoisers with hooks come from model.load and checkpoint.load, and from nodes that add rules to one")
@runtime_checkable
class HookedDenoiser(Denoiser, Protocol):
    """A denoiser whose network has sites for rules."""

    def sites(self) -> tuple[Site, ...]:
        """All sites, in order of computation."""
        ...

    def with_rules(self, rules: Mapping[Site, Rule]) -> HookedDenoiser:
        """A copy with these rules added, which shares the weights. This denoiser does not change.

        Raises ``ValueError`` for an unknown site, and for a site that already has a rule.
        """
        ...

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The prediction, and the outputs of some sites in the same call.

        A site's output is the value that its rule returns or would return: an attention's (B, heads, N, D), skipped
        features or a block's features (B, C, h, w). Raises ``ValueError`` for an unknown site.
        """
        ...


@capability(
    "denoisers whose rules may have a memory come from model.load and checkpoint.load, and from nodes around one"
)
@runtime_checkable
class MemoryDenoiser(HookedDenoiser, Protocol):
    """A denoiser with hooks whose rules may have a memory, `RuleWithMemory`."""

    def empty_memory(self, x: Tensor, condition: Condition) -> RuleMemory:
        """The memory before the first call: zeros for each site with such a rule. x (B, C, H, W) gives the sizes."""
        ...

    def predict_with_memory(
        self, x: Tensor, t: Tensor, condition: Condition, memory: RuleMemory
    ) -> tuple[Prediction, RuleMemory]:
        """The prediction, and the memory for the next call.

        The memory of a site that was not reached, or that lacks such a rule, stays. Raises ``ValueError`` if the memory
        of a rule is missing.
        """
        ...


class HookedWrapper:
    """A frozen dataclass around a hooked `denoiser`, whose sites it has."""

    denoiser: Denoiser

    @property
    def inner(self) -> HookedDenoiser:
        return cast(HookedDenoiser, self.denoiser)

    @property
    def mixes_tokens(self) -> bool:
        """Whether the inner denoiser mixes the tokens of a text outside of its sites."""
        return bool(getattr(self.denoiser, "mixes_tokens", False))

    @property
    def guides_itself(self) -> bool:
        """Whether a call also predicts for a condition that is not the call's."""
        return bool(getattr(self.denoiser, "guides_itself", False))

    def sites(self) -> tuple[Site, ...]:
        """The sites of the inner denoiser."""
        return self.inner.sites()

    def with_rules(self, rules: Mapping[Site, Rule]) -> Self:
        """The same wrapper of the inner denoiser with these rules."""
        return cast(Self, replace(cast(Any, self), denoiser=self.inner.with_rules(rules)))


@runtime_checkable
class OpaqueDenoiser(Denoiser, Protocol):
    """A denoiser that declares itself without hooks; a link to a port that needs hooks is refused before a run."""


def select_sites(denoiser: HookedDenoiser, patterns: str | Sequence[str]) -> tuple[Site, ...]:
    """The sites of a denoiser whose names begin with one of the patterns: "self", "self.up" or "self.up.0".

    Each site occurs once, in order of computation. Raises ``ValueError`` for a pattern that matches no site.
    """
    prefixes = [patterns] if isinstance(patterns, str) else [str(pattern) for pattern in patterns]
    if not prefixes:
        raise ValueError("no site is named: give the beginning of a name, such as 'self.middle', or a list of them")
    sites = denoiser.sites()
    for pattern in prefixes:
        if not any(matches_site(site, pattern) for site in sites):
            raise ValueError(f"this denoiser has no site '{pattern}'; {list_site_choices(pattern, sites)}")
    return tuple(site for site in sites if any(matches_site(site, pattern) for pattern in prefixes))


def matches_site(site: Site, pattern: str) -> bool:
    """Whether a pattern is the full name of a site, or its beginning up to a dot."""
    return f"{site.name}.".startswith(f"{pattern}.")


def list_site_choices(name: str, sites: Sequence[Site]) -> str:
    """The end of an error message that lists the sites, grouped by kind and stage."""
    groups: dict[str, int] = {}
    for site in sites:
        groups[f"{site.kind}.{site.stage}"] = site.index
    listed = [f"{group}.0" if last == 0 else f"{group}.0 … {last}" for group, last in groups.items()]
    return suggest(name, listed, "sites")
