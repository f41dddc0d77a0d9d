"""The matrices of a sweep over two parameters."""

from __future__ import annotations

import re

from guidegraph.nodes.table import Table
from guidegraph_lab.report.sections import render_matrices

CELLS = Table(
    {
        "sampler": ["ddim"] * 4 + ["heun"] * 4,
        "scale": [2.0, 2.0, 4.0, 4.0] * 2,
        "seed": [0, 1] * 4,
        "score": [1.0, 3.0, 5.0, 5.0, 0.0, 0.0, 9.0, None],
        "same": [1.0] * 8,
    }
)
SWEPT, OUTPUTS = ["sampler", "scale", "seed"], ["score", "same"]


def read_rows(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_a_quantity_is_a_matrix_of_means_over_seeds() -> None:
    html = render_matrices(CELLS, SWEPT, OUTPUTS)
    assert html is not None
    assert read_rows(html) == [["sampler \\ scale", "2", "4"], ["ddim", "2", "5"], ["heun", "0", "9"]]
    assert "Means over up to 2 seeds." in html
    assert 'class="n shade0">0<' in html
    assert 'class="n shade4">9<' in html


def test_a_third_parameter_has_a_matrix_for_each_value() -> None:
    cells = Table({**{n: [*CELLS[n], *CELLS[n]] for n in CELLS}, "steps": [4] * 8 + [8] * 8})
    html = render_matrices(cells, ["steps", *SWEPT], OUTPUTS)
    assert html is not None
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["score, steps = 4", "score, steps = 8"]


def test_a_sweep_over_one_parameter_has_no_matrix() -> None:
    cells = Table({n: CELLS[n][:4] for n in CELLS})
    assert render_matrices(cells, SWEPT, OUTPUTS) is None
