"""Sources are keys of tables: equal ones are one key, and those of two kinds are never the same."""

from __future__ import annotations

from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Param


def test_sources_of_two_kinds_differ_though_their_names_are_the_same() -> None:
    sources = [Output("a", "b"), Carry("a", "b"), Item("a", "b"), Item("a"), Index("a"), Param("a")]
    assert len({*sources, Many((Param("a"),)), Literal("a"), Literal("a")}) == len(sources) + 3
    assert {source: n for n, source in enumerate(sources)}[Carry("a", "b")] == 1
