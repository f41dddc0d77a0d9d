"""The walk backwards from needed sources."""

from __future__ import annotations

from guidegraph.graph.errors import Mark
from guidegraph.graph.ir import Call, Op
from guidegraph.graph.node import get_spec
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.sources import Literal, Many, Output, Param, Source
from tests.graph.engine_nodes import add, total

MARK = Mark("w.yaml", 1, 1)


def make_sum(key: str, *keys: str) -> Call:
    values = Many(tuple(Output(name, "out") for name in keys))
    return Call(key, get_spec(total), {"values": values}, {}, MARK)


def make_ops() -> dict[str, Op]:
    """a → b → d, and c → d; e is read by none."""
    a = Call("a", get_spec(add), {"a": Param("x"), "b": Literal(1.0)}, {}, MARK)
    ops: list[Op] = [a, make_sum("b", "a"), make_sum("c"), make_sum("d", "b", "c"), make_sum("e", "a")]
    return {op.key: op for op in ops}


def test_dependencies_are_found_through_lists_and_stay_in_order() -> None:
    assert list(find_dependencies(make_ops(), [Output("d", "out")])) == ["a", "b", "c", "d"]
    assert list(find_dependencies(make_ops(), [Output("c", "out"), Output("b", "out"), Param("x")])) == ["a", "b", "c"]
    assert find_dependencies(make_ops(), [Param("x")]) == {}


def test_operations_that_are_kept_keep_their_dependencies() -> None:
    assert list(find_dependencies(make_ops(), [], keep=lambda op: op.key in "ce")) == ["a", "c", "e"]


def test_an_operation_can_hide_its_sources() -> None:
    """As one whose value is in a cache does."""

    def list_reads(op: Op) -> list[Source]:
        return [] if op.key == "b" else list(op.sources())

    assert list(find_dependencies(make_ops(), [Output("d", "out")], reads=list_reads)) == ["b", "c", "d"]
