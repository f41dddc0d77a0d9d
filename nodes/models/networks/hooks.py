"""Hooks of a torch network: its sites, and a forward pass with rules at some of them.

A forward pass hands a `Hooks` to its layers as an argument. Nothing is attached to the network, so denoisers with
different rules can share it, also across threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from typing import Any, ClassVar, Self, TypeAlias, cast

import torch
from torch import Tensor, nn

from guidegraph.nodes.guidance.hooks import (
    AttentionCall,
    Rule,
    Site,
    SiteKind,
    SiteStage,
    list_site_choices,
)
from guidegraph.nodes.guidance.step_context import RuleMemory, RuleWithMemory
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.low_rank import trainable_names
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Prediction

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Attention: query, key, value and mask, as in `attention`, to the attended values."""


class Hooks:
    """Rules by site, the memory of those that have one, and the sites whose values one forward pass records.

    `recorded` has the values of these sites, and `remembered` the next memory of rules, both by the names of the sites.
    Without rules and sites to record it does nothing. Copies of a model share it.
    """

    def __init__(
        self,
        rules: Mapping[Site, Rule] | None = None,
        record: Iterable[Site] = (),
        memory: RuleMemory | None = None,
    ) -> None:
        self.rules: dict[Site, Rule] = dict(rules or {})
        self.record = frozenset(record)
        self.memory = memory
        self.recorded: dict[str, Tensor] = {}
        self.remembered: dict[str, Tensor] = {}
        self.idle = not self.rules and not self.record

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def attend(self, site: Site | None, size: Sequence[int]) -> Attend:
        """The attention function of a site whose queries are the pixels of a map of this size (h, w)."""
        if self.idle or site is None or not (site in self.rules or site in self.record):
            return attention

        def attend_with_rule(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            call = AttentionCall(query, key, value, mask, (size[0], size[1]))
            attended = self._call(site, "one AttentionCall", call) if site in self.rules else call.attend()
            check_rule_output(site, self.rules.get(site), attended, query)
            return self._keep(site, cast(Tensor, attended))

        return attend_with_rule

    def input(self, site: Site | None, h: Tensor) -> Tensor:
        """Apply the rule of a block's input: the features (B, C, h, w) from which it computes."""
        if self.idle or site is None:
            return h
        return self._replace(site, h)

    def input_tokens(self, site: Site | None, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """Apply the rule of a block's input to tokens (B, N, C) of a map of size (h, w)."""
        if self.idle or site is None or not (site in self.rules or site in self.record):
            return tokens
        return self._replace(site, tokens_to_map(tokens, size)).flatten(2).transpose(1, 2)

    def skip(self, index: int, h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the rule of a skip: features h and skipped features, which are concatenated on the way up."""
        if self.idle:
            return h, skipped
        site = Site("skip", "up", index)
        h, skipped = self._apply_skip(site, h, skipped)
        return h, self._keep(site, skipped)

    def block(self, index: int, before: Tensor, change: Tensor, size: Sequence[int]) -> Tensor:
        """The output of a transformer's block: its input and its change, tokens (B, N, C) of a map of size (h, w).

        Applies the rule of the block's skip to both as maps (B, C, h, w), and its feature's rule to their sum.
        """
        if self.idle:
            return before + change
        site = Site("skip", "block", index)
        h, skipped = self._apply_skip(site, tokens_to_map(change, size), tokens_to_map(before, size))
        output = self.feature("block", index, h + self._keep(site, skipped))
        return output.flatten(2).transpose(1, 2)

    def text_block(self, index: int, before: Tensor, change: Tensor) -> Tensor:
        """The output of a transformer's block for the tokens of a text (B, L, C), which has the same skip.

        Raises ``ValueError`` if its rule has a memory: there is one, and it belongs to the picture's call.
        """
        if self.idle:
            return before + change
        size = (before.shape[1], 1)
        site = Site("skip", "block", index)
        if isinstance(rule := self.rules.get(site), RuleWithMemory):
            raise ValueError(
                f"{rule_name(rule)}, the rule of site '{site}', has a memory, and this site is reached twice in a "
                f"call, by the picture and by the tokens: use feature.block.{index} or joint.block.{index}"
            )
        h, skipped = self._apply_skip(site, tokens_to_map(change, size), tokens_to_map(before, size))
        return (h + skipped).flatten(2).transpose(1, 2)

    def _apply_skip(self, site: Site, h: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
        if site not in self.rules:
            return h, skipped
        output, rule = self._call(site, "h and the skipped features", h, skipped), self.rules[site]
        if not isinstance(output, tuple) or len(output) != 2:
            raise ValueError(f"{rule_name(rule)}, the rule of site '{site}', must give two tensors: (h, skipped)")
        check_rule_output(site, rule, output[0], h)
        check_rule_output(site, rule, output[1], skipped)
        return output

    def feature(self, stage: SiteStage, index: int, h: Tensor) -> Tensor:
        """Apply the rule of a block's output h."""
        if self.idle:
            return h
        return self._replace(Site("feature", stage, index), h)

    def _replace(self, site: Site, h: Tensor) -> Tensor:
        """Features (B, C, h, w) after the rule of their site, if it has one."""
        if site in self.rules:
            output = self._call(site, "the features alone", h)
            check_rule_output(site, self.rules[site], output, h)
            h = cast(Tensor, output)
        return self._keep(site, h)

    def deep(self, index: int, compute: Callable[[], Tensor], skipped: Tensor) -> Tensor:
        """Apply the rule of the features that enter a block of the up path, which `compute` computes.

        They have the rows and the size of the skipped features that join them.
        """
        if self.idle:
            return compute()
        site = Site("deep", "up", index)
        if site not in self.rules:
            return self._keep(site, compute())
        h = self._call(site, "a function that computes the features", compute)
        check_deep_output(site, self.rules[site], h, skipped)
        return self._keep(site, cast(Tensor, h))

    def _call(self, site: Site, arguments: str, *values: object) -> object:
        """Call the rule of a site and return its output; the next memory, if it has one, goes to `remembered`."""
        rule = self.rules[site]
        if not isinstance(rule, RuleWithMemory):
            with report_call_errors(site, rule, arguments):
                return cast(Callable[..., object], rule)(*values)
        if self.memory is None:
            raise ValueError(
                f"{rule_name(rule)}, the rule of site '{site}', has a memory, and this call has none: use "
                "denoiser.predict_with_memory, with a memory that the loop carries"
            )
        if site.name not in self.memory.values:
            raise ValueError(
                f"there is no memory for {rule_name(rule)}, the rule of site '{site}': start the carry from "
                "denoiser.empty_memory of this denoiser"
            )
        memory = self.memory.values[site.name]
        with report_call_errors(site, rule, f"{arguments}, and the memory"):
            pair: object = rule.function(*values, memory)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ValueError(
                f"{rule_name(rule)}, the rule of site '{site}', must give its output and the next memory: two values"
            )
        output, following = pair
        check_rule_output(site, rule, following, memory, "the next memory, ")
        self.remembered[site.name] = following
        return output

    def _keep(self, site: Site, value: Tensor) -> Tensor:
        if site in self.record:
            self.recorded[site.name] = value  # torch.compile cannot store a Site that it has made
        return value


NO_HOOKS = Hooks()


def tokens_to_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Tokens (B, N, C), row by row of a map of size (h, w), as features (B, C, h, w)."""
    features: Tensor = tokens.transpose(1, 2).unflatten(2, (size[0], size[1]))
    return features


def check_rule_output(site: Site, rule: Rule | None, output: object, like: Tensor, part: str = "") -> None:
    """Raise ``ValueError`` if a rule does not return a tensor like the one that it replaces. part: names the output."""
    if rule is None:
        return
    if not isinstance(output, Tensor):
        got = type(output).__name__
    elif has_values(output) and (output.shape, output.dtype, output.device) != (like.shape, like.dtype, like.device):
        got = f"shape {tuple(output.shape)}, {output.dtype}, on {output.device}"
    else:
        return
    raise ValueError(
        f"{rule_name(rule)}, the rule of site '{site}', gives {part}{got}; expected {tuple(like.shape)}, {like.dtype}, "
        f"on {like.device}"
    )


def check_deep_output(site: Site, rule: Rule, output: object, skipped: Tensor) -> None:
    """Raise ``ValueError`` if the rule of a deep site does not return features that join the skipped ones."""
    if isinstance(output, Tensor) and output.ndim == skipped.ndim:
        skipped = skipped[:, :1].expand(-1, output.shape[1], -1, -1)  # the channels are the network's
    check_rule_output(site, rule, output, skipped)


@contextmanager
def report_call_errors(site: Site, rule: Rule, arguments: str) -> Iterator[None]:
    """Turn a ``TypeError`` from calling a rule into a ``ValueError`` that names the rule and its site."""
    try:
        yield
    except TypeError as error:
        raise ValueError(
            f"{rule_name(rule)}, the rule of site '{site}', was called with {arguments}, and failed: {error}"
        ) from error


def rule_name(rule: Rule) -> str:
    """A rule's name in error messages: its module and the function or class that made it."""
    function = rule.function if isinstance(rule, RuleWithMemory) else rule
    inner = getattr(function, "func", function)
    owner = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{owner.__module__}.{owner.__qualname__}".replace(".<locals>", "")


def take_first_row(condition: Condition) -> Condition:
    """The condition of the first sample: every field with a leading axis of 1."""
    return Condition.of({name: value[:1] for name, value in condition.fields.items()})


class AttentionLayer(nn.Module):
    """An attention layer, as `lora.new` finds it. In a denoising U-Net it has a site."""

    site_kind: SiteKind = "self"
    site: Site | None = None


class AttentionInput:
    """A block with attention whose input has a site, in a denoising U-Net."""

    input_site: Site | None = None


SiteBlock: TypeAlias = tuple[SiteStage, Sequence[nn.Module]]
"""Modules that run in sequence and pass on one feature map."""


def number_sites(blocks: Iterable[SiteBlock]) -> tuple[Site, ...]:
    """Number the sites of a U-Net whose blocks come in order of execution, and set its attention layers' sites."""
    places: list[tuple[SiteKind, SiteStage, AttentionInput | AttentionLayer | None]] = []
    for stage, modules in blocks:
        if stage == "up":
            places += [("deep", stage, None), ("skip", stage, None)]
        for layer in chain.from_iterable(map(nn.Module.modules, modules)):
            if isinstance(layer, AttentionInput):
                places.append(("input", stage, layer))
            if isinstance(layer, AttentionLayer):
                places.append((layer.site_kind, stage, layer))
        places.append(("feature", stage, None))
    counts: dict[tuple[SiteKind, SiteStage], count[int]] = {}
    sites = [Site(kind, stage, next(counts.setdefault((kind, stage), count()))) for kind, stage, _ in places]
    for site, (kind, _, place) in zip(sites, places, strict=True):
        if kind == "input" and isinstance(place, AttentionInput):
            place.input_site = site
        elif isinstance(place, AttentionLayer):
            place.site = site
    return tuple(sites)


class HookedModel(nn.Module):
    """A `HookedDenoiser` around a network with sites: `forward(x, t, condition, hooks)` passes the hooks to it."""

    honours_mask: ClassVar[bool] = True
    network: Any

    def __init__(self, network: nn.Module, rules: Mapping[Site, Rule] | None = None) -> None:
        super().__init__()
        self.network = network
        self.hooks = Hooks(rules)

    def trainable_names(self) -> list[str]:
        """Names of the trainable parameters: a LoRA's if there is one, otherwise all."""
        return trainable_names(self)

    def sites(self) -> tuple[Site, ...]:
        """All sites, in order of execution."""
        sites: tuple[Site, ...] = self.network.sites
        return sites

    def with_rules(self, rules: Mapping[Site, Rule]) -> Self:
        """A denoiser with the same network, and these rules added to its own; this denoiser does not change.

        Raises ``ValueError`` for an unknown site, a site that has a rule already, and a rule that is not callable.
        """
        added = {self._site(site): rule for site, rule in rules.items()}
        for site, rule in added.items():
            if not callable(rule.function if isinstance(rule, RuleWithMemory) else rule):
                raise ValueError(f"the rule of site '{site}' is {rule!r:.60}; expected a function")
            if site in self.hooks.rules:
                raise ValueError(
                    f"site '{site}' has a rule already, {rule_name(self.hooks.rules[site])}, and cannot take a second "
                    f"one, {rule_name(rule)}: choose other sites, or write one rule that does both"
                )
        return self._copy_with({**self.hooks.rules, **added})

    def _copy_with(self, rules: Mapping[Site, Rule]) -> Self:
        """A denoiser with the same network and exactly these rules."""
        hooked = type(self)(self.network, rules)
        hooked.training = self.training  # not `train`: it would reach the network, which is shared
        return hooked

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The prediction, and the values at some sites, in the order of `sites`.

        Raises ``ValueError`` for an unknown site, and for one that was not reached: cross-attention with a condition
        without tokens.
        """
        sites = [self._site(site) for site in sites]
        hooks = Hooks(self.hooks.rules, sites)
        prediction = self(x, t, condition, hooks)
        if missing := [site.name for site in sites if site.name not in hooks.recorded]:
            raise ValueError(f"nothing came through {', '.join(missing)}: this condition has no tokens")
        return prediction, {site: hooks.recorded[site.name] for site in sites}

    def empty_memory(self, x: Tensor, condition: Condition) -> RuleMemory:
        """Zeros (B, …) for each site with a rule that has a memory. The network is called once to find their sizes.

        Raises ``ValueError`` as `captured` does.
        """
        sites = [site for site, rule in self.hooks.rules.items() if isinstance(rule, RuleWithMemory)]
        _, values = self._copy_with({}).captured(
            x[:1], torch.zeros(1, device=x.device), take_first_row(condition), sites
        )
        batch = x.shape[0]
        return RuleMemory({site.name: value.new_zeros(batch, *value.shape[1:]) for site, value in values.items()})

    def predict_with_memory(
        self, x: Tensor, t: Tensor, condition: Condition, memory: RuleMemory
    ) -> tuple[Prediction, RuleMemory]:
        """The prediction, and the memory for the next call; the memory of a site that was not reached stays.

        Raises ``ValueError`` if the memory of a rule is missing, or a rule returns one of another shape.
        """
        hooks = Hooks(self.hooks.rules, memory=memory)
        prediction = self(x, t, condition, hooks)
        return prediction, RuleMemory({**memory.values, **hooks.remembered})

    def _site(self, site: object) -> Site:
        """A site of this network. Raises ``ValueError`` for anything else."""
        if not isinstance(site, Site):
            raise ValueError(f"expected a Site, found {site!r}: select_sites(denoiser, '{site}') gives those of a name")
        if site not in self.network.sites:
            raise ValueError(f"this denoiser has no site '{site}'; {list_site_choices(site.name, self.network.sites)}")
        return site
