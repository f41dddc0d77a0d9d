"""A node has a docstring, which `guidegraph nodes` shows."""

from __future__ import annotations

import re

from guidegraph.graph.node_json import read_parameter_docs
from guidegraph_testing.case import NodeCase


def check_docs(case: NodeCase) -> None:
    """The docstring begins with a sentence and names every setting; the module's may document shared ones."""
    spec = case.spec
    if not spec.doc:
        raise case.error(
            "a docstring", "none", "write one sentence on what the node gives, and name the paper and the equation"
        )
    if not re.search(r"[.:?!)…]$", spec.summary) or len(spec.summary.split()) < 3:
        raise case.error(
            "a docstring that begins with a sentence",
            f"'{spec.summary}'",
            "write what the node gives in a sentence that ends with a full stop",
        )
    documented = read_parameter_docs(spec)
    missing = [n for n in spec.settings if n not in documented and not re.search(rf"\b{re.escape(n)}\b", spec.doc)]
    if missing:
        raise case.error(
            "a docstring that says what each setting does",
            f"no word on {', '.join(missing)}",
            f"add a sentence, such as '{missing[0]}: what it changes, its range, and where it does nothing.'",
        )
