"""EDM preconditioning (Karras et al. 2022): an EDM network as a denoiser of this engine's x and t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import Gt

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Tensor
from guidegraph.nodes.guidance.hooks import HookedDenoiser, HookedWrapper, MemoryDenoiser, Site
from guidegraph.nodes.guidance.step_context import RuleMemory
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Denoiser, Prediction, PredictionKind, Schedule

EdmNetwork: TypeAlias = Literal["raw", "preconditioned"]
SigmaData: TypeAlias = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class PreconditionedDenoiser:
    """D(x; σ) of an EDM network, called with x/α and its σ, which is σ/α here.

    schedule: the σ/α of each t. network: "raw", F, with the coefficients of table 1; "preconditioned", D itself.
    sigma_data: σ_data, the standard deviation of the data.
    """

    denoiser: Denoiser
    schedule: Schedule
    network: EdmNetwork
    sigma_data: float

    @property
    def honours_mask(self) -> bool:
        return getattr(self.denoiser, "honours_mask", False) is True

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """x (B, C, H, W) = α x0 + σ ε; t (B) on the schedule's axis; every field of the condition has a leading B."""
        return self._output(x, t, self.denoiser(*self._input(x, t), condition))

    def _input(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's inputs: its x in the dtype of x, and its time (B), float32."""
        alpha, sigma = self.schedule.along(x, t)
        level = self._level(t)
        if self.network == "preconditioned":
            return (x / alpha).to(x.dtype), level.float()
        return (x / self._norm(alpha, sigma)).to(x.dtype), (level.log() / 4).float()  # c_in x/α and c_noise

    def _output(self, x: Tensor, t: Tensor, output: Prediction) -> Prediction:
        if self.network == "preconditioned":
            return output
        check_raw_kind(output.kind)
        alpha, sigma = self.schedule.along(x, t)
        norm = self._norm(alpha, sigma)
        skip, out = alpha * self.sigma_data**2 / norm**2, sigma * self.sigma_data / norm  # c_skip/α and c_out
        value = skip * x + (-out if output.kind == "v" else out) * output.value
        return replace(output, value=value.to(x.dtype), kind="x0")

    def _norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """√(σ² + (α σ_data)²): α times the root in all coefficients of table 1, finite at α = 0 too."""
        return (sigma**2 + (alpha * self.sigma_data) ** 2).sqrt()

    def _level(self, t: Tensor) -> Tensor:
        """σ/α (B), float64."""
        alpha, sigma = self.schedule.alpha_sigma(t.to(torch.float64))
        return sigma / alpha


@dataclass(frozen=True)
class HookedPreconditionedDenoiser(HookedWrapper, PreconditionedDenoiser):
    """A preconditioned denoiser whose network has hooks; its sites and their memory are the network's."""

    def captured(
        self, x: Tensor, t: Tensor, condition: Condition, sites: Sequence[Site]
    ) -> tuple[Prediction, dict[Site, Tensor]]:
        """The prediction of x0, and the outputs of the sites in the same call."""
        prediction, values = self.inner.captured(*self._input(x, t), condition, sites)
        return self._output(x, t, prediction), values

    def empty_memory(self, x: Tensor, condition: Condition) -> RuleMemory:
        """The empty memory of the network, whose input has the size of x."""
        return self._with_memory.empty_memory(x, condition)

    def predict_with_memory(
        self, x: Tensor, t: Tensor, condition: Condition, memory: RuleMemory
    ) -> tuple[Prediction, RuleMemory]:
        """The prediction of x0, and the network's next memory."""
        prediction, next_memory = self._with_memory.predict_with_memory(*self._input(x, t), condition, memory)
        return self._output(x, t, prediction), next_memory

    @property
    def _with_memory(self) -> MemoryDenoiser:
        if not isinstance(self.inner, MemoryDenoiser):
            raise ValueError(
                "the network's rules cannot have a memory: wire a denoiser from model.load or checkpoint.load"
            )
        return self.inner


def check_raw_kind(kind: PredictionKind) -> None:
    """Raise ``ValueError`` for the kinds x0 and flow, which a raw network cannot predict."""
    if kind in ("x0", "flow"):
        raise ValueError(
            f"this denoiser predicts {kind}, which a raw network cannot: set `network: preconditioned` if the network "
            "is D(x; σ) itself; one that takes x and t as they are needs no preconditioning"
        )


def check_largest_sigma(schedule: Schedule) -> None:
    """Raise ``ValueError`` for a schedule whose model starts at α = 0, where σ/α is infinite."""
    if not has_values(schedule.alphas_bar):
        return
    last = schedule.known[1]
    alpha, _ = schedule.alpha_sigma(torch.tensor([last], dtype=torch.float64))
    if float(alpha) == 0:
        raise ValueError(
            f"an EDM network takes σ/α, and σ/α is infinite at t = {last:g}, where this schedule starts: use "
            "schedule.edm, or schedule.trained with a smaller `last`"
        )


@node("denoiser.edm")
def precondition(
    denoiser: Denoiser, schedule: Schedule, *, network: EdmNetwork = "raw", sigma_data: SigmaData = 0.5
) -> Denoiser:
    """Make an EDM network a denoiser of x = α x0 + σ ε and t (Karras et al. 2022, table 1).

    With x̃ = x/α and σ̃ = σ/α, "raw" is a network F(c_in x̃; c_noise), and x̂0 = c_skip x̃ + c_out F, where
    c_skip = σ_data²/(σ̃² + σ_data²), c_out = σ̃ σ_data/√(σ̃² + σ_data²), c_in = 1/√(σ̃² + σ_data²), c_noise = ln(σ̃)/4.
    Its output is F if the denoiser's kind is eps, and −F if it is v, as in the EDM schedulers of diffusers.
    "preconditioned" is a network that does this itself: it takes x̃ and σ̃ and keeps its kind of prediction.
    schedule: the σ̃ of each t, such as `schedule.edm`. sigma_data: the standard deviation of the training data.
    Raises an error for a raw network of kind x0 or flow: at once if the denoiser has an attribute `kind`, else at its
    first call. Also for a schedule that starts at α = 0, as schedule.flow does.
    """
    check_largest_sigma(schedule)
    if network == "raw":
        check_raw_kind(getattr(denoiser, "kind", "eps"))
    wrapper = HookedPreconditionedDenoiser if isinstance(denoiser, HookedDenoiser) else PreconditionedDenoiser
    return wrapper(denoiser, schedule, network, sigma_data)
