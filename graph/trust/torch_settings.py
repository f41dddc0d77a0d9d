"""Settings of torch that change the results of all code, each with its reader and its setter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias


class DevicePrecision(NamedTuple):
    """The precision for each device, a value of `fp32_precision`: ieee, tf32, bf16 or none."""

    cuda: str
    cpu: str

    def __str__(self) -> str:
        return f"{self.cuda} on CUDA and {self.cpu} on the CPU"


Precision: TypeAlias = str | DevicePrecision
"""highest, high or medium; by device where these words do not describe it."""


def make_precision_reader(torch: Any) -> Callable[[], Precision]:
    """A function that reads the precision."""
    read_word = torch.get_float32_matmul_precision
    backends = torch.backends

    def read_precision() -> Precision:
        try:
            word: str = read_word()
        except RuntimeError:
            return DevicePrecision(backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision)
        return word

    return read_precision


def set_precision(torch: Any, precision: Precision) -> None:
    """Set a precision that was read before."""
    if isinstance(precision, str):
        torch.set_float32_matmul_precision(precision)
    else:
        torch.backends.cuda.matmul.fp32_precision = precision.cuda
        torch.backends.mkldnn.matmul.fp32_precision = precision.cpu


class Setting(NamedTuple):
    """A setting of the process. name: as in messages. initial: its first value; empty if the machine decides."""

    name: str
    read: Callable[[], Any]
    set: Callable[[Any], object]
    initial: tuple[Any, ...]


class TorchSettings(NamedTuple):
    """The settings of the process and of each thread, and the use of deterministic algorithms."""

    dtype: Setting
    precision: Setting
    threads: Setting
    gradients: Setting
    device: Setting
    deterministic: Setting


def list_torch_settings(torch: Any) -> TorchSettings:
    """The settings of the module torch."""
    return TorchSettings(
        Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
        Setting(
            "torch's precision of matrix products",
            make_precision_reader(torch),
            partial(set_precision, torch),
            ("highest",),
        ),
        Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads, ()),
        Setting("torch's recording of gradients", torch.is_grad_enabled, torch.set_grad_enabled, (True,)),
        Setting(
            "torch's default device",
            lambda: str(torch.get_default_device()),
            lambda device: torch.set_default_device(None if device == "cpu" else device),
            ("cpu",),
        ),
        Setting(
            "torch's use of deterministic algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
            (False,),
        ),
    )
