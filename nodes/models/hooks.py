"""Hooks of a network of torch: which sites it has, and one forward with rules at some of them.

A forward hands a `Hooks` on to its layers, as an argument: nothing is attached to the network, so that denoisers with
different rules share one network, on several threads too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeAlias, cast

from torch import Tensor, nn

from guidegraph.nodes.hooks import (
    AttentionCall,
    AttentionRule,
    FeatureRule,
    Rule,
    Site,
    SiteKind,
    SiteStage,
    SkipRule,
    site_choices,
)
from guidegraph.nodes.models.attention import attention
from guidegraph.nodes.models.low_rank import trainable_names
from guidegraph.nodes.shapes import has_values
from guidegraph.nodes.types import Condition, Prediction

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Query, key, value and mask, as `attention` takes them, to what is attended."""


class Hooks:
    """Rules by site, and the sites whose values are kept in `found` during one forward. Without either it does nothing.

    Copies of a model share it.
    """

    def __init__(self, rules: Mapping[Site, Rule] | None = None, wanted: Iterable[Site] = ()) -> None:
        self.rules: dict[Site, Rule] = dict(rules or {})
        self.wanted = frozenset(wanted)
        self.found: dict[Site, Tensor] = {}
        self.idle = not self.rules and not self.wanted

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def attend(self, site: Site | None, size: Sequence[int]) -> Attend:
        """The attention of a site whose queries are the pixels of a map of some size."""
        if self.idle or site is None or not (site in self.rules or site in self.wanted):
            return attention
        rule = cast(AttentionRule, self.rules.get(site, AttentionCall.attend))

        def attend_with_rule(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            with report_call_errors(site, rule, "one AttentionCall"):
                attended = rule(AttentionCall(query, key, value, mask, (size[0], size[1])))
            check_rule_output(site, rule, attended, query)
            return self._keep(site, attended)

        return attend_with_rule

    def skip(self, index: int, h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
        """Features h and skipped ones as they are concatenated on the way up."""
        if self.idle:
            return h, skipped
        site = Site("skip", "up", index)
        if site in self.rules:
            rule = cast(SkipRule, self.rules[site])
            with report_call_errors(site, rule, "h and the skipped features"):
                output = rule(h, skipped)
            if not isinstance(output, tuple) or len(output) != 2:
                raise ValueError(f"{rule_name(rule)}, the rule of site '{site}', must give two tensors: (h, skipped)")
            check_rule_output(site, rule, output[0], h)
            check_rule_output(site, rule, output[1], skipped)
            h, skipped = output
        return h, self._keep(site, skipped)

    def feature(self, stage: SiteStage, index: int, h: Tensor) -> Tensor:
        """What a block hands on."""
        if self.idle:
            return h
        site = Site("feature", stage, index)
        if site in self.rules:
            rule = cast(FeatureRule, self.rules[site])
            with report_call_errors(site, rule, "the features alone"):
                output = rule(h)
            check_rule_output(site, rule, output, h)
            h = output
        return self._keep(site, h)

    def _keep(self, site: Site, value: Tensor) -> Tensor:
        if site in self.wanted:
            self.found[site] = value
        return value


NO_HOOKS = Hooks()


def check_rule_output(site: Site, rule: Rule, output: object, like: Tensor) -> None:
    """Raise ``ValueError`` where a rule does not give a tensor like the one that it stands for."""
    if not isinstance(output, Tensor):
        got = type(output).__name__
    elif has_values(output) and (output.shape, output.dtype, output.device) != (like.shape, like.dtype, like.device):
        got = f"shape {tuple(output.shape)}, {output.dtype}, on {output.device}"
    else:
        return
    raise ValueError(
        f"{rule_name(rule)}, the rule of site '{site}', gives {got}; expected {tuple(like.shape)}, {like.dtype}, on "
        f"{like.device}"
    )


@contextmanager
def report_call_errors(site: Site, rule: Rule, arguments: str) -> Iterator[None]:
    """Say of which site a rule is that cannot be called as those of its kind are. Raises ``ValueError``."""
    try:
        yield
    except TypeError as error:
        raise ValueError(
            f"{rule_name(rule)}, the rule of site '{site}', was called with {arguments}, and failed: {error}"
        ) from error


def rule_name(rule: Rule) -> str:
    """What a rule is called in error messages: its module and the function or class that made it."""
    inner = getattr(rule, "func", rule)
    owner = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{owner.__module__}.{owner.__qualname__}".replace(".<locals>", "")


class AttentionLayer(nn.Module):
    """A layer that attends. As a part of a denoising U-Net it has a site."""

    site_kind: SiteKind = "self"
    site: Site | None = None


Block: TypeAlias = tuple[SiteStage, Sequence[nn.Module]]
"""Modules that compute one after the other and hand one map of features on."""


def number_sites(blocks: Iterable[Block]) -> tuple[Site, ...]:
    """The sites of a U-Net whose blocks are given in the order of computing; its attention layers learn theirs."""
    counts: dict[tuple[SiteKind, SiteStage], int] = {}
    sites: list[Site] = []

    def add(kind: SiteKind, stage: SiteStage) -> Site:
        index = counts.get((kind, stage), 0)
        counts[kind, stage] = index + 1
        sites.append(Site(kind, stage, index))
        return sites[-1]

    for stage, modules in blocks:
        if stage == "up":
            add("skip", stage)
        for layer in (inner for module in modules for inner in module.modules()):
            if isinstance(layer, AttentionLayer):
                layer.site = add(layer.site_kind, stage)
        add("feature", stage)
    return tuple(sites)


class HookedModel(nn.Module):
    """A `HookedDenoiser` around a network with sites: `forward(x, t, condition, hooks)` hands the hooks on to it."""

    honours_mask: ClassVar[bool] = True
    network: Any

    def __init__(self, network: nn.Module, rules: Mapping[Site, Rule] | None = None) -> None:
        super().__init__()
        self.network = network
        self.hooks = Hooks(rules)

    def trainable_names(self) -> list[str]:
        """The names of the parameters that training changes: those of a LoRA where there is one, and else all."""
        return trainable_names(self)

    def sites(self) -> tuple[Site, ...]:
        """All sites, in the order of computing."""
        sites: tuple[Site, ...] = self.network.sites
        return sites

    def with_rules(self, rules: Mapping[Site, Rule]) -> Self:
        """A denoiser of the same network with these rules beside those of this one, which stays as it is.

        Raises ``ValueError`` for a site that is not there, one that has a rule already, and a rule that is no function.
        """
        added = {self._site(site): rule for site, rule in rules.items()}
        for site, rule in added.items():
            if not callable(rule):
                raise ValueError(f"the rule of site '{site}' is {rule!r:.60}; expected a function")
            if site in self.hooks.rules:
                raise ValueError(
                    f"site '{site}' has a rule already, {rule_name(self.hooks.rules[site])}, and cannot take a second "
                    f"one, {rule_name(rule)}: choose other sites, or write one rule that does both"
                )
        hooked = type(self)(self.network, {**self.hooks.rules, **added})
        hooked.training = self.training  # not `train`: it would reach the network, which is shared
        return hooked

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The prediction, and what some sites gave on the way to it, in the order that they are asked for.

        Raises ``ValueError`` for a site that is not there, and for one that nothing came through: cross-attention of a
        condition without tokens.
        """
        sites = [self._site(site) for site in sites]
        hooks = Hooks(self.hooks.rules, sites)
        prediction = self(x, t, condition, hooks)
        if missing := [site.name for site in sites if site not in hooks.found]:
            raise ValueError(f"nothing came through {', '.join(missing)}: this condition has no tokens")
        return prediction, {site: hooks.found[site] for site in sites}

    def _site(self, site: object) -> Site:
        """A site of this network. Raises ``ValueError`` for anything else."""
        if not isinstance(site, Site):
            raise ValueError(f"expected a Site, found {site!r}: select_sites(denoiser, '{site}') gives those of a name")
        if site not in self.network.sites:
            raise ValueError(f"this denoiser has no site '{site}'; {site_choices(site.name, self.network.sites)}")
        return site
