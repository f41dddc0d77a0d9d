"""A torch device ``gpu:0`` that is not the CPU: ordinary memory behind tensors that refuse to be mixed with the CPU's.

Torch's Python backend gives it a name, a generator and a device guard, so that autograd accepts it. Each tensor on it
holds one of the CPU, which every operator runs on. As on CUDA, tensors of two devices in one operator are an error, but
for numbers without axes, copies, and indices; ``numpy()`` is refused, and random numbers come from its own generator.
Autocast does nothing there. It is set up for the whole process: use it in one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "gpu"
PLACE = f"{NAME}:0"

aten = torch.ops.aten
ACROSS = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor}
"""What CUDA takes from either side: copies between the two, and indices."""


class OnGpu(torch.Tensor):
    """A tensor on the device: ``held`` is where its values are."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(PLACE),
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return on_gpu(operator, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnGpu({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = OnGpu(self.held.detach().clone())
            of_module = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if of_module else copied
        return memo[id(self)]

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert a tensor on {self.device} to numpy: use Tensor.cpu() first")

    __array__ = numpy


OnGpu.__name__ = "Tensor"  # tensors on CUDA are of no class of their own


def is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def on_gpu(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operator on the CPU tensors inside its arguments. Raises ``RuntimeError`` if some are on the CPU."""
    check_together(operator, args, kwargs)
    to_cpu = kwargs.get("device") is not None and not is_gpu(kwargs["device"])
    into_cpu = operator is aten.copy_.default and not isinstance(args[0], OnGpu)
    cpu_kwargs = {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") is not None else kwargs
    arguments = (list(args), dict(cpu_kwargs))
    held, held_here = tree_map(lambda item: item.held if isinstance(item, OnGpu) else item, arguments)
    with own_generator(torch.Tag.nondeterministic_seeded in operator.tags):
        made = operator(*held, **held_here)
    if into_cpu:
        return args[0]
    if operator is aten._to_copy.default and made is held[0]:
        made = made.clone()
    if to_cpu:
        return made
    results = tree_map(lambda item: OnGpu(item) if isinstance(item, torch.Tensor) else item, made)
    return return_and_correct_aliasing(operator, tuple(args), dict(kwargs), results)


def check_together(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    tensors = [item for item in tree_iter((args, kwargs)) if isinstance(item, torch.Tensor)]
    if operator in ACROSS or not any(isinstance(item, OnGpu) for item in tensors):
        return
    for item in tensors:
        if not isinstance(item, OnGpu) and (item.ndim or torch.Tag.pointwise not in operator.tags):
            message = f"a tensor {tuple(item.shape)} on the CPU"
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {message} in {operator}")


class Module(_DummyBackendModule):
    """``torch.gpu``: what autocast and generators ask of a device."""

    state = torch.Generator().manual_seed(0).get_state()

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def manual_seed_all(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed + 1).get_state()

    def get_rng_state(self, device: Any = 0) -> torch.Tensor:
        return self.state.clone()

    def set_rng_state(self, state: torch.Tensor, device: Any = 0) -> None:
        assert state.device.type == "cpu"
        self.state = state.clone()


module = Module()


@contextmanager
def own_generator(draws: bool) -> Iterator[None]:
    """Random numbers come from the device's generator, and torch's of the CPU stays as it is."""
    if not draws:
        yield
        return
    before = torch.get_rng_state()
    torch.set_rng_state(module.state)
    try:
        yield
    finally:
        module.state = torch.get_rng_state()
        torch.set_rng_state(before)


def empty(size: Sequence[int], **options: Any) -> torch.Tensor:
    """What every tensor on the device begins as: ``torch.zeros(3, device="gpu:0")``, ``x.to("gpu:0")``."""
    return OnGpu(torch.empty(size, **options | {"device": "cpu"}))


def empty_strided(size: Sequence[int], stride: Sequence[int], **options: Any) -> torch.Tensor:
    return OnGpu(torch.empty_strided(size, stride, **options | {"device": "cpu"}))


def copy_from(source: torch.Tensor, into: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """How ``torch.tensor([1.0], device="gpu:0")`` brings its values."""
    held = [item.held if isinstance(item, OnGpu) else item for item in (source, into)]
    held[1].copy_(held[0])
    return into


library = torch.library.Library("aten", "IMPL")


def set_up() -> None:
    """Register the device, once for this process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=module)
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
