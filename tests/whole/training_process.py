"""Waiting for a training that runs as a process with ``--json``."""

from __future__ import annotations

import subprocess


def after(process: subprocess.Popen[str], steps: int) -> None:
    """Wait until it has said that so many steps are done. Fails where it ends before."""
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += '"loop_progress"' in line
        if seen == steps:
            return
    raise AssertionError(f"the training ended after {seen} steps, before {steps}")
