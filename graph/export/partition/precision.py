"""Precisions of graphs other than float32: models cast in torch, or weights of products as 8-bit integers.

The inputs and outputs of a graph stay float32, and so do timesteps: models cast their arguments and results.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import suggest
from guidegraph.graph.memory.weights import find_models

if TYPE_CHECKING:
    import torch

PRECISIONS: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}
"""The precisions by name, with the dtype in which models compute."""

PROVIDERS: Mapping[str, tuple[str, ...]] = {"bf16": ("cuda", "tensorrt")}
"""The providers of precisions that do not run everywhere: onnxruntime has no bfloat16 kernels for CPUs."""

EVERY_STEP = ""
"""A part name that stands for all parts in loops. Other parts are float32 by default."""


def parse_precisions(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``fp16``, for all parts in loops, and ``decode=fp16``, for a named part. Raises ``ValueError``."""
    precisions: dict[str, str] = {}
    for text in texts:
        part, equals, precision = text.rpartition("=")
        if equals and not part:
            raise ValueError(f"'{text}' names no part; write {precision}, or PART={precision}")
        if precision not in PRECISIONS:
            raise ValueError(f"there is no precision '{precision}'; {suggest(precision, PRECISIONS, 'precisions')}")
        if precisions.setdefault(part, precision) != precision:
            raise ValueError(
                f"'{text}' asks for another precision than '{part + '=' if part else ''}{precisions[part]}'"
            )
    return precisions


def cast_models(values: Mapping[Any, Any], dtype: torch.dtype) -> dict[Any, Any]:
    """The values with their models replaced by copies in another dtype. Containers of models are copied too."""
    memo: dict[int, Any] = {}
    for value in values.values():
        for module in find_models(value):
            if id(module) not in memo:
                memo[id(module)] = copy.deepcopy(module).to(dtype)
    return {key: copy.deepcopy(value, memo) if find_models(value) else value for key, value in values.items()}
