"""Data sets as sequences of batches: batch i depends on (seed, i) alone and is made on access."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from guidegraph.graph.late import torch
from guidegraph.nodes.types import Image, SemanticMap

B = TypeVar("B")


class Batches(Sequence[B], Generic[B]):
    """`length` batches, each made from its index alone, so that a thread can prefetch the next."""

    prefetch = True

    def __init__(self, length: int) -> None:
        self.length = length

    @abstractmethod
    def make(self, index: int) -> B:
        """Batch `index`, from 0 to `length` − 1."""

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.make(i) for i in range(*index.indices(self.length))]
        i = operator.index(index)
        if not -self.length <= i < self.length:
            raise IndexError(f"batch {i} of {self.length}")
        return self.make(i % self.length)


class FunctionBatches(Batches[B]):
    """Batches that a function makes from their index."""

    def __init__(self, length: int, function: Callable[[int], B]) -> None:
        super().__init__(length)
        self.function = function

    def make(self, index: int) -> B:
        return self.function(index)


def to_image(pixels: NDArray[np.uint8]) -> Image:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float()
    return image / 127.5 - 1


def one_hot(indices: NDArray[Any], classes: int) -> SemanticMap:
    """Class indices (B, H, W) to a one-hot map (B, K, H, W), float32."""
    index = torch.from_numpy(indices.astype(np.int64))[:, None]
    return torch.zeros(index.shape[0], classes, *index.shape[2:]).scatter_(1, index, 1)
