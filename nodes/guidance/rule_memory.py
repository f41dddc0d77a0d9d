"""Rules with a memory: a tensor for each site that a loop carries from one call of the denoiser to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.types import Tensor, structured


@structured
@dataclass(frozen=True, eq=False)
class RuleMemory:
    """The memory of a denoiser's rules between two calls: a tensor (B, …) by the name of each site, such as
    "deep.up.4".

    A site's memory has the shape, dtype and device of the value that `HookedDenoiser.captured` gives there, and each
    row belongs to one sample. It starts as zeros.
    """

    values: dict[str, Tensor]

    def expand(self, batch: int) -> RuleMemory:
        """The memory with `batch` rows; a single row is repeated. Raises ``ValueError`` for another number of rows."""
        for name, value in self.values.items():
            if value.shape[0] not in (batch, 1):
                raise ValueError(
                    f"the memory of site '{name}' is of {value.shape[0]} samples and x has {batch}: carry a memory of "
                    "its own for each call, which starts from denoiser.empty_memory with the same x"
                )
        return RuleMemory({name: value.expand(batch, *value.shape[1:]) for name, value in self.values.items()})


@dataclass(frozen=True)
class RuleWithMemory:
    """A rule that is also called with its site's memory, and returns the next memory as well.

    function: takes what a rule of the site's kind takes, then the memory, and returns two values: what such a rule
    returns, and the next memory, in the shape, dtype and device of the one before. It keeps nothing itself, so that
    a call depends on its arguments alone.
    """

    function: Callable[..., tuple[Any, Tensor]]
