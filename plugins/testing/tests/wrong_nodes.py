"""Nodes that each violate one rule of the contract, and one that violates none."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge

from guidegraph import Denoiser, Image, Prediction, Sample, Scale, Score, StepContext, hookimpl, node, per_sample
from guidegraph.graph.types import Tensor


@node(
    "wrong.good",
    needs=lambda scale: {"cond"} if scale == 1 else {"cond", "uncond"},
    identity=lambda scale: "cond" if scale == 1 else None,
)
def good(cond: Prediction, uncond: Prediction, *, scale: Scale = 3.0) -> Prediction:
    """Guidance as it should be; scale: 1 is cond."""
    return uncond + scale * (cond - uncond)


@node("wrong.undocumented")
def undocumented(x: Sample) -> Sample:
    return x * 2


@node("wrong.unsaid")
def unsaid(x: Sample, *, strength: float = 1.0) -> Sample:
    """A sample that is a little stronger."""
    return x * strength


@node("wrong.type")
def wrong_type(x: Sample) -> Image:
    """A sample, annotated as a picture."""
    return x * 2


SCRATCH = Path(tempfile.gettempdir()) / "guidegraph-wrong-nodes.txt"


@node("wrong.reads")
def reads(x: Sample) -> Sample:
    """A sample times the length of an undeclared file."""
    return x * len(Path(__file__).with_name("wrong.txt").read_text())


@node("wrong.limits")
def limits(x: Sample) -> Sample:
    """A sample within 100, or within the largest value of the batch if that is more."""
    limit = torch.maximum(x.abs().max(), x.new_tensor(100.0))
    return torch.minimum(x, limit)


@node("wrong.writes", pure=False)
def writes(x: Sample) -> Sample:
    """A sample, whose shape is written to an undeclared file."""
    SCRATCH.write_text(str(x.shape))
    return x


@node("wrong.saves", pure=False)
def saves(x: Sample, *, path: Path = SCRATCH) -> Sample:
    """A sample, whose shape is written to a file. path: the file."""
    path.write_text(str(x.shape))
    return x


class Two(NamedTuple):
    first: Sample
    second: Sample


@node("wrong.default")
def wrong_default(x: Sample, *, strength: float = "1") -> Sample:  # type: ignore[assignment]
    """A sample that is a little stronger. strength: a number, but the default is a text."""
    return x * float(strength)


@node("wrong.low_default", pure=False)
def low_default(*, rows: Annotated[int, Ge(5)] = 1) -> None:
    """Nothing. rows: at least 5, but the default is less."""


@node("wrong.names")
def wrong_names(x: Sample) -> Two:
    """Two samples, but returns one."""
    return x  # type: ignore[return-value]


@node("wrong.batch_lost")
def batch_lost(x: Sample) -> Sample:
    """The mean sample of a batch."""
    return x.mean(0, keepdim=True)


@node("wrong.score_shape")
def score_shape(x: Sample) -> Score:
    """A score of one channel."""
    return -x[:, :1]


@node("wrong.fixed_width")
def fixed_width(x: Sample) -> Sample:
    """A sample plus a wave that is 12 wide."""
    return x + torch.linspace(0, 1, 12, dtype=x.dtype)


@node("wrong.dtype")
def wrong_dtype(x: Sample) -> Sample:
    """A sample in double."""
    return x.double() * 2


@node("wrong.rounds")
def rounds(x: Sample) -> Sample:
    """A sample that is rounded to float32 in between."""
    return x.float() * 2


@node("wrong.mixes")
def mixes(prediction: Prediction) -> Prediction:
    """A prediction divided by its deviation over the batch."""
    return replace(prediction, value=prediction.value / prediction.value.std())


@node("wrong.one_level")
def one_level(prediction: Prediction, context: StepContext) -> Prediction:
    """A prediction times the α of the first sample."""
    return replace(prediction, value=prediction.value * context.alpha[0])


@node("wrong.refuses_levels")
def refuses_levels(prediction: Prediction, context: StepContext) -> Prediction:
    """A prediction times the α of all samples; it refuses samples that have levels of their own."""
    context.require_one_row()
    return replace(prediction, value=prediction.value * context.alpha.mean())


@node("wrong.scales")
def scales(cond: Prediction, *, scale: Scale = 2.0) -> Prediction:
    """A prediction times a scale that broadcasts along the wrong axis; scale: a number, or a tensor (B)."""
    factor = scale.reshape(1, 1, 1, -1).mean(-1, keepdim=True) if isinstance(scale, torch.Tensor) else scale
    return replace(cond, value=cond.value * factor)


@node("wrong.draws")
def draws(x: Sample) -> Sample:
    """A sample with noise that has no seed."""
    return x + 0.1 * torch.randn_like(x)


COUNT = [0]


@node("wrong.counts")
def counts(x: Sample) -> Sample:
    """A sample that is larger each time."""
    COUNT[0] += 1
    return x * COUNT[0]


@node("wrong.in_place")
def in_place(x: Sample) -> Sample:
    """A sample that is doubled in place."""
    return x.mul_(2)


@node("wrong.hooks")
def hooks(denoiser: Denoiser, x: Sample) -> Sample:
    """A sample, and a hook that stays on the denoiser."""
    network: Any = denoiser
    network.register_forward_hook(lambda *_: None)
    return x * 1


TABLE = torch.tensor([1.0, 2.0, 3.0, 4.0])


@node("wrong.device")
def device(x: Sample) -> Sample:
    """A sample times a table that is on the CPU."""
    return x * TABLE.to(x.dtype).reshape(1, -1, 1, 1)


@node("wrong.made_on_cpu")
def made_on_cpu(x: Sample) -> Sample:
    """Zeros in the shape of a sample, on the CPU."""
    return torch.zeros(x.shape, dtype=x.dtype)


@node("wrong.detaches")
def detaches(cond: Prediction, uncond: Prediction, *, scale: float = 3.0) -> Prediction:
    """Guidance with a difference without a gradient; scale: of the difference."""
    return uncond + scale * replace(cond, value=(cond.value - uncond.value).detach())


@node("wrong.infinite")
def infinite(x: Sample) -> Sample:
    """A root whose gradient at 0 is infinite."""
    return x + (x - x).square().sqrt()


@node("wrong.identity", identity=lambda phi: "guided" if phi == 0 else None)
def identity(guided: Prediction, *, phi: float = 0.5) -> Prediction:
    """A prediction times 1 + phi, plus a constant."""
    return guided * (1.1 + phi)


@node("wrong.identity_of_one", identity=lambda scale: "cond" if scale in (0, 1) else None)
def identity_of_one(cond: Prediction, uncond: Prediction, *, scale: float = 2.0) -> Prediction:
    """Is cond at scale 0, and declares it at 1 too.

    scale: of the difference.
    """
    return cond + scale * (cond - uncond)


@node("wrong.identity_port", identity=lambda phi: "x" if phi == 0 else None)
def identity_port(guided: Prediction, *, phi: float = 0.5) -> Prediction:
    """A prediction times 1 + phi."""
    return guided * (1 + phi)


@node("wrong.needs", needs=lambda scale: {"cond"} if scale == 1 else {"cond", "uncond"})
def needs(cond: Prediction, uncond: Prediction, *, scale: float = 3.0) -> Prediction:
    """Guidance that reads uncond at every scale."""
    return cond + scale * (cond - uncond)


@node("wrong.optional_read", needs=lambda scale: {"cond"} if scale == 1 else {"cond", "uncond"})
def optional_read(
    cond: Prediction, uncond: Prediction, extra: Prediction | None = None, *, scale: float = 3.0
) -> Prediction:
    """Guidance that reads its optional port at every scale; scale: of the difference."""
    guided = uncond + scale * (cond - uncond)
    return guided if extra is None else guided + 0.5 * extra


@node("wrong.other_setting", needs=lambda scale: {"cond"} if scale == 1 else {"cond", "uncond"})
def other_setting(
    cond: Prediction, uncond: Prediction, *, scale: float = 3.0, mode: Literal["plain", "blend"] = "plain"
) -> Prediction:
    """Guidance that in one mode reads uncond at every scale; scale: of the difference. mode: how it is mixed."""
    guided = uncond + scale * (cond - uncond)
    return guided if mode == "plain" else 0.5 * (guided + uncond)


@node("wrong.never", needs=lambda scale: {"cond", "uncond"})
def never(cond: Prediction, uncond: Prediction, *, scale: float = 3.0) -> Prediction:
    """Guidance with a needs= that omits no port; scale: of the difference."""
    return uncond + scale * (cond - uncond)


@node("wrong.onnx")
def onnx(x: Sample) -> Sample:
    """A sample divided by its largest value, where that is above 1."""
    greatest = x.abs().amax().item()
    return x / greatest if greatest > 1 else x * 1


@node("wrong.bakes")
def bakes(x: Sample, *, scale: float = 2.0) -> Sample:
    """A sample times a number that tracing makes a constant; scale: the number."""
    return x * (scale if isinstance(scale, float) else 2.5)


@node("wrong.fails")
def fails(x: Sample) -> Sample:
    """Always fails."""
    raise ValueError("this node takes no sample at all")


@node("wrong.adds_to_list")
def adds_to_list(samples: Sequence[Sample]) -> Sample:
    """The sum of samples, the first one twice: it requires a list."""
    values: Any = samples
    more = [values[0]]
    return sum(values + more)  # type: ignore[return-value]


@node("wrong.for_lists")
def for_lists(samples: Sequence[Sample]) -> Sample:
    """The sum of samples, where they come as a list or a tuple, and the first one otherwise."""
    return sum(samples) if isinstance(samples, (list, tuple)) else samples[0]  # type: ignore[return-value]


@node("wrong.two_entries")
def two_entries(samples: Sequence[Sample]) -> Sample:
    """The difference of the first two samples."""
    return samples[0] - samples[1]


@node("wrong.inside")
def wrong_inside(x: Sample) -> Prediction:
    """A prediction whose value has lost an axis."""
    return Prediction(x.mean(1), "eps")


class Named(NamedTuple):
    sample: Sample
    name: str


@node("wrong.entries")
def wrong_entries(x: Sample) -> Sequence[Named]:
    """Named samples, one of which has a number for a name."""
    return [Named(x, "first"), Named(x, 2)]  # type: ignore[arg-type]


class OnDemand(Sequence[Any]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return torch.zeros(3, 4, 4)


@node("wrong.on_demand")
def on_demand(x: Sample) -> Sequence[Image]:
    """Pictures that are made on demand, without their batch axis."""
    return OnDemand()


@node("wrong.one_choice")
def one_choice(x: Sample, *, mode: Literal["all", "mean"] = "all") -> Sample:
    """A sample, or its mean that has lost an axis. mode: which of the two."""
    return x * 2 if mode == "all" else x.mean(1)


@node("wrong.squeezes")
def squeezes(x: Sample) -> Sample:
    """A sample that loses the axis of a batch of 1."""
    return (x * 2).squeeze(0)


@node("wrong.none")
def gives_none(x: Sample, like: Sample | None = None) -> Sample:
    """A sample, or None if another one is wired."""
    return x * 2 if like is None else None  # type: ignore[return-value]


class Unknown:
    """A port type without an example in the kit."""


@node("wrong.unknown")
def unknown(value: Unknown) -> Tensor:
    """A tensor of something."""
    return torch.zeros(1)


@node("wrong.host", host=True)
def on_host(text: str) -> str:
    """A text in capitals."""
    return text.upper()


@node("wrong.per_sample")
def one_scale_each(cond: Prediction, *, scale: Scale = 2.0) -> Prediction:
    """A prediction times one scale for each sample; scale: a number, or a tensor (B)."""
    return replace(cond, value=cond.value * per_sample(scale, cond.value))


@hookimpl
def guidegraph_nodes() -> list[Any]:
    return [good, undocumented, on_host]
