"""Locations in the user's code: the innermost frame outside of libraries."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from guidegraph import graph

LIBRARIES = ("torch", "onnxscript", "onnx", "onnx_ir", "sympy", "numpy")


@cache
def _folders() -> tuple[Path, ...]:
    specs = (find_spec(name) for name in LIBRARIES)
    folders = (Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None)
    return (Path(traceback.__file__).parent, Path(str(graph.__file__)).parent, *folders)


@cache
def is_library(file: Path) -> bool:
    """Whether a file belongs to torch, to Python, to another library of the export, or to the engine."""
    if not file.is_file():  # <eval_with_key>, <frozen importlib>
        return True
    if "site-packages" in file.parts:
        return any(file.is_relative_to(folder) for folder in _folders()[1:])
    return any(file.is_relative_to(folder) for folder in _folders())


def user_frame(frames: Iterable[traceback.FrameSummary]) -> str:
    """FILE:LINE of the innermost frame outside of libraries, or ""."""
    user_frames = [frame for frame in frames if not is_library(Path(frame.filename))]
    return f"{user_frames[-1].filename}:{user_frames[-1].lineno}" if user_frames else ""


def user_frame_of_traceback(trace: TracebackType | None) -> str:
    """FILE:LINE of the user's code in an exception's traceback, or ""."""
    return user_frame(traceback.extract_tb(trace))
