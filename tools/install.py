"""`pip install` with short output, for `make`: the large downloads and the number of installed packages.

    python tools/install.py PIP_ARGUMENTS…

It exits as pip does; pip's own errors and warnings are shown as they are. Needs nothing but Python and pip.
"""

from __future__ import annotations

import re
import subprocess
import sys

LARGE_MB = 10
DOWNLOAD = re.compile(r"\s*Downloading (?P<file>\S+) \((?P<size>[\d.]+) (?P<unit>MB|GB)\)")
INSTALLING = "Installing collected packages: "


def progress_line(line: str) -> str | None:
    """What to show of a line of pip's output, or None."""
    if match := DOWNLOAD.match(line):
        megabytes = float(match["size"]) * (1000 if match["unit"] == "GB" else 1)
        name = match["file"].rpartition("/")[2].partition("-")[0]
        return f"  downloading {name}, {match['size']} {match['unit']}" if megabytes >= LARGE_MB else None
    if line.startswith(INSTALLING):
        return f"  unpacking {len(line.removeprefix(INSTALLING).split(','))} packages"
    return None


def main() -> int:
    """Run pip with the arguments of this command, and give its exit status."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    with subprocess.Popen([*command, *sys.argv[1:]], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if (shown := progress_line(line)) is not None:
                print(shown, flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
