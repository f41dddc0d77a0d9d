"""Safetensors files with a checksum of their whole contents in their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.graph.values.checksum import file_checksum
from guidegraph_runtime.files.atomic_write import atomic_path

if TYPE_CHECKING:
    import torch

CHECKSUM = "checksum"


class DamagedFile(ValueError):
    """A file is damaged: it cannot be parsed, or its checksum does not match."""


def write_checked(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write dense, contiguous CPU tensors and metadata with a checksum, atomically."""
    from safetensors.torch import save_file

    checked_metadata = {**metadata, CHECKSUM: file_checksum(metadata, tensors)}
    with atomic_path(path) as temporary:
        save_file(dict(tensors), str(temporary), metadata=checked_metadata)


def read_checked(path: Path, *, copy: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and CPU tensors of a file.

    copy: if off, the tensors are memory-mapped pages of the file and change with it. Raises ``DamagedFile`` and
    ``OSError``.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error
    if copy:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    expected = metadata.pop(CHECKSUM, "none")
    actual = file_checksum(metadata, tensors)
    if expected != actual:
        raise DamagedFile(f"{path} is damaged: its checksum is {expected[:40]!r}, and that of its contents '{actual}'")
    return metadata, tensors
