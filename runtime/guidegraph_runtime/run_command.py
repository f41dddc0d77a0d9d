"""Run a bundle on the command line: its folder, output files, record and progress display."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.files.locks import FOLDER_LOCK, FolderBusy, hold_lock
from guidegraph_runtime.files.run_folders import RUNS, make_run_folder
from guidegraph_runtime.machine.shortages import with_shortage
from guidegraph_runtime.output_formats import FormatFailure, find_writers, write_output, write_samples
from guidegraph_runtime.printing import print_json, print_note, visible_line
from guidegraph_runtime.printing import print_line as out_line
from guidegraph_runtime.record import Record, make_record
from guidegraph_runtime.run_json import RECORD, describe_killed_run, describe_older_files, read_record, summarise_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from guidegraph_runtime.bundle.manifest_types import Operation
    from guidegraph_runtime.lora.lora_files import Lora
    from guidegraph_runtime.running.bundle import Bundle, Prepared


def run(
    bundle: Bundle,
    params: Mapping[str, Any],
    nodes: Mapping[str, Any],
    only: list[str] | None,
    out: Path | None,
    *,
    lora: Sequence[str] = (),
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Run a bundle and write its outputs into ``out``, or a new folder under ``runs/``.

    Raises ``BundleError``; for wrong arguments before anything is written.
    """
    record = make_record(bundle, params, nodes, only, lora)
    prepared = bundle.prepare(params, nodes, only)
    bundle.check_provider(prepared)
    loras = bundle.read_loras(lora)
    if Path(bundle.where).resolve() in (target := (out or RUNS).resolve(), *target.parents):
        message = "the files would be written into the bundle; choose another folder"
        raise BundleError("--out", "no-folder", message)
    try:
        folder = make_run_folder(out, bundle.manifest.name)
    except OSError as error:
        message = f"the folder for the files cannot be made: {with_shortage(str(error), error)}"
        raise BundleError("--out", "no-folder", message) from error
    with _lock_output(folder, quiet or as_json):
        earlier = read_record(folder / RECORD)
        _run_into(folder, bundle, record, params, prepared, loras=loras, as_json=as_json, quiet=quiet)
        if (note := describe_older_files(folder, earlier, record.files)) and not (as_json or quiet):
            print_note(note)


@contextmanager
def _lock_output(folder: Path, quiet: bool) -> Iterator[None]:
    """Lock the folder, and note if the last run into it was killed. Raises ``BundleError`` if another run holds it."""
    try:
        with hold_lock(folder / FOLDER_LOCK, folder, "guidegraph-run"):
            if (note := describe_killed_run(folder)) and not quiet:
                print_note(note)
            yield
    except FolderBusy as error:
        raise BundleError("--out", "folder-busy", str(error)) from None


def _run_into(
    folder: Path,
    bundle: Bundle,
    record: Record,
    params: Mapping[str, Any],
    prepared: Prepared,
    *,
    loras: Sequence[Lora],
    as_json: bool,
    quiet: bool,
) -> None:
    observer = (
        _JsonObserver() if as_json else _LineObserver() if sys.stderr.isatty() and not quiet else _SilentObserver()
    )

    def write(name: str, value: NDArray[Any]) -> None:
        output = bundle.manifest.outputs[name]
        try:
            writers = find_writers(output.port) if output.port else []
            if writers:
                write_samples(folder, name, value, output.axes, writers, record.files.setdefault(name, []))
            else:
                record.files[name] = write_output(folder, name, output.type, value, record.text)
        except FormatFailure as error:
            failures.append(f"output '{name}' {error}")
            return
        except (OSError, MemoryError) as error:
            reason = with_shortage(error_text(error), error)
            raise BundleError(bundle.where, "output-failed", f"output '{name}' has no file: {reason}") from error
        except ValueError as error:
            raise BundleError(bundle.where, "output-failed", f"output '{name}' {error}") from error
        observer.on_output(name, record.files[name])

    def record_operation(operation: Operation, seconds: float) -> None:
        record.operations[operation.node] = seconds
        observer.on_finish(operation, seconds)

    failures: list[str] = []
    start_time = time.perf_counter()
    observer.on_start(bundle.manifest.name, len(bundle.manifest.plan))
    status = "failed"
    try:
        with record.keep(folder):
            bundle.run_with(
                params,
                lora=loras,
                prepared=prepared,
                on_output=write,
                finished=record_operation,
                progress=observer.on_progress,
            )
            if failures:
                raise BundleError(bundle.where, "output-failed", "; ".join(failures))
        status = "done"
    except KeyboardInterrupt:
        status = "cancelled"
        raise
    finally:
        observer.on_end(status, time.perf_counter() - start_time)
    if not (as_json or quiet):
        out_line(summarise_files(folder, record.files))


class _SilentObserver:
    """Observes a run silently."""

    def on_start(self, name: str, total: int) -> None: ...
    def on_finish(self, operation: Operation, seconds: float) -> None: ...
    def on_progress(self, node: str, done: int, total: int) -> None: ...
    def on_output(self, name: str, files: list[str]) -> None: ...
    def on_end(self, status: str, seconds: float) -> None: ...


class _LineObserver(_SilentObserver):
    """Shows the current loop on one line of a terminal."""

    def on_progress(self, node: str, done: int, total: int) -> None:
        sys.stderr.write(f"\r\x1b[K{visible_line(node)} {done}/{total}")
        sys.stderr.flush()

    def on_end(self, status: str, seconds: float) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class _JsonObserver(_SilentObserver):
    """Prints each event as a line of JSON, like ``guidegraph run --json``."""

    def on_start(self, name: str, total: int) -> None:
        self._print_event("run_started", workflow=name, total=total)

    def on_finish(self, operation: Operation, seconds: float) -> None:
        self._print_event(
            "node_finished", path=f"nodes.{operation.node}", node=operation.op, seconds=seconds, origin="computed"
        )

    def on_progress(self, node: str, done: int, total: int) -> None:
        self._print_event("loop_progress", path=f"nodes.{node}", done=done, total=total, values={})

    def on_output(self, name: str, files: list[str]) -> None:
        self._print_event("output_ready", name=name, files=files)

    def on_end(self, status: str, seconds: float) -> None:
        self._print_event("run_finished", status=status, seconds=seconds)

    def _print_event(self, event: str, **fields: Any) -> None:
        print_json({"event": event, **fields})
