"""Tiny ONNX denoisers like those of other software, with other names, dtypes and axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import torch
from torch import Tensor

HEAD = '<ir_version: 8, opset_import: ["": 17]>'

UNET = """
denoiser ({sample} sample, {timestep} timestep, float[N, M, 8] encoder_hidden_states, {labels} class_labels)
  => (float[N, C, H, W] out_sample)
<int64[4] each = {{-1, 1, 1, 1}}>
{{
  level = Cast<to = 1>(timestep)
  time = Reshape(level, each)
  mean = ReduceMean<axes = [1, 2], keepdims = 0>(encoder_hidden_states)
  text = Reshape(mean, each)
  number = Cast<to = 1>(class_labels)
  label = Reshape(number, each)
  shape = Tanh(sample)
  a = Add(shape, time)
  b = Add(a, text)
  out_sample = Add(b, label)
}}
"""
"""tanh(x) + t + the mean of the tokens + the label."""

CLASSES = """
denoiser (float[N, 3, H, W] sample, int64[N] timestep, int64[N] class_labels) => (float[N, 3, H, W] out_sample)
<int64[4] each = {-1, 1, 1, 1}, float share = {0.001}>
{
  number = Cast<to = 1>(class_labels)
  label = Reshape(number, each)
  small = Mul(label, share)
  shape = Tanh(sample)
  out_sample = Add(shape, small)
}
"""

RAW = """
network (float[N, 3, H, W] scaled, float[N] noise_level) => (float[N, 3, H, W] out)
<int64[4] each = {-1, 1, 1, 1}>
{
  time = Reshape(noise_level, each)
  shape = Tanh(scaled)
  out = Add(shape, time)
}
"""
"""F(x; c) = tanh(x) + c."""

JOINED = """
network (float[N, 5, H, W] sample, float[N] timestep, float[N, 6] time_ids, float scale)
  => (float[N, 6, H, W] out, float[N, 5, H, W] other)
<int64[4] each = {-1, 1, 1, 1}, int64[5] order = {0, 1, 2, 3, 4}, int64[6] twice = {0, 1, 2, 4, 3, 3}>
{
  ids = ReduceSum<keepdims = 0>(time_ids)
  shift = Add(ids, scale)
  other = Add(sample, shift)
  out = Gather<axis = 1>(other, twice)
}
"""
"""Its output's first half are the channels of x, its second half those of what is concatenated to it: all shifted."""

WEIGHTED = """
network (float[N, 3, H, W] x, float[N] t) => (float[N, 3, H, W] out)
<float[3, 1, 1] w = {1, 2, 3}>
{
  out = Mul(x, w)
}
"""

FUSED = """
<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
network (float[N, 3, H, W] x, float[N] t) => (float[N, 3, H, W] out)
{
  out = com.microsoft.QuickGelu(x)
}
"""


def unet(sample: str = "float[N, C, H, W]", timestep: str = "int64[N]", labels: str = "int64[N]") -> str:
    return UNET.format(sample=sample, timestep=timestep, labels=labels)


def write(path: Path, text: str, weights: str | None = None) -> Path:
    """An ONNX file of a graph in onnx's text format. weights: the file beside it that holds its initializers."""
    model = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEAD + text)
    path.parent.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        for tensor in model.graph.initializer:  # only raw bytes can lie outside
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, path, save_as_external_data=weights is not None, location=weights, size_threshold=0)
    return path


def unet_output(x: Tensor, t: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """The output of UNET."""
    each = (-1, 1, 1, 1)
    return x.tanh() + t.reshape(each) + tokens.mean((1, 2)).reshape(each) + labels.reshape(each)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
