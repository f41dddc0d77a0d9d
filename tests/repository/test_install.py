"""What `make` shows of an installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tools.install import progress_line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.1 MB)\n",
            "  downloading torch, 190.1 MB",
        ),
        ("Downloading https://a.b/nvidia_cublas-13.1-py3-none.whl (1.2 GB)", "  downloading nvidia_cublas, 1.2 GB"),
        ("  Downloading pluggy-1.6.0-py3-none-any.whl (20 kB)\n", None),
        ("  Downloading rich-14.0-py3-none-any.whl (0.2 MB)\n", None),
        ("Collecting torch<3,>=2.9\n", None),
        ("Installing collected packages: mpmath, sympy, torch\n", "  unpacking 3 packages"),
    ],
)
def test_large_downloads_and_the_number_of_packages_are_shown(line: str, shown: str | None) -> None:
    assert progress_line(line) == shown


def test_install_exits_like_pip_and_shows_its_error(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "install.py"), "--no-index", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ERROR" in done.stderr
