"""The fields of a denoiser that an ONNX graph can take and give. Needs no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

INPUTS = ("x", "t")
CONDITION = ("vector", "tokens", "mask", "spatial")
OUTPUTS = ("value", "variance")

InputField: TypeAlias = Literal["x", "t", "vector", "tokens", "mask", "spatial"]
OutputField: TypeAlias = Literal["value", "variance"]
ConstantInput: TypeAlias = float | list[float]
