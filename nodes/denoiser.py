"""Calls of a denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, cast

from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.hooks import HookedDenoiser, Rule, Site, select_sites
from guidegraph.nodes.shapes import for_batch
from guidegraph.nodes.types import Condition, Denoiser, Prediction, Sample, Scale, Table, Timesteps


def _unfit_shapes(denoiser: Denoiser, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """What is wrong with the shape of x, where the denoiser says what it takes."""
    check = getattr(denoiser, "check_shape", None)
    if check is None or len(shapes.get("x", ())) != 4:
        return {}
    try:
        check(shapes["x"])
    except ValueError as error:
        return {"x": str(error)}
    return {}


@node("denoiser.predict", batchable=("x", "t", "condition"), check=_unfit_shapes)
def predict(denoiser: Denoiser, x: Sample, t: Timesteps, condition: Condition | None = None) -> Prediction:
    """What the denoiser says of x (B, C, H, W) at t (1) or (B) under a condition with leading axis 1 or B."""
    batch = x.shape[0]
    return denoiser(x, for_batch(t, batch, "t"), expand(condition or Condition(), batch))


def expand(condition: Condition, batch: int) -> Condition:
    """The condition with a leading axis of `batch` in every field."""

    def repeated(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        if value.shape[0] not in (batch, 1):
            raise ValueError(
                f"the condition is for {value.shape[0]} samples and x has {batch}: give one condition for all, or "
                f"start from noise with batch {value.shape[0]}"
            )
        return value.expand(batch, *value.shape[1:])

    return Condition(**{field.name: repeated(getattr(condition, field.name)) for field in fields(condition)})


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance as a denoiser of its own: the condition of a call takes the place of `positive`.

    An empty condition in the call means `positive`.
    """

    denoiser: Denoiser
    positive: Condition
    negative: Condition
    scale: Scale

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        cond = predict(self.denoiser, x, t, self._positive(condition))
        return self._guide(cond, x, t)

    def _positive(self, condition: Condition | None) -> Condition:
        empty = condition is None or all(getattr(condition, field.name) is None for field in fields(condition))
        return self.positive if condition is None or empty else condition

    def _guide(self, cond: Prediction, x: Tensor, t: Tensor) -> Prediction:
        uncond = predict(self.denoiser, x, t, self.negative)
        return uncond + self.scale * (cond - uncond)


@dataclass(frozen=True)
class HookedGuidedDenoiser(GuidedDenoiser):
    """A guided denoiser whose inner one has hooks: rules act in both of its calls."""

    @property
    def inner(self) -> HookedDenoiser:
        return cast(HookedDenoiser, self.denoiser)

    def sites(self) -> tuple[Site, ...]:
        """Those of the inner denoiser."""
        return self.inner.sites()

    def with_rules(self, rules: Mapping[Site, Rule]) -> Self:
        """The same guidance of the inner denoiser with these rules."""
        return replace(self, denoiser=self.inner.with_rules(rules))

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The guided prediction, and what the sites gave in the call under the condition."""
        batch = x.shape[0]
        given = expand(self._positive(condition), batch)
        cond, found = self.inner.captured(x, for_batch(t, batch, "t"), given, sites)
        return self._guide(cond, x, t), found


@node("denoiser.guided")
def guided(denoiser: Denoiser, positive: Condition, negative: Condition, *, scale: Scale = 7.5) -> Denoiser:
    """A denoiser that applies classifier-free guidance inside, so that a gradient can be taken through it.

    scale: that of `guidance.cfg`.
    """
    made = HookedGuidedDenoiser if isinstance(denoiser, HookedDenoiser) else GuidedDenoiser
    return made(denoiser, positive, negative, scale)


@node("denoiser.sites")
def list_sites(denoiser: HookedDenoiser) -> Table:
    """The sites of a denoiser, in the order of computing: places inside of its network where rules can act.

    Columns site, its name; kind, "self" or "cross" attention, "skip" or "feature"; stage, "down", "middle" or "up";
    and index.
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
    """What one site of the denoiser gives for x (B, C, H, W) at t (1) or (B) under a condition.

    (B, C′, h, w) at "feature" and "skip", and (B, heads, N, D) of N pixels at "self" and "cross".
    site: its name, as denoiser.sites lists it.
    Raises an error for a name that is not that of one site.
    """
    found = select_sites(denoiser, site)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ValueError(f"'{site}' names {len(found)} sites, {names}: give the name of one of them")
    batch = x.shape[0]
    given = expand(condition or Condition(), batch)
    _, values = denoiser.captured(x, for_batch(t, batch, "t"), given, found)
    return values[found[0]]
