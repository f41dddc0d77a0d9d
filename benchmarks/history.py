"""Write docs/understand/history.md from the measurements in benchmarks/history.jsonl.

    python benchmarks/history.py [--check]

`python benchmarks/waiting.py --save` appends the measurements. check: exit with 1 if the page is not that of the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

STORED = Path(__file__).with_name("history.jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "understand" / "history.md"
HEAD = """# How long a person waits

`python benchmarks/waiting.py --beside --save` measures processes from start to end, in turns, and stores the medians.
`python benchmarks/history.py` makes this page from them. Each cell is seconds on the clock / CPU seconds, with one
thread. The clock counts the waits for other processes, so compare columns by CPU seconds; the average number of
waiting processes is in the column's head. The workflow is `class_cfg.yaml` with 3 steps and batch 1. "run:" are the
parts of one run from Python. "beside:" are processes without the engine: the same network in a PyTorch loop, all graphs
of the bundle three times in onnxruntime or OpenVINO, and a tiny Stable Diffusion of 3 steps in diffusers.
"""


def make_page(lines: list[dict[str, Any]]) -> str:
    """The page: a column for each stored measurement, in order."""
    names = list(dict.fromkeys(name for line in lines for name in line["rows"]))
    heads = [f"{line['date']}, `{line['commit']}`, load {line['load']}" for line in lines]
    table = [f"| | {' | '.join(heads)} |", f"| --- |{' --- |' * len(lines)}"]
    for name in sorted(names):
        cells = [" / ".join(f"{value:.2f}" for value in line["rows"].get(name, [])) for line in lines]
        table.append(f"| {name} | {' | '.join(cells)} |")
    machines = [f"- `{line['commit']}`: {line['machine']}" for line in lines]
    return "\n".join([HEAD, *table, "", "Machines:", "", *machines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = make_page([json.loads(line) for line in STORED.read_text(encoding="utf-8").splitlines()])
    if options.check and PAGE.read_text(encoding="utf-8") != page:
        raise SystemExit(f"{PAGE} is not the page of {STORED.name}: run python benchmarks/history.py")
    if not options.check:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
