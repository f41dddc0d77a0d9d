"""Fills a module with the tensors of a file, cast one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.memory.huge_pages import allocate_weight
from guidegraph.nodes.models.networks.bounded_build import BoundedBuild, TooManyLayers

MAX_LISTED = 4


Module = TypeVar("Module", bound=nn.Module)


def build_filled(make: Callable[[], Module], tensors: Mapping[str, Tensor], source: str) -> Module:
    """Make a module on the meta device, then `fill` it. Raises ``ValueError`` for far more layers than tensors."""
    try:
        with torch.device("meta"), BoundedBuild(len(tensors)):
            module = make()
    except TooManyLayers as error:
        raise ValueError(f"'{source}' does not fit: {error}") from None
    fill(module, tensors, source)
    return module


def build_text_model(
    config_class: Any,
    model_class: Any,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    name: str,
    source: str,
) -> Any:
    """Make a text model of transformers on the meta device, to be filled with these tensors.

    config_class, model_class: of transformers; settings: fields of its config; name: what it is called. Raises
    ``ValueError`` that names `source` for settings that it refuses, and for far more layers than tensors.
    """
    try:
        config = config_class.from_dict(dict(settings))
        with torch.device("meta"), BoundedBuild(len(tensors)):
            return model_class(config)
    except Exception as error:  # its validators raise many kinds
        raise ValueError(f"'{source}' describes no {name} that transformers can build: {error}") from None


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give a module (built on the meta device) the tensors of a file, and freeze it: no gradients, evaluation mode.

    Tensors go to the run's device, floating ones in its dtype, one at a time, so that at most one exists twice. A
    tensor under two names is cast once; one that needs no cast and no move stays memory-mapped. `source` names the file
    in errors. Raises one ``ValueError`` that names all keys that are missing, left over or of another shape, before the
    module changes.
    """
    device, dtype = current_device(), current_dtype()
    expected = module.state_dict()
    check_fit(expected, tensors, source)
    converted: dict[int, Tensor] = {}
    for name in expected:
        tensor = tensors[name]
        if id(tensor) not in converted:
            converted[id(tensor)] = _convert(tensor.detach(), device, dtype)
    module.load_state_dict({name: converted[id(tensors[name])] for name in expected}, strict=True, assign=True)
    module.eval().requires_grad_(False)


def _convert(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values of a tensor on a device, floating ones in a dtype; the tensor itself if nothing changes."""
    dtype = dtype if tensor.is_floating_point() else tensor.dtype
    if device.type == "cpu" and dtype != tensor.dtype and not tensor.is_meta:
        return allocate_weight(tensor.shape, dtype).copy_(tensor)
    return tensor.to(device=device, dtype=dtype).contiguous()


def check_axes(tensor: Tensor, source: str, name: str, axes: int) -> Tensor:
    """Return the tensor. Raises ``ValueError`` if it has another number of axes or is empty."""
    if tensor.ndim != axes or not tensor.numel():
        raise ValueError(
            f"'{source}' does not fit: {name} has the shape {tuple(tensor.shape)}, and {axes} axes were expected. It "
            "is of a family that is not known: nothing was loaded"
        )
    return tensor


def check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Compare names, shapes and dtypes of a file's tensors with those that a module expects, without reading values.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over, of another shape or type.
    """
    missing = [name for name in expected if name not in tensors]
    left_over = [name for name in tensors if name not in expected]
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    retyped = [
        f"{name} {tensors[name].dtype}"
        for name, value in expected.items()
        if name in tensors and tensors[name].is_floating_point() != value.is_floating_point()
    ]
    problems = [
        f"{len(names)} {problem}: {_first(names)}"
        for problem, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", reshaped),
            ("of another type", retyped),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"the weights of '{source}' do not fit: {'; '.join(problems)}. It is of another architecture, or "
            "incomplete: nothing was loaded"
        )


def _first(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + more
