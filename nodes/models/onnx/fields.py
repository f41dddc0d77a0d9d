"""The names of the fields that inputs and outputs of an ONNX denoiser stand for, and constants for other inputs."""

from __future__ import annotations

from typing import Literal, TypeAlias

InputField: TypeAlias = Literal["x", "t", "vector", "tokens", "mask", "spatial"]


OutputField: TypeAlias = Literal["value", "variance"]


ConstantInput: TypeAlias = float | list[float]
