"""What runs the parts of an accelerated run: onnxruntime, or torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from guidegraph.graph.acceleration.part import Part, PartExample, WatchedSize
from guidegraph.graph.acceleration.part_values import FlatValue
from guidegraph.graph.acceleration.store import Refusal

if TYPE_CHECKING:
    from torch import Tensor


class PartRunner(Protocol):
    """Runs a part on flat tensors. watched: the sizes that it watches, which are its last outputs."""

    @property
    def watched(self) -> Sequence[WatchedSize]: ...

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]: ...


class Backend(Protocol):
    """Finds or makes the runners of parts.

    lifts_numbers: numbers of parameters become inputs. keeps_graphs: what it makes is kept for other processes.
    """

    name: str
    lifts_numbers: bool

    @property
    def keeps_graphs(self) -> bool: ...

    def find(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> PartRunner | None:
        """The runner of a part that an earlier call or run made; None if there is none. Raises ``KnownRefusal``."""
        ...

    def make(self, part: Part, example: PartExample) -> PartRunner:
        """Make a runner, specialised on the plain values of an example."""
        ...

    def identify(self, part: Part, flat: Sequence[FlatValue]) -> str:
        """The digest of a part and the values that it was specialised on."""
        ...

    def keep_refusal(self, part: Part, flat: Sequence[FlatValue], refusal: Refusal) -> None:
        """Note that no runner can be made for a part."""
        ...

    def was_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> bool:
        """Whether an earlier process on this machine compared the runner with torch at these sizes."""
        ...

    def note_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> None:
        """Note that the runner gives torch's results at these sizes."""
        ...
