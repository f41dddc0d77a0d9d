"""``run.json``: how and when the engine and the runtime write it, and the fields that both of them record."""

from __future__ import annotations

import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.files.atomic_write import write_text
from guidegraph_runtime.files.regular_files import read_json
from guidegraph_runtime.machine.termination import before_exit

RECORD = "run.json"
FORMAT = 1


@dataclass(kw_only=True)
class RunJson(ABC):
    """The `run.json` of a run that begins now."""

    started: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    _start_time: float = field(default_factory=time.perf_counter)

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """The fields of `run.json` after its status."""

    def seconds(self) -> float:
        """The seconds since the start, to the microsecond."""
        return round(time.perf_counter() - self._start_time, 6)

    def write(self, folder: Path, status: str, error: str | None = None) -> None:
        """Write `run.json` with the current state."""
        content = {"format": FORMAT, "status": status, "error": error, **self.content()}
        write_text(folder / RECORD, json.dumps(content, indent=2) + "\n", durable=status != "running")

    @contextmanager
    def keep(self, folder: Path) -> Iterator[None]:
        """Context manager: write `run.json` at the start and at the end of the run, however it ends."""
        self.write(folder, "running")
        try:
            with before_exit(lambda: self.write(folder, "cancelled", "the process was ended amid the run")):
                yield
        except BaseException as error:
            with suppress(OSError):  # report the first error
                self.write(folder, self.status_of(error), error_text(error) or type(error).__name__)
            raise
        self.write(folder, "done")

    def status_of(self, error: BaseException) -> str:
        """The status of a run that an error ended."""
        return "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if it is missing, damaged, too large, or no regular file."""
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def describe_killed_run(folder: Path) -> str:
    """A note for the user if the last run into a folder was killed; "" otherwise."""
    record = read_record(folder / RECORD) or {}
    if record.get("status") != "running" or "started" not in record:
        return ""
    started = str(record["started"])[:40]
    return f"note: the last run into '{folder}', started {started}, was killed, or could not write"


def describe_older_files(folder: Path, earlier: Mapping[str, Any] | None, outputs: Mapping[str, list[str]]) -> str:
    """A note about files in a folder that a run before wrote and this one has not replaced; "" without any.

    earlier: the record of that run, if there was one. outputs: the files of this run by output.
    """
    listed = (earlier or {}).get("outputs")
    written = {file for files in outputs.values() for file in files}
    older: list[str] = []
    for output in listed.values() if isinstance(listed, dict) else ():
        files = output.get("files") if isinstance(output, dict) else None
        older += [name for name in files or () if isinstance(name, str)] if isinstance(files, list) else []
    older = [name for name in older if name not in written and (folder / name).is_file()]
    if not older:
        return ""
    names = older[0] if len(older) == 1 else f"{older[0]} … {older[-1]}"
    verb = "is" if len(older) == 1 else "are"
    return f"note: {names} in '{folder}' {verb} of an earlier run"


def picture_text(keyword: str, format: int, content: Mapping[str, Any]) -> dict[str, str]:
    """The text chunk of a picture from which its run can be repeated."""
    return {keyword: json.dumps({"format": format, **content})}


def with_machine(versions: Mapping[str, str]) -> dict[str, str]:
    """The versions of packages, followed by the versions of Python and the system."""
    system = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    return {**versions, **system}


def summarise_files(folder: Path, outputs: Mapping[str, list[str]], listed: Mapping[str, Any] | None = None) -> str:
    """One line with the files of a run, by output; of several only the first and last, unless the output is listed."""
    names: list[str] = []
    for output, files in outputs.items():
        shown_whole = len(files) == 1 or output in (listed or {})
        names += files if shown_whole else [f"{files[0]} … {files[-1]}"]
    if len(names) == 1 and " … " not in names[0]:
        return f"wrote {folder / names[0]}"
    return f"wrote {', '.join(names)} in {folder}"
