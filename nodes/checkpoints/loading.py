"""Asks the families of checkpoints which of them recognises a path, and loads its parts by that one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from guidegraph.graph.trust.file_checks import open_regular
from guidegraph.graph.types import PortType
from guidegraph.nodes.checkpoints.config_values import load_yaml
from guidegraph.nodes.checkpoints.diffusers.config import read_json
from guidegraph.nodes.checkpoints.family import PACKAGE, Config, FamilyError, Header, Headers, Offer
from guidegraph.nodes.checkpoints.folders import CONFIG, INDEX, is_compvis_folder, is_diffusers
from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph.nodes.types import Schedule
from guidegraph_runtime.machine.optional_packages import package_command

MAX_HEADER = 100_000_000
"""The most bytes of a safetensors header, as in its own library."""

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
"""torch's name of a dtype by its name in a safetensors header."""


def load_parts(
    path: Path, options: LoadOptions, offers: Sequence[Offer], outputs: Mapping[str, PortType]
) -> dict[str, Any]:
    """Load the parts of a checkpoint by name, frozen, on the run's device and in its dtype.

    offers: the families to ask. outputs: the parts that there may be, by name. Raises one ``ValueError`` that names the
    path and its content if it is not a checkpoint, has an unknown layout, is recognised by two families, or is
    incomplete; if a plugin's family fails; and if the options call it a flow and it has a noise schedule. Then nothing
    is loaded.
    """
    if options.transformer is not None and not (path.is_dir() and is_diffusers(path)):
        raise ValueError(
            f"'{path}' is not a diffusers folder of a pipeline, whose transformer may be that of another file: leave "
            "transformer out"
        )
    parts = load_by_family(path, options, offers, outputs)
    schedule = parts.get("schedule")
    is_flow = options.prediction == "flow" or getattr(parts.get("denoiser"), "kind", None) == "flow"
    if is_flow and isinstance(schedule, Schedule) and schedule.form != "flow":
        raise ValueError(
            f"'{path}' has a schedule of β, and a flow has none: leave prediction out, or noise_schedule if it is set"
        )
    return parts


def load_by_family(
    path: Path, options: LoadOptions, offers: Sequence[Offer], outputs: Mapping[str, PortType]
) -> dict[str, Any]:
    """Load the parts by the one family that recognises the path."""
    config = read_folder_config(path) if path.is_dir() else None
    headers = FolderHeaders(path) if path.is_dir() else read_headers(path, options)
    matches, failures = find_families(offers, headers, config)
    if len(matches) > 1:
        raise ValueError(
            f"'{path}' is recognised by several families: {', '.join(offer.name for offer in matches)}; leave out the "
            "plugin of one of them (GUIDEGRAPH_DISABLE_PLUGINS, or --plugin), or let it look at more of the file"
        )
    if not matches and failures:
        raise ValueError(f"'{path}' is recognised by no family, and {'; '.join(map(str, failures))}")
    for failure in failures:
        warnings.warn(f"'{path}': {failure}", stacklevel=2)
    if matches:
        return matches[0].load(path, options, outputs)
    if find_spec(PACKAGE) is None:
        raise ValueError(
            f"'{path}' is recognised by no plugin; released families are in the package guidegraph-families: "
            f"{package_command('families')}"
        )
    for offer in offers:
        if offer.family.explain is not None:
            offer.family.explain(path, options)
    if path.is_dir():
        raise ValueError(
            f"'{path}' is a folder of no known layout (diffusers, CompVis with its config.yaml); found "
            f"{_first([entry.name for entry in path.iterdir()])}: name a checkpoint file, or the folder that holds "
            "model_index.json"
        )
    layouts = ", ".join(offer.family.name for offer in offers if offer.family.explain is None) or "no family is loaded"
    raise ValueError(
        f"'{path}' has tensors of no known layout ({layouts}); found {len(headers)} tensors: {_first(headers)}"
    )


def find_families(offers: Iterable[Offer], headers: Headers, config: Config) -> tuple[list[Offer], list[FamilyError]]:
    """The families that recognise a path, and the failures of those that cannot tell."""
    matches, failures = [], []
    for offer in offers:
        try:
            if offer.recognises(headers, config):
                matches.append(offer)
        except FamilyError as error:
            failures.append(error)
    return matches, failures


def read_headers(file: Path, options: LoadOptions) -> dict[str, Header]:
    """The headers of the tensors that `read_tensors` would read. Raises ``ValueError`` as it does."""
    tensors = read_tensors(file, averages=options.ema)
    return {
        name: Header(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()
    }


def read_folder_config(folder: Path) -> dict[str, Any]:
    """The model_index.json of a folder, its config.json, or the config.yaml of a CompVis folder.

    Empty if there is none, or if it cannot be read, which the loader reports.
    """
    for name in (INDEX, "config.json"):
        if (folder / name).is_file():
            try:
                return read_json(folder / name)
            except ValueError:
                return {}
    content = load_yaml(folder / CONFIG) if is_compvis_folder(folder) else None
    return dict(content) if isinstance(content, Mapping) else {}


class FolderHeaders(Mapping[str, Header]):
    """The headers of all safetensors in a folder and its subfolders, read when they are first looked at.

    Names begin with the subfolder, as in "transformer/proj_out.weight". A damaged file is left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def headers(self) -> dict[str, Header]:
        headers: dict[str, Header] = {}
        for file in sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("*/*.safetensors")]):
            prefix = "" if file.parent == self.folder else f"{file.parent.name}/"
            try:
                with open_regular(file) as stream:
                    length = int.from_bytes(stream.read(8), "little")
                    entries = json.loads(stream.read(length)) if length <= MAX_HEADER else {}
                for name, entry in entries.items():
                    if name != "__metadata__":
                        dtype = DTYPES.get(entry["dtype"], entry["dtype"].lower())
                        headers[prefix + name] = Header(tuple(entry["shape"]), dtype)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue
        return headers

    def __getitem__(self, name: str) -> Header:
        return self.headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)


def _first(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (" …" if len(listed) > 5 else "") or "nothing"
