"""Print the matrix of shipped workflows and what a person does with them, as Markdown.

    python tools/matrix.py -o matrix.json
    python tools/matrix.py -o matrix.json --workflows text_to_image_128 --columns stop,change
    python tools/matrix.py -o matrix.json --again        # judge the wrong cells again

Each cell is kept in the file as soon as it is judged, so an interrupted run goes on. What is made of a workflow, such
as its bundle, is kept in a folder beside the file. The column `page` needs npm, chromium and chromedriver. Needs the
extra `test`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph_runtime.files.atomic_write import write_text
from tests.whole.matrix import bundle_columns, engine_columns
from tests.whole.matrix.bench import Bench, list_workflows
from tests.whole.matrix.cell import Cell, judge
from tests.whole.matrix.refusals import REFUSALS, STILL_WRONG

COLUMNS = {column.name: column for column in (*engine_columns.COLUMNS, *bundle_columns.COLUMNS)}
Cells: TypeAlias = dict[str, dict[str, dict[str, str]]]
PAGE = """\
# Every use of every workflow

Each shipped workflow is taken through everything that a person does with one, and judged by what comes out: a picture
must be the engine's, bit for bit or within the documented 2/255, with each parameter of the form changed in turn. A
refusal counts only if it comes before any heavy work and says what to do instead. Runs have 3 steps and one picture.
A cell that is empty has not been judged yet.

```
python tools/matrix.py -o matrix.json > docs/reference/matrix.md
pytest tests/whole/matrix              # a quick part; with -m "slow or not slow", every cell
```

The first command takes about an hour on one core, and goes on where it was interrupted. It needs the extra `test`, and
for the column `page` npm, chromium and chromedriver. `new-plugin` is the workflow that `guidegraph new-plugin` writes.
"""
SIGNS = {"right": "✓", "refused": "refused", "wrong": "**wrong**", "absent": "–"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file of the cells")
    parser.add_argument("--workflows", default=",".join(list_workflows()), help="names, separated by commas")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="names, separated by commas")
    parser.add_argument("--again", action="store_true", help="judge cells again that were wrong")
    parser.add_argument("--print", action="store_true", help="judge nothing, and print the cells of the file")
    options = parser.parse_args()
    cells: Cells = json.loads(options.output.read_text()) if options.output.exists() else {}
    workflows, columns = options.workflows.split(","), options.columns.split(",")
    if unknown := [*({*workflows} - {*list_workflows()}), *({*columns} - {*COLUMNS})]:
        parser.error(f"there is no {', '.join(unknown)}; columns: {', '.join(COLUMNS)}")
    if not options.print:
        judge_cells(options.output, cells, workflows, columns, options.again)
    for line in format_matrix(cells, workflows, columns):
        print(line)


def judge_cells(file: Path, cells: Cells, workflows: list[str], columns: list[str], again: bool) -> None:
    """Judge the cells that the file does not have, and write each into it."""
    work = file.resolve().with_suffix("")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    web = bundle_columns.install_onnxruntime_web(work / "npm") if "page" in columns else ""
    for name in workflows:
        bench = Bench(name, work / name.replace("/", "-"), web)
        for column in columns:
            kept = cells.setdefault(name, {}).get(column)
            if kept is not None and not (again and kept["kind"] == "wrong"):
                continue
            cell = judge(COLUMNS[column], bench, REFUSALS)
            cells[name][column] = {"kind": cell.kind, "text": cell.text, "commit": commit}
            write_text(file, json.dumps(cells, indent=1, ensure_ascii=False) + "\n")
            print(f"{name}, {column}: {cell.kind} {cell.text}", file=sys.stderr, flush=True)


def format_matrix(cells: Cells, workflows: list[str], columns: list[str]) -> list[str]:
    """The lines of the page: the table, its counts, and the reasons of all cells that are not right."""
    rows = [["workflow", *columns]]
    for name in workflows:
        kinds = [cells.get(name, {}).get(column, {}).get("kind", "") for column in columns]
        rows.append([f"`{name}`", *(SIGNS.get(kind, "") for kind in kinds)])
    lines = [*PAGE.splitlines(), "", *(f"| {' | '.join(row)} |" for row in rows)]
    lines.insert(len(lines) - len(workflows), f"|{' --- |' * (len(columns) + 1)}")
    lines += ["", "## Uses", "", "| column | use | right | refused | wrong | without meaning |", f"|{' --- |' * 6}"]
    for column in columns:
        counts = Counter(cells.get(name, {}).get(column, {}).get("kind", "") for name in workflows)
        numbers = " | ".join(str(counts[kind]) for kind in ("right", "refused", "wrong", "absent"))
        lines.append(f"| {column} | {COLUMNS[column].help} | {numbers} |")
    for kind, title in (("refused", "Refused"), ("wrong", "Wrong"), ("absent", "Without meaning")):
        reasons: dict[tuple[str, str], list[str]] = {}
        for name in workflows:
            for column in columns:
                kept = cells.get(name, {}).get(column, {})
                if kept.get("kind") == kind:
                    reasons.setdefault((find_reason(name, column, kept), column), []).append(f"`{name}`")
        if reasons:
            lines += ["", f"## {title}", ""]
            lines += [f"- {column}: {', '.join(names)}. {text}" for (text, column), names in sorted(reasons.items())]
    return lines


def find_reason(name: str, column: str, kept: dict[str, str]) -> str:
    """The reason of the lists for a cell; the cell's own words if they have none."""
    cell = Cell(kept["kind"], kept["text"])  # type: ignore[arg-type]
    return next((e.reason for e in (*REFUSALS, *STILL_WRONG) if e.allows(column, name, cell)), cell.text)


if __name__ == "__main__":
    main()
