"""Tables with named columns: as structured arrays, which a run returns and a reference run stores, and as lists.

A structured array (R) has a field for each column. Numbers without a value are NaN there, and texts without one are
empty; as lists, both are None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def make_table(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> NDArray[Any]:
    """A structured array (R) of columns with R cells each: texts, integers, floats or flags, or None."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            arrays[name] = column
            continue
        is_text = all(cell is None or isinstance(cell, str) for cell in column)
        cells = [("" if is_text else np.nan) if cell is None else cell for cell in column]
        arrays[name] = np.array(cells, dtype=str if is_text else None)
    count = max(map(len, arrays.values()), default=0)
    table = np.zeros(count, dtype=[(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    return table


def list_columns(table: NDArray[Any]) -> dict[str, list[Any]]:
    """The columns of a structured array (R) by name, with None for cells without a value."""
    columns = {name: table[name].tolist() for name in table.dtype.names or ()}
    return {name: [None if cell == "" or cell != cell else cell for cell in cells] for name, cells in columns.items()}
