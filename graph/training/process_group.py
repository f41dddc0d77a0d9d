"""The processes of one training, and their communication at each step through Lightning Fabric."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from guidegraph.graph.training.ranks import Rank, collective_operation, process_rank
from guidegraph.graph.types import is_tensor

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric


class ProcessGroup:
    """The process group of a training. With one process all operations are free."""

    def __init__(self, device: torch.device) -> None:
        from lightning_fabric import Fabric

        for name in ("lightning.fabric", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        accelerator = "cuda" if device.type == "cuda" else "cpu"
        self.rank: Rank = process_rank()
        if self.is_alone:
            self.fabric: Fabric = Fabric(accelerator=accelerator, devices=1)
            return
        local_count, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
        self.fabric = Fabric(accelerator=accelerator, devices=local_count, num_nodes=nodes, strategy="ddp")
        self.fabric.launch()

    @property
    def is_alone(self) -> bool:
        return self.rank.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows previews."""
        return self.rank.index == 0

    def mean(self, tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The mean of each tensor over the processes, with one all-reduce per dtype.

        An entry that is None in one process is None in all.
        """
        import torch

        means = list(tensors)
        if self.is_alone:
            return means
        present = [(i, tensor) for i, tensor in enumerate(tensors) if tensor is not None]
        for dtype in dict.fromkeys(tensor.dtype for _, tensor in present):
            same_dtype = [(i, tensor) for i, tensor in present if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().flatten() for _, tensor in same_dtype])
            with collective_operation():
                reduced: Any = self.fabric.all_reduce(flat, reduce_op="mean")
            pieces = reduced.split([tensor.numel() for _, tensor in same_dtype])
            for (i, tensor), piece in zip(same_dtype, pieces, strict=True):
                means[i] = piece.reshape(tensor.shape)
        return means

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes; all get the same answer."""
        if self.is_alone:
            return flag
        import torch

        mean = self.mean([torch.tensor(float(flag), device=self.fabric.device)])[0]
        assert mean is not None
        return bool(mean > 0)

    def agree(self, number: int) -> bool:
        """Whether a number is the same in all of the processes; all get the same answer."""
        if self.is_alone:
            return True
        import torch

        first = torch.tensor(number, device=self.fabric.device)
        self.broadcast([first])
        return not self.any(int(first) != number)

    def mean_of_numbers(self, value: Any) -> Any:
        """The mean of a one-element floating-point tensor over the processes; any other value unchanged."""
        if self.is_alone or not is_tensor(value) or value.numel() != 1 or not value.is_floating_point():
            return value
        return self.mean([value])[0]

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Set tensors, such as buffers, to those of the first process, in place."""
        if self.is_alone:
            return
        import torch.distributed as group

        for tensor in tensors:
            with collective_operation():
                group.broadcast(tensor, src=0)
