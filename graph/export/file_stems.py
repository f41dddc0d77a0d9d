"""Names for the files of a bundle, which every system can hold, from names of a workflow."""

from __future__ import annotations

import re
from collections.abc import Iterable

from guidegraph_runtime.bundle.manifest_types import file_name_problem

_LONGEST = 100


def choose_stems(names: Iterable[str]) -> dict[str, str]:
    """For each name, the name of a file without folder and suffix: the name itself if every system can hold it.

    Letters outside ASCII become `_`, and names that differ only in case from one before get a number.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:_LONGEST]
        plain = plain if file_name_problem(plain) is None else f"_{plain.strip('.')}"
        stem, number = plain, 2
        while stem.casefold() in taken:
            stem, number = f"{plain}_{number}", number + 1
        taken.add(stem.casefold())
        stems[name] = stem
    return stems
