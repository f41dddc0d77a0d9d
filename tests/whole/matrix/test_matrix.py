"""Each use of each shipped workflow is right, or refused before any work with a sentence that is on the list."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.whole.matrix import bundle_columns, engine_columns
from tests.whole.matrix.bench import Bench, list_workflows
from tests.whole.matrix.cell import Column, Refusal, judge, refused, right, wrong
from tests.whole.matrix.refusals import REFUSALS, STILL_WRONG

pytest.importorskip("onnxscript")

COLUMNS = {column.name: column for column in (*engine_columns.COLUMNS, *bundle_columns.COLUMNS)}
QUICK = [
    *(("text_to_image_128", column) for column in ("copy", "validate", "draw", "open", "run", "stop", "grid")),
    *((name, "stop") for name in ("class_cfg", "image_to_image", "inpaint_128", "semantic_to_image", "new-plugin")),
    *((name, "open") for name in ("layout_128", "layout_to_image_128", "super_resolution_128", "text_to_image_dit")),
    ("text_or_image", "validate"),
]
"""The flagship with the cheap uses, and one workflow of each family."""
EACH = [(name, column) for name in list_workflows() for column in COLUMNS]


@pytest.fixture(scope="session")
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """Make the bench of a workflow, once; a page's package is installed with the first that needs it."""
    benches: dict[str, Bench] = {}
    folder = tmp_path_factory.mktemp("matrix")

    def make(name: str) -> Bench:
        if name not in benches:
            benches[name] = Bench(name, folder / name.replace("/", "-"))
        return benches[name]

    return make


def check_cell(name: str, column: str, bench: Bench) -> None:
    cell = judge(COLUMNS[column], bench, REFUSALS)
    if cell.kind == "wrong" and any(entry.allows(column, name, cell) for entry in STILL_WRONG):
        pytest.xfail(cell.text)
    assert cell.kind != "wrong", cell.text
    is_listed = any(entry.column == column and re.fullmatch(entry.workflows, name) for entry in STILL_WRONG)
    assert not is_listed, f"{name}, {column} is {cell.kind} now: take it from the list STILL_WRONG"


@pytest.mark.parametrize(("name", "column"), QUICK)
def test_a_cheap_use_of_one_workflow_of_each_family_is_right(
    name: str, column: str, make_bench: Callable[[str], Bench]
) -> None:
    check_cell(name, column, make_bench(name))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), [cell for cell in EACH if cell not in QUICK])
def test_every_use_of_every_workflow_is_right_or_refused_by_the_list(
    name: str, column: str, make_bench: Callable[[str], Bench], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = make_bench(name)
    if column == "page":
        bench.onnxruntime_web = bundle_columns.install_onnxruntime_web(tmp_path_factory.getbasetemp() / "npm")
    check_cell(name, column, bench)


def test_a_refusal_counts_only_with_its_sentence_on_the_list(tmp_path: Path) -> None:
    refusing = Column("export", "", lambda bench: refused("it has no picture"))
    entry = Refusal("export", "layout.*", "no picture", "it draws none")
    bench = Bench("layout_128", tmp_path)
    assert judge(refusing, bench, [entry]).kind == "refused"
    assert judge(refusing, bench, []).kind == "wrong"
    for other in (
        Refusal("export", "layout.*", "no model", ""),
        Refusal("export", "text.*", "no picture", ""),
        Refusal("page", "layout.*", "no picture", ""),
    ):
        assert judge(refusing, bench, [other]).kind == "wrong"


def test_whatever_a_column_raises_is_a_wrong_cell(tmp_path: Path) -> None:
    def fail(bench: Bench) -> None:
        raise KeyError("layouts")

    cell = judge(Column("stop", "", fail), Bench("layout_128", tmp_path), REFUSALS)  # type: ignore[arg-type]
    assert cell == wrong("KeyError: 'layouts'")
    assert judge(Column("stop", "", lambda bench: right("sample")), Bench("x", tmp_path), REFUSALS) == right("sample")


def test_the_page_of_the_docs_has_every_row_every_column_and_every_reason() -> None:
    page = (ROOT / "docs" / "reference" / "matrix.md").read_text(encoding="utf-8")
    missing = [name for name in list_workflows() if f"| `{name}` |" not in page]
    missing += [column.name for column in COLUMNS.values() if f"| {column.name} | {column.help} |" not in page]
    missing += [entry.reason for entry in (*REFUSALS, *STILL_WRONG) if entry.reason not in page]
    assert missing == []


@pytest.mark.parametrize("entry", [*REFUSALS, *STILL_WRONG], ids=lambda entry: f"{entry.column}, {entry.workflows}")
def test_every_entry_of_the_lists_is_of_a_cell(entry: Refusal) -> None:
    assert entry.column in COLUMNS
    assert any(re.fullmatch(entry.workflows, name) for name in list_workflows())
    assert entry.reason
