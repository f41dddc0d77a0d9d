"""Settings of torch that change the results of all code, each with its reader and its setter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from guidegraph.graph.trust.matmul_precision import make_precision_reader, set_precision


class TorchSetting(NamedTuple):
    """A setting. name: as in messages. initial: where torch is imported; an empty tuple if the machine decides."""

    name: str
    read: Callable[[], Any]
    set: Callable[[Any], object]
    initial: tuple[Any, ...]


class TorchSettings(NamedTuple):
    """The settings: those of the process, those of each thread, and the use of deterministic algorithms."""

    dtype: TorchSetting
    precision: TorchSetting
    threads: TorchSetting
    gradients: TorchSetting
    device: TorchSetting
    deterministic: TorchSetting


def list_torch_settings(torch: Any) -> TorchSettings:
    """The settings of the module torch."""
    return TorchSettings(
        TorchSetting("default dtype", torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
        TorchSetting(
            "precision of matrix products", make_precision_reader(torch), partial(set_precision, torch), ("highest",)
        ),
        TorchSetting("number of threads", torch.get_num_threads, torch.set_num_threads, ()),
        TorchSetting("recording of gradients", torch.is_grad_enabled, torch.set_grad_enabled, (True,)),
        TorchSetting(
            "default device",
            lambda: str(torch.get_default_device()),
            lambda device: torch.set_default_device(None if device == "cpu" else device),
            ("cpu",),
        ),
        TorchSetting(
            "use of deterministic algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
            (False,),
        ),
    )
