"""Where in a person's own code something happened: the innermost frame that is in no library."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

LIBRARIES = ("torch", "onnxscript", "onnx", "onnx_ir", "sympy", "numpy")


@cache
def _folders() -> tuple[Path, ...]:
    specs = (find_spec(name) for name in LIBRARIES)
    folders = (Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None)
    return (Path(__file__).parent, Path(traceback.__file__).parent, *folders)


@cache
def is_library(file: Path) -> bool:
    """Whether a file belongs to torch, to Python, to another library of the export, or to the export itself."""
    if not file.is_file():  # <eval_with_key>, <frozen importlib>
        return True
    if "site-packages" in file.parts:
        return any(file.is_relative_to(folder) for folder in _folders()[2:])
    return any(file.is_relative_to(folder) for folder in _folders())


def innermost(frames: Iterable[traceback.FrameSummary]) -> str:
    """FILE:LINE of the last frame that is in no library, or ""."""
    user_frames = [frame for frame in frames if not is_library(Path(frame.filename))]
    return f"{user_frames[-1].filename}:{user_frames[-1].lineno}" if user_frames else ""


def raised_at(trace: TracebackType | None) -> str:
    """FILE:LINE of the person's code from where an exception came, or ""."""
    return innermost(traceback.extract_tb(trace))


def recorded(stack: str) -> str:
    """The same of a stack trace that a graph recorded as text."""
    locations = [
        (file, line) for file, line in re.findall(r'File "(.+?)", line (\d+)', stack) if not is_library(Path(file))
    ]
    return ":".join(locations[-1]) if locations else ""
