"""Read the LoRAs that a run is given: their files, their factors and their strengths."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from guidegraph_runtime.errors import BundleError, format_value
from guidegraph_runtime.files.regular_files import read_regular
from guidegraph_runtime.lora.pairs import Pair, find_adapter_file, pair_factors
from guidegraph_runtime.lora.peft_settings import read_folder_settings, read_header_settings
from guidegraph_runtime.running.inputs import FLOAT_LIMIT
from guidegraph_runtime.running.tensor_inputs import read_safetensors

Array = NDArray[Any]


@dataclass(frozen=True)
class Lora:
    """A LoRA file, or a folder written by peft, and its strength. digest: of the file and the scales of its layers."""

    path: Path
    strength: float
    pairs: Mapping[str, Pair[Array]]
    digest: str


def read_loras(loras: Any, location: str) -> tuple[Lora, ...]:
    """Read one LoRA or a list: a path, ``path:strength`` or (path, strength). The default strength is 1.

    LoRAs that were read before stay as they are. Raises ``BundleError`` for a file that is not a LoRA, and for a
    strength that is not a finite number.
    """
    single = isinstance(loras, (str, os.PathLike, Lora)) or (
        isinstance(loras, tuple) and len(loras) == 2 and isinstance(loras[1], Real)
    )
    lora_list = [loras] if single else list(loras)
    return tuple(
        lora if isinstance(lora, Lora) else _read(*_split_strength(lora, location), location) for lora in lora_list
    )


def _split_strength(lora: Any, location: str) -> tuple[Path, float]:
    """The path and the strength of a LoRA.

    Raises ``BundleError`` for a strength that is not a finite number.
    """
    if isinstance(lora, tuple):
        path, strength = lora
        return Path(path), _parse_strength(strength, path, location)
    path, colon, strength = os.fspath(lora).rpartition(":")
    if not colon or not path:
        return Path(lora), 1.0
    if not _is_number(strength) and (os.path.exists(lora) or not os.path.exists(path)):
        return Path(lora), 1.0  # the colon belongs to the path
    return Path(path), _parse_strength(strength, path, location)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_strength(strength: Any, path: Any, location: str) -> float:
    """The strength as a number. Raises ``BundleError`` unless it is one that float32 can hold."""
    try:
        number = float(strength)
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= FLOAT_LIMIT:
        message = (
            f"the strength of the LoRA '{path}': expected a finite number up to {FLOAT_LIMIT:.2g}, found "
            f"{format_value(strength)}; write it as FILE:0.8, or give the file alone"
        )
        raise BundleError(location, "bad-lora", message)
    return number


def _read(path: Path, strength: float, location: str) -> Lora:
    try:
        if path.is_dir():
            settings, file = read_folder_settings(path), find_adapter_file(path)
        else:
            settings, file = read_header_settings(path), path
        if file.suffix != ".safetensors":
            raise ValueError(f"'{file}' is not a .safetensors file, the only supported format: convert it")
        data = read_regular(file, limit="file_bytes")
        pairs = pair_factors(read_safetensors(data), settings, file)
    except OSError as error:
        raise BundleError(location, "bad-lora", f"'{path}' cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BundleError(location, "bad-lora", str(error)) from None
    # The scales count too: they may come from another file.
    scales = "\n".join(f"{layer}={pair.scale!r}" for layer, pair in pairs.items())
    digest = hashlib.sha256(b"\0".join([hashlib.sha256(data).digest(), scales.encode()])).hexdigest()
    return Lora(path, strength, pairs, digest)
