"""Moving a loop's items to the device of the run: data sets are made on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.leaves import list_named_fields

if TYPE_CHECKING:
    import torch


def to_device(item: Any, device: torch.device) -> Any:
    """A value with its tensors on a device, also those in a NamedTuple, dataclass, tuple, list or dictionary.

    With the CPU as the device the value is returned as it is: tensors that a CPU run made elsewhere are meant to stay.
    """
    if device.type == "cpu":
        return item
    if is_tensor(item):
        on_device = item.device.type == device.type and device.index in (None, item.device.index)
        return item if on_device else item.to(device)
    fields = list_named_fields(item)
    if fields is not None:
        moved = {name: to_device(value, device) for name, value in fields.items()}
        if all(moved[name] is value for name, value in fields.items()):
            return item
        return moved if isinstance(item, dict) else type(item)(**moved)
    if isinstance(item, (list, tuple)):
        items = [to_device(value, device) for value in item]
        return item if all(a is b for a, b in zip(items, item, strict=True)) else type(item)(items)
    return item
