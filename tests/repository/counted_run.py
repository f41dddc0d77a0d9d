"""Count what a run costs its reader: python tests/repository/counted_run.py FOLDER.

Prints a JSON object. modules, hops and calls: the modules of ours that a run of text_to_image.yaml of three steps
enters, how often control moves from one module to another, and the calls of our functions, in all threads. frames:
our frames on the stack at the first node.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

# Imported before, so that their imports are not counted.
import numpy as np  # noqa: F401
import torch  # noqa: F401
import yaml  # noqa: F401

from guidegraph.commands import main

WORKFLOW = Path(__file__).parents[2] / "workflows" / "text_to_image.yaml"


class CallCounter:
    """A profiler that counts the calls of our functions by module, the hops, and the frames at the first node."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.hops = 0
        self.frames: int | None = None
        self._last = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event != "call" or not module.startswith("guidegraph") or frame.f_code.co_name == "<module>":
            return
        self.calls[module] += 1
        if module != self._last:
            self.hops, self._last = self.hops + 1, module
        if self.frames is None and ".nodes." in module:
            names = [str(caller.f_globals.get("__name__", "")) for caller in _stack(frame)]
            if ".graph." in names[1]:
                self.frames = sum(name.startswith("guidegraph") for name in names)


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def count_calls(function: Callable[[], object]) -> CallCounter:
    """Call a function and count in it and in the threads that it starts. A command's exit is its end."""
    counter = CallCounter()
    sys.setprofile(counter)
    threading.setprofile(counter)
    try:
        function()
    except SystemExit:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type] # None ends it
    return counter


def count_run(folder: Path) -> dict[str, int | None]:
    """The figures of a run whose outputs are written in a folder."""
    os.chdir(folder)
    sys.argv = ["guidegraph", "run", str(WORKFLOW), "--set", "steps=3", "--out", "out", "--device", "cpu"]
    run = count_calls(main)
    return {
        "modules": len(run.calls),
        "hops": run.hops,
        "calls": run.calls.total(),
        "frames": run.frames,
    }


if __name__ == "__main__":
    figures = count_run(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(figures)}\n")  # the command leaves the last line of its progress open
