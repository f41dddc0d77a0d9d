"""The files of a new plugin: its valid names, and the template that they are written from."""

from __future__ import annotations

import keyword
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.plugins.entry_points import OWN_DISTRIBUTION, normalise_name
from guidegraph_runtime.files.atomic_write import atomic_files, atomic_folder

TEMPLATE = Path(__file__).with_name("template")
Kind: TypeAlias = Literal["guidance", "family", "pipeline"]
REQUIREMENTS: dict[Kind, tuple[str, ...]] = {
    "guidance": ("annotated-types>=0.6",),
    "family": ("safetensors",),
    "pipeline": ("guidegraph-diffusers>=@VERSION@",),
}
"""The packages that a new plugin imports beside guidegraph and torch."""
NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")


def why_unfit(name: str, taken: Mapping[str, str]) -> str:
    """Why no plugin can be called ``name``, with the closest valid name; "" if one can."""
    reason = _name_problem(name, taken)
    if not reason:
        return ""
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
    plain = plain.removeprefix(f"{OWN_DISTRIBUTION}_").strip("_")[:60].strip("_")
    valid = plain if NAME.fullmatch(plain) else f"guide_{plain}".strip("_")
    candidates = (valid, f"my_{valid}", f"{valid}_guidance", *(f"{valid}_{i}" for i in range(2, 100)))
    suggestion = next(candidate for candidate in candidates if not _name_problem(candidate, taken))
    return f"{reason}; what about '{suggestion}'?"


def _name_problem(name: str, taken: Mapping[str, str]) -> str:
    if keyword.iskeyword(name):
        return f"'{name}' is a word of Python's own"
    if re.fullmatch("[a-z]", name):
        return f"'{name}' is too short: one letter is a drive of Windows"
    if not NAME.fullmatch(name):
        return f"'{name[:60]}' cannot begin the ids of nodes: small letters, digits and _ can, with a letter first"
    if name in taken:
        return f"the namespace '{name}' belongs to {taken[name]}"
    if find_spec(f"{OWN_DISTRIBUTION}_{name}") is not None:
        return f"there is a package {OWN_DISTRIBUTION}_{name} already"
    return ""


def folder_problem(folder: Path) -> str:
    """Why a plugin cannot be written into ``folder``; "" if it can."""
    if folder.is_dir() and any(folder.iterdir()):
        return f"the folder '{folder}' exists and is not empty; give another one with -o"
    elif folder.exists() and not folder.is_dir():
        return f"'{folder}' exists and is not a folder; give another one with -o"
    return ""


def render_template(name: str, kind: Kind = "guidance") -> dict[str, str]:
    """The texts of a new plugin's files, by path: the common ones, and those of a kind of plugin."""
    import guidegraph

    values = {
        "@SUMMARY@": "Bounded classifier-free guidance" if kind == "guidance" else "A family of checkpoints",
        "@DEPENDENCIES@": ", ".join(f'"{package}"' for package in (*REQUIREMENTS[kind], "guidegraph>=@VERSION@")),
        "@NAME@": name,
        "@PACKAGE@": f"{OWN_DISTRIBUTION}_{name}",
        "@DISTRIBUTION@": normalise_name(f"{OWN_DISTRIBUTION}-{name}"),
        "@VERSION@": ".".join(guidegraph.__version__.split(".")[:2]),
    }
    files = {}
    for path in sorted([*(TEMPLATE / "common").rglob("*.txt"), *(TEMPLATE / kind).rglob("*.txt")]):
        text = path.read_text(encoding="utf-8")
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        target = path.relative_to(TEMPLATE).as_posix().partition("/")[2].removesuffix(".txt")
        target = target.replace("package/", f"{OWN_DISTRIBUTION}_{name}/").replace("test_plugin", f"test_{name}")
        files[".gitignore" if target == "gitignore" else target] = text
    return files


def write_folder(files: Mapping[str, str], folder: Path) -> None:
    """Write files into a folder, all of them or none. Raises ``OSError``."""
    folder = folder.absolute()
    # An existing folder may be the current one, which cannot be replaced.
    with atomic_files(folder / "new") if folder.is_dir() else atomic_folder(folder) as temporary:
        for name, text in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())


def next_steps(name: str, folder: Path, kind: Kind) -> Sequence[str]:
    """What to type next, a line each."""
    package = f"{OWN_DISTRIBUTION}_{name}"
    draw = {
        "guidance": [f"  guidegraph run {name}:text_to_image.yaml"],
        "family": [
            f"  python -m {package}.network example.safetensors",
            f"  guidegraph run {name}:draw.yaml --set checkpoint=example.safetensors",
        ],
        "pipeline": [
            f"  python -m {package}.example example",
            f'  guidegraph run {name}:text_to_image.yaml --set checkpoint=example --set "shape=[4, 16, 16]"',
        ],
    }
    subject = "node" if kind == "guidance" else "family"
    return (
        f"wrote {folder}; the {subject} is in {folder / package / '__init__.py'}. Now:",
        *([] if folder.absolute() == Path.cwd() else [f"  cd {shlex.quote(str(folder))}"]),
        '  pip install -e ".[test]"',
        *draw[kind],
        "  pytest",
    )
