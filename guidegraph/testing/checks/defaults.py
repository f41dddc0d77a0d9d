"""The defaults of a node have the types and bounds that its signature declares."""

from __future__ import annotations

from pathlib import Path

from guidegraph.graph.literals import convert_literal
from guidegraph.graph.types import takes_literal
from guidegraph.testing.case import NodeCase


def check_defaults(case: NodeCase) -> None:
    """Each default is a value that a workflow could give. Raises ``Nonconforming`` for the first that is not."""
    for port in case.spec.ports.values():
        if port.required or not (takes_literal(port.type) or port.default is None):
            continue
        try:
            convert_literal(port, port.default, Path())
        except ValueError as error:
            raise case.error(
                f"the default of '{port.name}' to fit its annotation",
                str(error),
                "correct the default, or the annotation: a default is not checked when the node runs",
            ) from None
