"""Finds, reads and loads folders of diffusers' `save_pretrained`, offline, with one clear error for each problem.

Weights are read from safetensors alone; nothing in a folder is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from guidegraph import current_device, current_dtype
from guidegraph_runtime.files.regular_files import read_regular, require_regular_files

SCHEDULER_CONFIG = "scheduler_config.json"


def import_diffusers() -> Any:
    """The module diffusers, imported when a node runs: it takes seconds."""
    import diffusers

    return diffusers


def check_folder(path: Path) -> Path:
    """Return the folder. Raises ``ValueError`` if it is not a folder."""
    if not path.is_dir():
        raise ValueError(f"'{path}' is not a folder: give the folder of a diffusers pipeline, or of one part of it")
    return path


def check_plain_name(setting: str, name: str) -> None:
    """Raise ``ValueError`` for a name that would lead out of the folder."""
    if name != Path(name).name or name in ("", ".", "..") or "\\" in name:
        raise ValueError(f"{setting}: expected the plain name of a file or folder in it, found '{name}'")


def find_part_folder(path: Path, part: str, usual: Iterable[str], file: str = "config.json") -> Path:
    """Find the folder of a part: `path` if it holds `file`, the named part in it, or the first of the usual ones.

    Raises ``ValueError`` that lists the content of the folder.
    """
    check_folder(path)
    check_plain_name("part", part)
    names = list(usual) if part == "auto" else [part]
    if part == "auto" and (path / file).is_file():
        return path
    folder = next((path / name for name in names if (path / name / file).is_file()), None)
    if folder is None:
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())) or "nothing"
        choices = " or ".join(f"'{name}'" for name in names)
        raise ValueError(f"'{path}' holds no part {choices} with a {file}; it has {inside}")
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration. Raises ``ValueError`` if the file is missing or does not hold a JSON object."""
    try:
        content = json.loads(read_regular(file).decode())
    except FileNotFoundError:
        raise ValueError(f"'{file.parent}' holds no {file.name}, which says what is in the folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"'{file}' cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' must hold a JSON object; found {type(content).__name__}")
    return content


def read_class_name(config: dict[str, Any], file: Path, class_names: Iterable[str]) -> str:
    """The class that a configuration names. Raises ``ValueError`` that lists the known ones for any other."""
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"'{file}' names no class (`_class_name`): it is not a configuration of diffusers")
    if name not in class_names:
        raise ValueError(
            f"'{file}' is of class {name}, which this adapter does not know; it knows {', '.join(class_names)}"
        )
    return name


def check_weights_file(folder: Path, stem: str, variant: str | None) -> None:
    """Raise ``ValueError`` if the folder lacks safetensors of the variant; pickles are never opened."""
    if variant is not None:
        check_plain_name("variant", variant)
    name = stem if variant is None else f"{stem}.{variant}"
    if any((folder / f"{name}.safetensors{end}").is_file() for end in ("", ".index.json")):
        return
    if variant is not None and (folder / f"{stem}.safetensors.index.{variant}.json").is_file():
        return
    files = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".ckpt"))
    fix = "save it again with diffusers' save_pretrained, which writes safetensors"
    if any(name.endswith(".safetensors") for name in files):
        fix = "set `variant` to what stands between the name and .safetensors"
    if not files:
        fix = "the folder is not complete"
    raise ValueError(f"'{folder}' holds no {name}.safetensors; its weights are {', '.join(files) or 'missing'}: {fix}")


def load_model(kind: Any, folder: Path, variant: str | None, *, in_float32: bool = False) -> Any:
    """A frozen model of diffusers, on the run's device and in its dtype.

    Raises ``ValueError`` for weights that cannot be read, or that do not fit the configuration: nothing half-loads.
    """
    import torch

    check_weights_file(folder, "diffusion_pytorch_model", variant)
    require_regular_files(folder)
    dtype = torch.float32 if in_float32 else current_dtype()
    try:
        model, info = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            variant=variant,
            torch_dtype=dtype,
            low_cpu_mem_usage=find_spec("accelerate") is not None,
            output_loading_info=True,
            ignore_mismatched_sizes=False,
        )
    except Exception as error:
        raise ValueError(f"'{folder}' holds no {kind.__name__} that diffusers can load: {one_line(error)}") from error
    check_loaded(folder, info, ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.to(device=current_device()).eval().requires_grad_(False)


def check_loaded(folder: Path, info: dict[str, Any], fields: Iterable[str]) -> None:
    """Raise ``ValueError`` that names the tensors that did not fit, as a loader reports them."""
    keys_by_problem = {field.removesuffix("_keys"): sorted(map(str, info.get(field) or ())) for field in fields}
    if problems := [
        f"{len(keys)} {problem}: {', '.join(keys[:3])}" for problem, keys in keys_by_problem.items() if keys
    ]:
        raise ValueError(f"the weights in '{folder}' do not fit its config.json ({'; '.join(problems)})")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
