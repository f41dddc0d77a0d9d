"""Files of loops' states: one safetensors file with a checksum, written atomically and read without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.stopping.loop_state import LoopState
from guidegraph.graph.trust.file_checks import require_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.graph.types import register_structured
from guidegraph.graph.values.serialise import DamagedFile, read_checked, write_checked

FORMAT = "guidegraph-loop-2"
BAD_STATE = "bad-state"


def write_state_file(path: Path, state: LoopState, run: Mapping[str, Any]) -> None:
    """Write a state and the JSON of its run. Raises ``OSError``; an earlier file then stays whole."""
    metadata = {
        "format": FORMAT,
        "loop": state.loop,
        "done": str(state.done),
        "total": str(state.total),
        "host": json.dumps(sorted(state.host)),
        "tree": json.dumps(state.tree),
        "run": json.dumps(run),
    }
    write_checked(path, state.tensors, metadata)


def read_state_file(path: Path) -> tuple[LoopState, dict[str, Any]]:
    """A state and the JSON of its run. Raises ``WorkflowError`` that names the file for any other file."""
    register_structured()
    try:
        require_regular(path)
        metadata, tensors = read_checked(path)
    except FileNotFoundError:
        raise state_error(path, "missing-file", "there is no such file") from None
    except (OSError, LimitExceeded) as error:
        raise state_error(path, BAD_STATE, f"it cannot be read: {error}") from error
    except DamagedFile as error:
        raise state_error(path, BAD_STATE, f"it is not a state of a loop, or is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        message = "it is not a state of a loop: expected a file that 'guidegraph run --stop-at' wrote with this version"
        raise state_error(path, BAD_STATE, message)
    try:
        host = frozenset(json.loads(metadata["host"]))
        done, total = int(metadata["done"]), int(metadata["total"])
        state = LoopState(metadata["loop"], done, total, json.loads(metadata["tree"]), tensors, host)
        run = json.loads(metadata["run"])
        if not isinstance(run, dict) or not 0 < done <= total:
            raise ValueError("its numbers are not those of a loop")
        if not isinstance(state.read_carry(), dict) or not isinstance(state.read_collected(), dict):
            raise TypeError("its values have no names")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise state_error(path, BAD_STATE, f"its contents are damaged: {error}") from error
    return state, run


def state_error(path: Path, code: str, message: str) -> WorkflowError:
    """The error for a file that a run cannot resume from."""
    return WorkflowError([Problem(Mark(str(path), 1, 1), code, message)])
