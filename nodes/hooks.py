"""Hooks into a denoiser: the places inside of its network that have a name, and the rules that act there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from guidegraph.graph.errors import choices
from guidegraph.graph.types import Tensor, capability
from guidegraph.nodes.types import Condition, Denoiser, Prediction

SiteKind: TypeAlias = Literal["self", "cross", "skip", "feature"]
SiteStage: TypeAlias = Literal["down", "middle", "up"]


@dataclass(frozen=True)
class Site:
    """A place inside of a U-Net, by what is there.

    kind: "self", attention among the pixels; "cross", attention from the pixels to the tokens; "skip", where features
    of the way down are concatenated to those of the way up; "feature", what a block hands on. stage: on the way down,
    in the middle, or on the way up. index: counts the sites of a kind and a stage from 0, in the order of computing.
    """

    kind: SiteKind
    stage: SiteStage
    index: int

    @property
    def name(self) -> str:
        """As it is written in a workflow: "self.middle.0"."""
        return f"{self.kind}.{self.stage}.{self.index}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class AttentionCall:
    """One attention of a forward: what a rule at a "self" or "cross" site is given.

    query (B, heads, N, D) of the N = h · w pixels of a map, row by row; key and value (B, heads, L, D) of the same
    pixels or of L tokens. mask (B, L), true where a key may be attended to, or None for all. size: (h, w).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    size: tuple[int, int]

    def attend(self, *, query: Tensor | None = None, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """softmax(QKᵀ/√D) V (B, heads, N, D) as the network computes it, with what is given in the place of its own."""
        from guidegraph.nodes.models.attention import attention

        return attention(
            self.query if query is None else query,
            self.key if key is None else key,
            self.value if value is None else value,
            self.mask,
        )

    def weights(self, *, query: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """The attention map softmax(QKᵀ/√D) (B, heads, N, L), which `attend` does not keep in memory."""
        from guidegraph.nodes.models.attention import attention_weights

        return attention_weights(self.query if query is None else query, self.key if key is None else key, self.mask)


AttentionRule: TypeAlias = Callable[[AttentionCall], Tensor]
"""At "self" and "cross": what the attention gives, in the shape of the query."""

SkipRule: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""At "skip": features h (B, C, h, w) and skipped ones (B, C′, h, w) to those that are concatenated instead."""

FeatureRule: TypeAlias = Callable[[Tensor], Tensor]
"""At "feature": what a block hands on (B, C, h, w), to what is handed on instead."""

Rule: TypeAlias = AttentionRule | SkipRule | FeatureRule
"""What happens at a site. It computes with tensors and keeps none from call to call, so that it can be exported."""


@capability("denoisers with hooks come from model.load and checkpoint.load, and from nodes that add rules to one")
@runtime_checkable
class HookedDenoiser(Denoiser, Protocol):
    """A denoiser whose network has sites for rules."""

    def sites(self) -> tuple[Site, ...]:
        """All sites, in the order of computing."""
        ...

    def with_rules(self, rules: Mapping[Site, Rule]) -> HookedDenoiser:
        """A denoiser with these rules beside those that this one has; this one stays as it is. They share weights.

        Raises ``ValueError`` for a site that is not there, and for one that has a rule already.
        """
        ...

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The prediction, and what some sites gave on the way to it.

        What a rule gives, or would give: that of an attention (B, heads, N, D), skipped features or a block's features
        (B, C, h, w). Raises ``ValueError`` for a site that is not there.
        """
        ...


@runtime_checkable
class OpaqueDenoiser(Denoiser, Protocol):
    """A denoiser that says that it has no hooks: a link to a port that asks for them is refused before a run."""


def select_sites(denoiser: HookedDenoiser, patterns: str | Sequence[str]) -> tuple[Site, ...]:
    """The sites of a denoiser by the beginnings of their names: "self", "self.up" or "self.up.0", or several such.

    Each once, in the order of computing. Raises ``ValueError`` for a pattern that no site has.
    """
    wanted = [patterns] if isinstance(patterns, str) else [str(pattern) for pattern in patterns]
    if not wanted:
        raise ValueError("no site is named: give the beginning of a name, such as 'self.middle', or a list of them")
    sites = denoiser.sites()
    for pattern in wanted:
        if not any(begins(site, pattern) for site in sites):
            raise ValueError(f"this denoiser has no site '{pattern}'; {site_choices(pattern, sites)}")
    return tuple(site for site in sites if any(begins(site, pattern) for pattern in wanted))


def begins(site: Site, pattern: str) -> bool:
    """Whether a pattern is the whole name of a site, or the beginning of it up to a dot."""
    return f"{site.name}.".startswith(f"{pattern}.")


def site_choices(name: str, sites: Sequence[Site]) -> str:
    """The tail of an error message: the sites that there are, those of a kind and stage together."""
    groups: dict[str, int] = {}
    for site in sites:
        groups[f"{site.kind}.{site.stage}"] = site.index
    listed = [f"{group}.0" if last == 0 else f"{group}.0 … {last}" for group, last in groups.items()]
    return choices(name, listed, "sites")
