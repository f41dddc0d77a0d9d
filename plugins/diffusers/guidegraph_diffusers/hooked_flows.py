"""Flow-matching transformers of diffusers as denoisers with hooks, for families that plugins bring.

Each block is replaced by one that asks for rules at its sites and otherwise computes what diffusers computes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph import Condition, Prediction, Rule, RuleWithMemory, Schedule, Site, current_device

KINDS = ("input", "skip", "feature")
"""The sites of each block, in order of computation: "input.block.0", "skip.block.0" and so on."""

TRAIN_STEPS = 1000
Call = Callable[[Any, Tensor, Tensor, Condition], Tensor]


def make_schedule(shift: float = 1.0) -> Schedule:
    """The flow x_t = (1 − σ) x0 + σ ε with t = 1000 σ on the run's device; shift: of the levels that are sampled."""
    sigma = torch.linspace(0, 1, TRAIN_STEPS + 1, dtype=torch.float64, device=current_device())
    alphas_bar = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return Schedule(alphas_bar, form="flow", shift=shift)


@dataclass
class Hooking:
    """The rules and the captured sites of one call. size: (h, w) of the map of patches."""

    size: tuple[int, int]
    rules: Mapping[Site, Rule]
    sites: Sequence[Site] = ()
    captured: dict[Site, Tensor] = field(default_factory=dict)

    def touches(self, index: int) -> bool:
        """Whether a block has rules, or sites to capture."""
        return any(site.index == index for site in (*self.rules, *self.sites))

    def apply(self, kind: Any, index: int, *features: Tensor) -> Any:
        """The result of the rule at a site for its features (B, D, h, w), which stay without a rule."""
        site = Site(kind, "block", index)
        rule: Any = self.rules.get(site)
        result = rule(*features) if rule is not None else features if len(features) > 1 else features[0]
        if site in self.sites and site not in self.captured:
            self.captured[site] = result[-1] if isinstance(result, tuple) else result
        return result


_hooking: ContextVar[Hooking | None] = ContextVar("guidegraph_hooked_flow", default=None)


class HookedBlock(nn.Module):
    """A transformer's block with sites: its first argument is (B, h · w, D), and so is the last of its results."""

    def __init__(self, block: nn.Module, index: int) -> None:
        super().__init__()
        self.block, self.index = block, index

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The result of the block, changed by the rules of the call."""
        hooking, index = _hooking.get(), self.index
        if hooking is None or not hooking.touches(index):
            return self.block(hidden_states, *args, **kwargs)
        before = to_map(hidden_states, hooking.size)
        inner = hooking.apply("input", index, before)
        results = self.block(to_rows(inner), *args, **kwargs)
        companions = list(results[:-1]) if isinstance(results, tuple) else []
        change = to_map(results[-1] if companions else results, hooking.size) - inner
        features = hooking.apply("feature", index, sum(hooking.apply("skip", index, change, before)))
        if companions and Site("skip", "block", index) in hooking.rules:  # the tokens of a block with two streams
            tokens = to_map(kwargs["encoder_hidden_states"], None)
            companions = [to_rows(sum(hooking.apply("skip", index, to_map(companions[0], None) - tokens, tokens)))]
        return (*companions, to_rows(features)) if companions else to_rows(features)


def to_map(rows: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Rows (B, h · w, D) to a map (B, D, h, w), or (B, L, D) to (B, D, L, 1) without a size."""
    features: Tensor = rows.unflatten(1, size or (rows.shape[1], 1)).permute(0, 3, 1, 2)
    return features


def to_rows(features: Tensor) -> Tensor:
    """A map (B, D, h, w) to rows (B, h · w, D)."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


class HookedFlow(nn.Module):
    """A `HookedDenoiser` of a transformer of diffusers that predicts u = ε − x0.

    blocks: the name of its list of blocks. call: (network, x (B, C, H, W), t (B) = 1000 σ, condition) to u, in the
    network's dtype. patch: pixels of x along each side of a patch.
    """

    kind = "flow"
    honours_mask = True

    def __init__(self, network: Any, blocks: str, call: Call, patch: int) -> None:
        super().__init__()
        self.network, self.call, self.patch = network, call, patch
        self.rules: dict[Site, Rule] = {}
        layers = network.get_submodule(blocks)
        self.depth = len(layers)
        for index, block in enumerate(layers):
            layers[index] = HookedBlock(block, index)

    def sites(self) -> tuple[Site, ...]:
        """The three sites of each block."""
        return tuple(Site(kind, "block", index) for index in range(self.depth) for kind in KINDS)  # type: ignore[arg-type]

    def with_rules(self, rules: Mapping[Site, Rule]) -> HookedFlow:
        """A copy with these rules added, which shares the weights. Raises ``ValueError`` as `HookedDenoiser` says."""
        for site, rule in rules.items():
            if site not in self.sites():
                raise ValueError(f"this denoiser has no site {site}; it has {', '.join(map(str, self.sites()[:6]))}, …")
            if site in self.rules:
                raise ValueError(f"the site {site} has a rule already")
            if isinstance(rule, RuleWithMemory):
                raise ValueError("this denoiser has no rules with a memory")
        other = copy.copy(self)
        other.rules = {**self.rules, **rules}
        return other

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The prediction, and the outputs of some sites. Raises ``ValueError`` for an unknown site."""
        if unknown := [site for site in sites if site not in self.sites()]:
            raise ValueError(f"this denoiser has no site {unknown[0]}")
        return self._run(x, t, condition, sites)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, C, H, W), t (B) on the schedule's axis. Raises ``ValueError`` for sides that no patches fill."""
        return self._run(x, t, condition, ())[0]

    def _run(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        height, width = x.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"x has sides {height} × {width}: they must be multiples of {self.patch}")
        hooking = Hooking((height // self.patch, width // self.patch), self.rules, sites)
        token = _hooking.set(hooking)
        try:
            u = self.call(self.network, x.to(self.network.dtype), t.float(), condition)
        finally:
            _hooking.reset(token)
        return Prediction(u.to(x.dtype), "flow"), hooking.captured
