"""The test environment of attacks: a protected file, a secret that must not leak, and the two command lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SECRET = "the secret of another person"
KEPT = "a file of the person's"


@dataclass(frozen=True)
class Outcome:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Outcome]


@dataclass(frozen=True)
class Arena:
    """folder: the current one. outside: a folder that no attack may read or change. run: ``guidegraph``; run_bundle:
    ``guidegraph-run``, with their arguments."""

    folder: Path
    outside: Path
    run: Run
    run_bundle: Run

    @property
    def secret(self) -> Path:
        """A file whose text must not appear in any output."""
        return self.outside / "secret.txt"

    @property
    def protected_file(self) -> Path:
        """A file that no attack may change."""
        return self.outside / "kept.txt"

    @property
    def photo(self) -> Path:
        """A picture that must not be read."""
        return self.outside / "photo.png"

    def run_own(self, text: str) -> Outcome:
        """Run the user's own workflow, from ``own.yaml``."""
        workflow = self.folder / "own.yaml"
        workflow.write_text(text)
        return self.run("run", workflow, "--out", "out")

    def find_leaks(self) -> list[Path]:
        """The files below the folder that contain the secret."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return [path for path in files if SECRET.encode() in path.read_bytes()]


Attack: TypeAlias = Callable[[Arena], Outcome]

ATTACKS: dict[str, Attack] = {}
EXPECTED: dict[str, str] = {}


def attack(does: str, error: str) -> Callable[[Attack], Attack]:
    """Register an attack.

    does: a description, as in docs/understand/security.md. error: a fragment of the expected error message.
    """

    def register(function: Attack) -> Attack:
        assert does not in ATTACKS, does
        ATTACKS[does], EXPECTED[does] = function, error
        return function

    return register


def recipe_picture(path: Path, text: str | dict[str, str], **more: Any) -> Path:
    """A picture whose text chunk holds a workflow, as ``guidegraph run`` writes it; ``more`` replaces entries."""
    sources = text if isinstance(text, dict) else {"draw.yaml": text}
    recipe = {"format": 2, "workflow": next(iter(sources)), "sources": sources, "params": {}} | more
    info = PngInfo()
    info.add_itxt("guidegraph", json.dumps(recipe))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path
