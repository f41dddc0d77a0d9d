"""Dynamic thresholding: two methods with the same name.

`dynamic_thresholding.clip` is Imagen's (Saharia et al. 2022, arXiv 2205.11487, section 2.3): x̂0 is kept in its range.
`dynamic_thresholding.mimic` is the "CFG scale fix" of the extension sd-dynamic-thresholding (mcmonkey, 2023), which no
paper describes: x̂0 guided at a high scale gets the spread of x̂0 guided at a lower one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from guidegraph import Prediction, Scale, StepContext, Tensor, hookimpl, node

Share = Annotated[float, Ge(0), Le(1)]


@node("dynamic_thresholding.clip")
def clip(
    prediction: Prediction,
    context: StepContext,
    *,
    percentile: Share = 0.995,
    bound: Annotated[float, Gt(0)] = 1.0,
    per_channel: bool = False,
) -> Prediction:
    """x̂0 clipped to [−q, q] and divided by q / bound, q = max(bound, |x̂0| at the percentile) (Saharia et al. 2022).

    The percentile, a share of 1, is taken over each sample, or with per_channel over each channel. bound: 1 for
    pictures, as in the paper; latents are unbounded, so take a value that |latent| of clean pictures rarely exceeds.
    Where the value at the percentile is within the bound, q = bound and x̂0 is only clipped. The kind of prediction
    stays. `threshold` of the schedulers is the same, in the step and for pictures.
    """
    import torch

    x0 = context.x0(prediction)
    edge = _quantile(x0.abs(), percentile, per_channel).clamp(min=bound)
    value = torch.maximum(torch.minimum(x0, edge), -edge) * (bound / edge)
    return context.convert(replace(prediction, value=value, kind="x0"), prediction.kind)


@node("dynamic_thresholding.mimic")
def mimic(
    cond: Prediction,
    uncond: Prediction,
    context: StepContext,
    *,
    scale: Scale = 12.0,
    mimic_scale: Scale = 4.0,
    percentile: Share = 1.0,
    per_channel: bool = True,
) -> Prediction:
    """Guidance at a high scale with the spread of guidance at the mimic scale (sd-dynamic-thresholding).

    x̂0 is guided at both scales, and the mean of each channel is subtracted. m: the largest |value| at the mimic scale;
    q: the percentile of |value| at scale; both of each sample, in each channel (per_channel) or over all. The rest at
    scale is clipped to max(m, q), multiplied by m / max(m, q), and gets its means back.
    scale, mimic_scale: numbers or tensors (B); where they are equal and percentile is 1, it is guidance.cfg.
    It is the extension's modes MEAN and AD at constant scales; its statistics over all channels are over the batch too.
    """
    import torch

    high, low = (context.x0(uncond + s * (cond - uncond)) for s in (scale, mimic_scale))
    mean = high.mean((2, 3), keepdim=True)
    spread = _quantile((low - low.mean((2, 3), keepdim=True)).abs(), 1.0, per_channel)
    edge = torch.maximum(_quantile((high - mean).abs(), percentile, per_channel), spread).clamp(min=1e-12)
    value = torch.maximum(torch.minimum(high - mean, edge), -edge) * (spread / edge) + mean
    return context.convert(replace(cond, value=value, kind="x0"), cond.kind)


def _quantile(values: Tensor, share: float | Tensor, per_channel: bool) -> Tensor:
    """The quantile of each sample (B, 1, 1, 1), or of each channel (B, C, 1, 1), linear between its neighbours."""
    import torch

    ordered = values.flatten(2 if per_channel else 1).sort(-1).values
    last = ordered.shape[-1] - 1
    if not isinstance(share, torch.Tensor):
        share = torch.full((1,), share, dtype=torch.float64, device=values.device)  # a copy to a GPU would wait
    position = share.to(values.device, torch.float64).reshape(1) * last
    low = position.floor().long()
    below, above = (ordered.index_select(-1, i) for i in (low, (low + 1).clamp(max=last)))
    quantile = below + (position - low).to(values) * (above - below)
    return quantile.reshape(values.shape[0], -1, 1, 1)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    """The nodes of this package."""
    return [clip, mimic]
