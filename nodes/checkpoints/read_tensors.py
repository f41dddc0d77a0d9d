"""Reads the tensors of a checkpoint file; its content decides the format. Nothing in a file is ever executed.

Weights of safetensors files, GGUF files and zipped `.pt` files stay on disk, memory-mapped, until they are used; so do
those in few bits, which are computed when they are used.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.trust.file_checks import open_regular
from guidegraph.nodes.checkpoints.quantised.deferred import count_stored_bytes
from guidegraph.nodes.checkpoints.quantised.gguf_file import read_gguf
from guidegraph.nodes.checkpoints.quantised.gguf_header import MAGIC
from guidegraph.nodes.checkpoints.quantised.scaled import dequantise

AVERAGES = "ema"
WRAPPERS = ("state_dict", "model")
MODULE = "module."
MAX_MEMBERS = 100_000
MAX_PICKLE = 1 << 28
"""The pickle of a checkpoint holds names and shapes: a few hundred bytes for each tensor."""

MAX_SHARING = 2
"""Largest ratio of the tensors' size to the file's: a weight shared by two layers is named twice and stored once."""

TRAINING = (
    "_codecs.encode",
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.ModelCheckpoint",
)
"""Classes that files saved in training refer to besides weights. An inert class replaces each, so that none runs."""


class Inert:
    """Replaces an object of a file's training state that is not needed: takes anything and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


def read_tensors(path: Path, *, averages: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a safetensors, GGUF or torch checkpoint, by name, on the CPU in the dtypes of the file.

    Weights in fp8 and in GGUF's formats of few bits are float32, with their scales, and computed when they are used. A
    checkpoint may hold them under `ema`, `state_dict` or `model`, the first of these that exists, or at the top; other
    values, such as a step count, are left out. Without averages, `ema` comes after the other two. Weights are
    memory-mapped, except for a checkpoint from before torch 1.6. Raises ``ValueError`` that names the file, its
    content, and what to do.
    """
    content = read_nested(path)
    wrappers = (AVERAGES, *WRAPPERS) if averages else (*WRAPPERS, AVERAGES)
    for candidate in (*(content.get(name) for name in wrappers), content):
        if isinstance(candidate, Mapping):
            tensors = {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors and all(isinstance(name, str) for name in tensors):
                return dequantise(strip_module_prefix(tensors), path)
    keys = ", ".join(str(key) for key in list(content)[:8]) or "none"
    raise ValueError(
        f"'{path}' holds no weights: expected tensors by name, at the top or under {', '.join(wrappers)}; found the "
        f"keys {keys}: save the model's state_dict"
    )


def strip_module_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that `DistributedDataParallel` and `DataParallel` give to all names."""
    if not all(name.startswith(MODULE) for name in tensors):
        return tensors
    return {name.removeprefix(MODULE): tensor for name, tensor in tensors.items()}


def read_nested(path: Path) -> Mapping[str, Any]:
    """Read the content of a file with its nesting, for files that are not a state_dict; see read_tensors."""
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder, and a checkpoint file was expected: name the file in it")
    if not path.exists():
        raise ValueError(f"there is no file '{path}': check the path")
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
    content: object
    if head[:4] == b"PK\x03\x04":
        content = _read_zip(path, size)
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:  # its length may begin as a pickle does
        content = _read_safetensors(path)
    elif head[:4] == MAGIC:
        content = read_gguf(path)
    elif head[:1] == b"\x80":
        content = _load(path, mmap=False)
    elif head[8:9] == b"{":
        content = _read_safetensors(path)
    else:
        raise ValueError(f"'{path}' is not a checkpoint: {_describe_content(head, size)}")
    if not isinstance(content, Mapping):
        raise ValueError(
            f"'{path}' holds no weights: expected a dictionary; found a {type(content).__name__}: save the model's "
            "state_dict"
        )
    _check_sizes(path, _collect_tensors(content), size)
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    except Exception as error:
        raise ValueError(
            f"'{path}' is a damaged or truncated safetensors file ({error}): fetch or save it again"
        ) from None


def _read_zip(path: Path, size: int) -> object:
    """Load a zip archive that torch wrote, after checks that its members are uncompressed and fit in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"'{path}' is a damaged or truncated checkpoint ({error}): fetch or save it again") from None
    if path.suffix == ".safetensors":  # torch.load goes by the name here
        raise ValueError(f"'{path}' is a checkpoint of torch.save under a name for safetensors: rename it to .pt")
    refusal = _find_refusal(members, size)
    if refusal:
        raise ValueError(f"'{path}' is refused: {refusal}")
    return _load(path, mmap=True)


def _find_refusal(members: list[zipfile.ZipInfo], size: int) -> str | None:
    """The reason to refuse an archive of `size` bytes that torch did not write, or None."""
    names = [member.filename for member in members]
    if len(members) > MAX_MEMBERS:
        return f"it has {len(members)} members, and a checkpoint has at most {MAX_MEMBERS}"
    if any(name.split("/")[-1] == "constants.pkl" for name in names):
        return "it is a TorchScript program, and only weights are read; save the state_dict() of its module"
    packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size]
    if packed:
        return (
            f"its member '{packed[0].filename}' is compressed, {packed[0].compress_size} bytes for "
            f"{packed[0].file_size}, which torch never writes and which may fill the memory; save it with torch.save"
        )
    declared = sum(member.file_size for member in members)
    if declared > size:
        return f"its members declare {declared} bytes and the file has {size}; save it with torch.save"
    pickles = [member for member in members if member.filename.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        return "it is a zip archive that torch.save did not write (no data.pkl in it); unpack it first"
    if pickles[0].file_size > MAX_PICKLE:
        return f"its data.pkl has {pickles[0].file_size} bytes, and a checkpoint's has at most {MAX_PICKLE}"
    return None


def _load(path: Path, *, mmap: bool) -> Any:
    """Call `torch.load`, restricted to weights."""
    inert: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
    inert = [(Inert, name) for name in (*TRAINING, f"{Inert.__module__}.{Inert.__name__}")]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a hostile or damaged file can raise anything in the unpickler
        message = str(error)
        if match := re.search(r"(?:GLOBAL|[Ff]unction|[Tt]ype|class) ([\w.]*\w)", message.partition("\n")[2]):
            raise ValueError(
                f"'{path}' is refused: it names {match[1]}, which is code and no weight (nothing was run); "
                "save the model's state_dict alone, as safetensors"
            ) from None
        reason = message.strip().splitlines()[0] if message.strip() else type(error).__name__
        raise ValueError(f"'{path}' is a damaged or truncated checkpoint ({reason}): fetch or save it again") from None


def _collect_tensors(content: object) -> dict[str, Tensor]:
    """Collect all tensors in nested dictionaries, lists and tuples, by their path."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    pending: list[tuple[str, object]] = [("", content)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            pending += [(f"{name}.{key}" if name else str(key), inner) for key, inner in items]
    return tensors


def _check_sizes(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise ``ValueError`` for tensors larger than the file: copies of them could fill the memory."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ValueError(f"'{path}' is refused: '{name}' is not a plain tensor; save it dense and unquantised")
    declared = sum(count_stored_bytes(tensor) for tensor in tensors.values())
    if declared > MAX_SHARING * size:
        name = max(tensors, key=lambda name: tensors[name].numel())
        raise ValueError(
            f"'{path}' is refused: its tensors declare {declared} bytes and the file has {size}; the largest is "
            f"'{name}' {tuple(tensors[name].shape)}: save it with contiguous tensors"
        )


def _describe_content(head: bytes, size: int) -> str:
    if not size:
        return "the file is empty; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "it is a web page; fetch the file itself"
    return f"it begins with {head[:8]!r}; expected safetensors, GGUF, or what torch.save wrote"
