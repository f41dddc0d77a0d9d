"""Drawings are complete, boxes do not overlap, and text is escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from guidegraph import Image, Sample, node
from guidegraph.drawing.diagram import build_diagram
from guidegraph.drawing.layout import Size, Wire, lay_out
from guidegraph.drawing.svg import draw_svg
from guidegraph.graph.errors import Mark
from guidegraph.graph.ir import Call, Graph, GraphOutput, Loop, Parameter
from guidegraph.graph.node import get_spec
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Carry, Index, Item, Literal, Many, Output, Param
from guidegraph.graph.types import ANY, to_port_type
from tests.paths import ROOT
from tests.work_counter import growth

MARK = Mark("w.yaml", 1, 1)
SVG = "{http://www.w3.org/2000/svg}"


@node("toy.start")
def start(*, text: str = "", size: int = 8) -> Sample:
    """Begins <here> & now."""
    raise NotImplementedError


@node("toy.join")
def join(x: Any = None, y: Any = None) -> Image:
    """Joins."""
    raise NotImplementedError


def make_call(key: str, function: Any, inputs: Mapping[str, Any] | None = None, **settings: Any) -> Call:
    return Call(key, get_spec(function), inputs or {}, settings, MARK)


def graph(ops: list[Call | Loop], outputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> Graph:
    declared = {
        name: Parameter(name, Port(name, type(v), to_port_type(type(v)), v), v, False, "", MARK, Path())
        for name, v in (params or {}).items()
    }
    graph_outputs = {name: GraphOutput(source, to_port_type(Image), MARK) for name, source in outputs.items()}
    return Graph(Path("demo.yaml"), declared, {op.key: op for op in ops}, graph_outputs, {})


def build_nested_loops() -> Graph:
    """A loop in a loop, with a carry, a closure, a collected value and parameters at every depth."""
    inner = Loop(
        "outer.body.inner",
        Carry("outer", "x"),
        "row",
        {"y": Output("outer.body.first", "out")},
        {
            "outer.body.inner.body.deep": make_call(
                "outer.body.inner.body.deep",
                join,
                {
                    "x": Carry("outer.body.inner", "y"),
                    "y": Many((Item("outer.body.inner"), Param("scale"), Index("outer"))),
                },
            )
        },
        {"y": Output("outer.body.inner.body.deep", "out")},
        {},
        {"y": to_port_type(Image)},
        MARK,
    )
    outer = Loop(
        "outer",
        Output("begin", "out"),
        "t",
        {"x": Output("begin", "out")},
        {
            "outer.body.first": make_call(
                "outer.body.first", join, {"x": Carry("outer", "x"), "y": Output("other", "out")}
            ),
            "outer.body.inner": inner,
        },
        {"x": Output("outer.body.inner", "y")},
        {"each": Output("outer.body.first", "out")},
        {"x": to_port_type(Image), "each": ANY},
        MARK,
    )
    begin = make_call("begin", start, text=Param("prompt"), size=Literal(16))
    other = make_call("other", start, text=Literal('a <b> & "c" ]]> that is rather long, too long to be shown'))
    outputs = {"result": Output("outer", "x"), "all": Output("outer", "each")}
    return graph([begin, other, outer], outputs, {"prompt": "</svg><script>alert(1)</script>", "scale": 2.5})


def parse_svg(graph: Graph) -> ET.Element:
    return ET.fromstring(draw_svg(graph))


def texts(root: ET.Element, kind: str) -> list[str]:
    return [e.text or "" for e in root.iter(f"{SVG}text") if kind in e.get("class", "").split()]


def shapes(root: ET.Element, tag: str, kind: str) -> list[ET.Element]:
    return [e for e in root.iter(SVG + tag) if kind in e.get("class", "").split()]


def test_every_node_loop_parameter_and_output_is_drawn() -> None:
    root = parse_svg(build_nested_loops())
    assert texts(root, "name") == ["demo"]
    assert sorted(texts(root, "title")) == ["begin", "deep", "first", "inner", "other", "outer"]
    assert {"for each t of begin", "for each row of outer: x", "toy.join"} <= set(texts(root, "sub"))
    assert sorted(texts(root, "outname")) == ["all", "result"]
    assert {"prompt", "scale"} <= set(texts(root, "param"))
    assert "size = 16" in texts(root, "note")
    assert len(shapes(root, "rect", "loop")) == 2


def test_carries_are_dashed_back_edges_and_closures_cross_the_box() -> None:
    picture = build_diagram(build_nested_loops())
    outer = picture.boxes["outer"]
    assert outer.panel is not None
    assert outer.panel.backs == [("x", "carry.x")]
    assert {port.label for port in outer.panel.lefts.values()} == {"t", "x", "other", "scale", "index"}
    assert outer.ins["scale"].pill == "scale"
    assert Wire("other", "out", "outer", "other") in picture.wires
    inner = outer.panel.boxes["outer.body.inner"].panel
    assert inner is not None
    assert {port.label for port in inner.lefts.values()} == {"row", "y", "scale", "outer: index"}
    assert len(shapes(parse_svg(build_nested_loops()), "path", "back")) == 2


def test_text_is_escaped_and_no_remote_resource_is_used() -> None:
    svg = draw_svg(build_nested_loops())
    assert "<script" not in svg
    assert "a <b>" not in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    ET.fromstring(svg)


def test_the_same_graph_gives_the_same_drawing() -> None:
    assert draw_svg(build_nested_loops()) == draw_svg(build_nested_loops())


def box(element: ET.Element) -> tuple[float, float, float, float]:
    x, y, width, height = (float(element.attrib[k]) for k in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_boxes_do_not_overlap_and_bodies_lie_inside_their_loop() -> None:
    root = parse_svg(build_nested_loops())
    nodes = [box(e) for e in shapes(root, "rect", "node")]
    assert not any(overlap(a, b) for a, b in combinations(nodes, 2))
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (box(e) for e in shapes(root, "rect", "loop"))
    assert (ax0 < bx0) == (ay0 < by0) == (ax1 > bx1) == (ay1 > by1)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(b[0] > 0 and b[1] > 0 and b[2] < width and b[3] < height for b in nodes)


def test_graphs_of_one_node_and_without_wires_are_drawn() -> None:
    assert texts(parse_svg(graph([make_call("a", start)], {})), "title") == ["a"]
    assert texts(
        parse_svg(graph([make_call("a", start), make_call("b", start)], {"o": Output("b", "out")})), "title"
    ) == [
        "a",
        "b",
    ]


def long_chain(count: int, dense: bool) -> Graph:
    """A chain whose nodes also read the first one, or the one three before."""
    ops: list[Call | Loop] = [make_call("n0", start)]
    for i in range(1, count):
        far = Output("n0" if dense else f"n{max(0, i - 3)}", "out")
        ops.append(make_call(f"n{i}", join, {"x": Output(f"n{i - 1}", "out"), "y": far}))
    return graph(ops, {"o": Output(f"n{count - 1}", "out")})


@pytest.mark.parametrize(("count", "dense"), [(3_000, True), (1_000, False)])
def test_graphs_of_thousands_of_nodes_are_drawn(count: int, dense: bool) -> None:
    assert draw_svg(long_chain(count, dense)).count('class="node"') == count


@pytest.mark.parametrize(("count", "dense"), [(400, True), (100, False)])
def test_the_work_of_drawing_is_linear(count: int, dense: bool) -> None:
    assert growth(lambda nodes: draw_svg(long_chain(nodes, dense)), count) < 2.2


def test_the_layout_untangles_wires_and_goes_from_left_to_right() -> None:
    plain = Size(50, 40, {"i": 20}, {"o": 20})
    sizes = dict.fromkeys("abcdefg", plain)
    wires = [Wire(s, "o", t, "i") for s, t in ("af", "be", "cd", "dg", "ag")]
    placed = lay_out(sizes, wires, first="abc", last="g")
    assert all(placed.corners[w.source][0] + 50 < placed.corners[w.target][0] for w in wires)
    partner = {"a": "f", "b": "e", "c": "d"}
    below = sorted("abc", key=lambda k: placed.corners[k][1])
    assert [partner[k] for k in below] == sorted("def", key=lambda k: placed.corners[k][1])
    assert [x for x, _ in placed.ways[wires[-1]]] == sorted(x for x, _ in placed.ways[wires[-1]])


@pytest.mark.parametrize("workflow", sorted((ROOT / "workflows").rglob("*.yaml")), ids=str)
def test_shipped_workflows_are_drawn(workflow: Path) -> None:
    from guidegraph.drawing.diagram import local_name
    from guidegraph.graph.ir import walk
    from guidegraph.graph.resolution.load import build
    from guidegraph.plugins.manager import default_registry

    graph = build(workflow, default_registry(["guidegraph_diffusers"], entry_points=False))
    assert sorted(texts(parse_svg(graph), "title")) == sorted(
        local_name(op.key) for op in walk(graph.ops, previews=False)
    )
