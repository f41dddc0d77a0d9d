"""Reads the weights of a component of a diffusers folder: one file or shards, safetensors or `.bin`, variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.read_tensors import read_tensors

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""File names of weights in diffusers, and in transformers, now and formerly."""

VARIANTS = ("", "fp16")
"""Full precision first; a folder may hold only half precision."""

NOT_AVERAGED = ("non_ema",)
"""Variant of the U-Net's weights without moving averages, in the folders of Stable Diffusion 1.4 and 1.5."""


def read_component(folder: Path, ema: bool = True) -> Mapping[str, Tensor]:
    """Read the tensors of a component, memory-mapped; without ema, from the variant without moving averages.

    Raises ``ValueError`` if there are none, or a shard is missing.
    """
    for suffix in ("safetensors", "bin"):
        for variant in VARIANTS if ema else NOT_AVERAGED:
            dot = f".{variant}" if variant else ""
            for stem in STEMS:
                if (file := folder / f"{stem}{dot}.{suffix}").is_file():
                    return read_tensors(file)
                if (index := folder / f"{stem}.{suffix}.index{dot}.json").is_file():
                    return _read_shards(index)
    listing = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    if not ema:
        raise ValueError(
            f"'{folder}' holds no weights beside those that are its moving averages, or may be: expected "
            f"{STEMS[0]}.{NOT_AVERAGED[0]}.safetensors; found {listing or 'nothing'}: leave ema out"
        )
    raise ValueError(
        f"'{folder}' holds no weights: expected {STEMS[0]}.safetensors or model.safetensors, whole or with an index, "
        f"or the same as fp16 or .bin; found {listing or 'nothing'}. The folder is incomplete: nothing was loaded"
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all shards that an index names, which must lie in the index's folder."""
    shard_names = read_json(index).get("weight_map")
    if not isinstance(shard_names, dict) or not all(isinstance(name, str) for name in shard_names.values()):
        raise ValueError(f"'{index}' is not an index of weights: expected a 'weight_map' from names to files")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shard_names.values())):
        if name != Path(name).name:
            raise ValueError(f"'{index}' names '{name}', which is not the plain name of a file beside it")
        tensors.update(read_tensors(index.parent / name))
    missing = [name for name in shard_names if name not in tensors]
    if missing:
        raise ValueError(f"'{index}' names {len(missing)} tensors that its files do not hold: {', '.join(missing[:4])}")
    return tensors
