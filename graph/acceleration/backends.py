"""What runs the parts of an accelerated run: onnxruntime, or torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from guidegraph.graph.acceleration.part import Part, WatchedSize
from guidegraph.graph.acceleration.part_values import FlatValue
from guidegraph.graph.acceleration.store import Refusal
from guidegraph.graph.run_config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor


class Runner(Protocol):
    """Runs a part on flat tensors. watched: the sizes that it watches, which are its last outputs."""

    @property
    def watched(self) -> Sequence[WatchedSize]: ...

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]: ...


class Backend(Protocol):
    """Finds or makes the runners of parts. lifts_numbers: numbers of parameters become inputs."""

    name: str
    lifts_numbers: bool

    def find(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> Runner | None:
        """The runner of a part that an earlier call or run made; None if there is none. Raises ``KnownRefusal``."""
        ...

    def make(
        self,
        part: Part,
        values: Sequence[Any],
        flat: Sequence[FlatValue],
        tensors: Sequence[Tensor],
        results: Sequence[Any],
    ) -> Runner:
        """Make a runner. values, flat, tensors: what the part has read. results: of the part for these."""
        ...

    def keep_refusal(self, part: Part, flat: Sequence[FlatValue], refusal: Refusal) -> None:
        """Note that a part has no runner."""
        ...


def make_backend(config: RunConfig) -> Backend:
    """The backend of a run's setting ``accelerate``."""
    if config.accelerate == "compile":
        from guidegraph.graph.acceleration.compile_backend import CompileBackend

        return CompileBackend(config)
    from guidegraph.graph.acceleration.onnx_backend import OnnxBackend

    return OnnxBackend(config)
