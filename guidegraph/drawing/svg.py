"""Drawing of a graph as a self-contained SVG: loop bodies as boxes, wires coloured by type, no remote resources."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from guidegraph.drawing.diagram import LEFT, RIGHT, Box, Dot, Panel, build_diagram, collect_types, format_value
from guidegraph.drawing.layout import Key, Layout, Size, Wire, lay_out
from guidegraph.drawing.style import ARROW, STYLE, Palette, clip_text, escape, scope_css, text_width
from guidegraph.graph.ir import Graph, find_loops, list_calls, walk

PAD = 12.0
ROW = 18.0
HEADER = 44.0
NOTE = 15.0
LANE = 8.0
MARGIN = 24.0
LEAST_IN_NOTEBOOK = 0.6
"""A drawing is scaled down to this share of its size; a narrower notebook scrolls."""


def draw_svg(graph: Graph, scope: str = "", live: bool = False) -> str:
    """Draw a validated graph; returns the text of an SVG file.

    scope: a class name for a drawing embedded in a page: its styles and marker then do not affect the page.
    live: for a page that has the styles (``page_css``) and shows one drawing: without them, each node and loop has its
    path in ``data-node``, each dot and wire the link to its source in ``data-link`` and the path of its own link in
    ``data-path``, and unlinked input ports are drawn.
    """
    panel = build_diagram(graph, live)
    measured = _measure_panels(panel)
    palette = Palette(collect_types(panel))
    params = [(name, "required" if p.required else format_value(p.default, 48)) for name, p in graph.params.items()]
    body = measured[id(panel)]
    width = max(body.placed.width + 2 * MARGIN, 420.0)
    header, top = _draw_header(graph, params, width, live)
    legend, height = _draw_legend(palette, width, top + body.placed.height + MARGIN + 8)
    width = max(width, legend_width(palette) if len(palette.names) < 4 else width)
    class_attribute = f' class="{scope}"' if scope else ""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg"{class_attribute} width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(graph.name)}">',
        f"<title>{escape(graph.name)}</title>",
        *([] if live else [f"<style>{scope_css(STYLE + palette.css(), scope)}</style>"]),
        ARROW.replace('id="back"', f'id="{scope}-back"') if scope else ARROW,
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="10"/>',
        *header,
        *_draw_panels(panel, measured, palette, MARGIN, top, live),
        *legend,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


@dataclass
class _MeasuredPanel:
    """A panel after layout. ``pills``: for each box, the width of the pills left of it."""

    placed: Layout
    sizes: dict[Key, Size]
    pills: dict[str, float]


def draw_for_notebook(graph: Graph) -> str:
    """The drawing of a graph as HTML for ``_repr_html_``: it scrolls if it is wide, and its styles stay its own."""
    content = repr(sorted(graph.sources.items()))
    scope = f"guidegraph-{hashlib.sha256(content.encode(errors='surrogatepass')).hexdigest()[:12]}"
    svg = draw_svg(graph, scope).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    size = re.search(r'width="(\d+)"', svg)
    assert size is not None
    style = f"width:100%;max-width:{size[1]}px;min-width:{round(int(size[1]) * LEAST_IN_NOTEBOOK)}px;height:auto"
    svg = re.sub(r'width="\d+" height="\d+"', f'style="{style}"', svg, count=1)
    return f'<div style="overflow-x:auto">{svg}</div>'


def _measure_panels(top: Panel) -> dict[int, _MeasuredPanel]:
    """Lay out all panels, by ``id``; innermost first, since the size of a loop's box depends on its panel."""
    order, pending = [], [top]
    while pending:
        panel = pending.pop()
        order.append(panel)
        pending += [box.panel for box in panel.boxes.values() if box.panel]
    measured: dict[int, _MeasuredPanel] = {}
    for panel in reversed(order):
        sizes: dict[Key, Size] = {}
        pills: dict[str, float] = {}
        lanes = _lanes_width(panel)
        for name, port in panel.lefts.items():
            sizes[LEFT, name] = Size(text_width(port.label, 11) + 12 + lanes, ROW, {}, {"": ROW / 2})
        for key, box in panel.boxes.items():
            pills[key] = max((_pill_width(p.pill) + 8 for p in box.ins.values() if p.pill), default=0.0)
            sizes[key] = _loop_size(box, measured, pills[key]) if box.panel else _node_size(box, pills[key])
        for name, port in panel.rights.items():
            label = text_width(port.label, 11) + 12 + lanes if panel is not top else _pill_width(port.label)
            sizes[RIGHT, name] = Size(label, ROW if panel is not top else 24, {"": ROW / 2 if panel is not top else 12})
        first, last = [(LEFT, n) for n in panel.lefts], [(RIGHT, n) for n in panel.rights]
        measured[id(panel)] = _MeasuredPanel(lay_out(sizes, list(panel.wires), first, last), sizes, pills)
    return measured


def _lanes_width(panel: Panel) -> float:
    return LANE * len(panel.backs) + (9 if panel.backs else 0)


def _pill_width(label: str) -> float:
    return text_width(label, 11) + 18


def _node_size(box: Box, pill: float) -> Size:
    rows = max(len(box.ins), len(box.outs))
    ins = max((text_width(p.label, 11) for p in box.ins.values()), default=0.0)
    outs = max((text_width(p.label, 11) for p in box.outs.values()), default=0.0)
    width = max(
        text_width(box.title, 13, bold=True) + 2 * PAD,
        text_width(box.subtitle, 11) + 2 * PAD,
        ins + outs + 2 * PAD + (18 if ins and outs else 0),
        max((text_width(n, 10.5) for n in box.notes), default=0.0) + 2 * PAD,
        104.0,
    )
    height = HEADER + rows * ROW + (len(box.notes) * NOTE + 8 if box.notes else 0) + (6 if rows or box.notes else -2)
    return Size(
        width + pill,
        height,
        {name: HEADER + (i + 0.5) * ROW for i, name in enumerate(box.ins)},
        {name: HEADER + (i + 0.5) * ROW for i, name in enumerate(box.outs)},
    )


def _loop_size(box: Box, measured: dict[int, _MeasuredPanel], pill: float) -> Size:
    assert box.panel is not None
    inner = measured[id(box.panel)]
    top = _loop_top(box)
    middle = {k: y + inner.sizes[k].height / 2 for k, (_, y) in inner.placed.corners.items()}
    return Size(
        max(inner.placed.width, text_width(box.subtitle, 11) + text_width(box.title, 13, bold=True) + 40) + pill,
        top + inner.placed.height + 14 + _lanes_width(box.panel),
        {name: top + middle[LEFT, name] for name in box.ins},
        {name: top + middle[RIGHT, name] for name in box.outs},
    )


def _loop_top(box: Box) -> float:
    return HEADER - 4 + len(box.notes) * NOTE


def _draw_panels(
    top: Panel, measured: dict[int, _MeasuredPanel], palette: Palette, x: float, y: float, live: bool
) -> list[str]:
    """The elements of all panels: wires below boxes, and the panel of each loop above its box."""
    parts: list[str] = []
    pending = [(top, x, y)]
    while pending:
        panel, left, upper = pending.pop()
        measured_panel = measured[id(panel)]
        parts += (_draw_wire(measured_panel, panel, w, palette, left, upper) for w in panel.wires)
        for name, port in panel.rights.items():
            cx, cy = measured_panel.placed.corners[RIGHT, name]
            width = measured_panel.sizes[RIGHT, name].width
            if panel is top:
                parts.append(_draw_output(port, palette, left + cx, upper + cy, width))
            else:
                parts.append(_draw_text("port", left + cx + 6, upper + cy + 13, port.label))
        for name, port in panel.lefts.items():
            cx, cy = measured_panel.placed.corners[LEFT, name]
            parts.append(_draw_text("port", left + cx + 6 + _lanes_width(panel), upper + cy + 13, port.label))
        for key, box in panel.boxes.items():
            cx, cy = measured_panel.placed.corners[key]
            size, pill = measured_panel.sizes[key], measured_panel.pills[key]
            bx, by, width = left + cx + pill, upper + cy, size.width - pill
            if box.panel:
                drawn = _draw_loop(box, palette, bx, by, width, size)
                pending.append((box.panel, bx, by + _loop_top(box)))
            else:
                drawn = _draw_node(box, palette, bx, by, width, size)
            parts += [f'<g data-node="nodes.{escape(key)}">', *drawn, "</g>"] if live else drawn
            parts += (_draw_pill(p, palette, bx, by + size.ins[n]) for n, p in box.ins.items() if p.pill)
    return parts


def _draw_wire(measured: _MeasuredPanel, panel: Panel, wire: Wire, palette: Palette, left: float, upper: float) -> str:
    sx, sy = measured.placed.corners[wire.source]
    tx, ty = measured.placed.corners[wire.target]
    source, target = measured.sizes[wire.source], measured.sizes[wire.target]
    points = [
        (sx + source.width, sy + source.outs[wire.out]),
        *measured.placed.ways[wire],
        (tx + measured.pills.get(str(wire.target), 0.0), ty + target.ins[wire.into]),
    ]
    path = [f"M{left + points[0][0]:.1f} {upper + points[0][1]:.1f}"]
    for (ax, ay), (bx, by) in pairwise(points):
        ax, ay, bx, by = left + ax, upper + ay, left + bx, upper + by
        if ay == by:
            path.append(f"H{bx:.1f}")
        else:
            bend = (bx - ax) / 2
            path.append(f"C{ax + bend:.1f} {ay:.1f} {bx - bend:.1f} {by:.1f} {bx:.1f} {by:.1f}")
    kind = panel.wires[wire]
    tip = f"{_end_name(wire.source, wire.out)} → {_end_name(wire.target, wire.into)}: {kind}"
    start, end = wire.source, wire.target
    origin = panel.lefts[start[1]] if isinstance(start, tuple) else panel.boxes[str(start)].outs[wire.out]
    dot = panel.rights[end[1]] if isinstance(end, tuple) else panel.boxes[str(end)].ins[wire.into]
    link = _list_attributes(replace(dot, link=origin.link)) if dot.path else ""
    return f'<path class="wire {palette.stroke(kind)}" d="{"".join(path)}"{link}><title>{escape(tip)}</title></path>'


def _list_attributes(dot: Dot) -> str:
    """The attributes of a live dot or wire."""
    names = {"data-link": dot.link, "data-block": dot.block if dot.link else "", "data-path": dot.path}
    return "".join(f' {name}="{escape(text)}"' for name, text in names.items() if text)


def _end_name(key: object, port: str) -> str:
    name = key[1] if isinstance(key, tuple) else str(key)
    return f"{name}.{port}" if port and port != "out" else str(name)


def _draw_node(box: Box, palette: Palette, x: float, y: float, width: float, size: Size) -> list[str]:
    parts = [
        f"<g><title>{escape(box.tip)}</title>",
        f'<rect class="node" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{size.height:.1f}" rx="8"/>',
        _draw_text("title", x + PAD, y + 19, box.title),
        _draw_text("sub", x + PAD, y + 35, box.subtitle),
    ]
    for name, port in box.ins.items():
        parts.append(_draw_dot(palette, port, x, y + size.ins[name]))
        parts.append(_draw_text("port faint" if port.free else "port", x + PAD, y + size.ins[name] + 4, port.label))
    for name, port in box.outs.items():
        parts.append(_draw_dot(palette, port, x + width, y + size.outs[name]))
        if port.label:
            kind = "port end" if port.used else "port end faint"
            parts.append(_draw_text(kind, x + width - PAD, y + size.outs[name] + 4, port.label))
    if box.notes:
        line = y + size.height - len(box.notes) * NOTE - 9
        parts.append(f'<path class="rule" d="M{x + PAD:.1f} {line:.1f}H{x + width - PAD:.1f}"/>')
        parts += (_draw_text("note", x + PAD, line + 13 + i * NOTE, note) for i, note in enumerate(box.notes))
    return [*parts, "</g>"]


def _draw_loop(box: Box, palette: Palette, x: float, y: float, width: float, size: Size) -> list[str]:
    assert box.panel is not None
    title = text_width(box.title, 13, bold=True)
    parts = [
        f'<rect class="loop" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{size.height:.1f}" rx="12">'
        f"<title>{escape(box.tip)}</title></rect>",
        _draw_text("title", x + PAD, y + 21, box.title),
        _draw_text("sub", x + PAD + title + 10, y + 21, box.subtitle),
    ]
    parts += (_draw_text("note", x + PAD, y + 38 + i * NOTE, note) for i, note in enumerate(box.notes))
    for i, (source, target) in enumerate(box.panel.backs):
        outer, inner = LANE * (i + 1) + 5, 6.0
        down, right, leftmost = y + size.height - outer, x + width - outer - 1, x + outer + 1
        kind = palette.stroke(box.panel.lefts[target].type)
        ya, yb = y + size.outs[source], y + size.ins.get(target, 0.0)
        if target not in size.ins:
            continue
        path = (
            f"M{x + width:.1f} {ya:.1f}H{right + inner:.1f}Q{right:.1f} {ya:.1f} {right:.1f} {ya + inner:.1f}"
            f"V{down - inner:.1f}Q{right:.1f} {down:.1f} {right - inner:.1f} {down:.1f}"
            f"H{leftmost + inner:.1f}Q{leftmost:.1f} {down:.1f} {leftmost:.1f} {down - inner:.1f}"
            f"V{yb + inner:.1f}Q{leftmost:.1f} {yb:.1f} {leftmost - inner:.1f} {yb:.1f}H{x + 3:.1f}"
        )
        tip = f"carried to the next iteration: {source}"
        parts.append(f'<path class="wire back {kind}" d="{path}"><title>{escape(tip)}</title></path>')
    for name, port in box.panel.lefts.items():
        if name in size.ins:
            outer_path = box.ins[name].path if name in box.ins else ""
            parts.append(_draw_dot(palette, replace(port, path=outer_path), x, y + size.ins[name]))
    for name, port in box.outs.items():
        inner_path = box.panel.rights[name].path if name in box.panel.rights else ""
        parts.append(_draw_dot(palette, replace(port, path=inner_path), x + width, y + size.outs[name]))
    return parts


def _draw_dot(palette: Palette, port: Dot, x: float, y: float) -> str:
    tip = f"{port.label or 'out'}: {port.type}"
    kind = palette.fill(port.type) + (" free" if port.free else "")
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="4"{_list_attributes(port)}'
    return f'<circle class="dot {kind}" {place}><title>{escape(tip)}</title></circle>'


def _draw_pill(port: Dot, palette: Palette, x: float, y: float) -> str:
    width = _pill_width(port.pill)
    left = x - width - 8
    attributes = _list_attributes(replace(port, link=f"params.{port.pill}")) if port.path else ""
    return (
        f'<path class="wire {palette.stroke(port.type)}" d="M{left + width:.1f} {y:.1f}H{x:.1f}"{attributes}/>'
        f'<rect class="pill" x="{left:.1f}" y="{y - 8.5:.1f}" width="{width:.1f}" height="17" rx="8.5"/>'
        + _draw_text("param", left + 9, y + 4, port.pill)
    )


def _draw_output(port: Dot, palette: Palette, x: float, y: float, width: float) -> str:
    return (
        f'<rect class="output {palette.stroke(port.type)}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="24" '
        f'rx="12"{_list_attributes(port)}><title>{escape(f"output {port.label}: {port.type}")}</title></rect>'
        + _draw_text("outname", x + 9, y + 16, port.label)
    )


def _draw_text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _draw_header(graph: Graph, params: list[tuple[str, str]], width: float, live: bool) -> tuple[list[str], float]:
    """The title and parameters, and the y coordinate at which the graph begins."""
    ops = [*walk(graph.ops, previews=False)]
    loops, total = len(find_loops(ops)), len(list_calls(ops))
    summary = f"{total} node{'s' * (total != 1)}" + (f", {loops} loop{'s' * (loops != 1)}" if loops else "")
    parts = [
        _draw_text("name", MARGIN, 36, graph.name),
        _draw_text("sub", MARGIN + text_width(graph.name, 17, bold=True) + 12, 36, summary),
    ]
    x, y = MARGIN, 54.0
    for name, value in params:
        value = clip_text(value, 11, width - 2 * MARGIN - _pill_width(name) - 10)
        length = _pill_width(name) + text_width(value, 11) + 6
        if x > MARGIN and x + length > width - MARGIN:
            x, y = MARGIN, y + 26
        link = f' data-link="params.{escape(name)}" data-block="nodes"' if live else ""
        parts += [
            f'<rect class="pill" x="{x:.1f}" y="{y:.1f}" width="{_pill_width(name):.1f}" height="17" rx="8.5"{link}/>',
            _draw_text("param", x + 9, y + 12.5, name),
            _draw_text("value", x + _pill_width(name) + 5, y + 12.5, value),
        ]
        x += length + 16
    return parts, y + (40 if params else 14)


def legend_width(palette: Palette) -> float:
    """The width of the legend on one line."""
    return sum(text_width(name, 11) + 30 for name in palette.names) + 2 * MARGIN


def _draw_legend(palette: Palette, width: float, y: float) -> tuple[list[str], float]:
    """The legend of type colours, and the height of the whole drawing."""
    parts: list[str] = []
    x = MARGIN
    for name in palette.names:
        length = text_width(name, 11) + 14
        if x > MARGIN and x + length > width - MARGIN:
            x, y = MARGIN, y + 20
        parts.append(f'<circle class="dot {palette.fill_by_name(name)}" cx="{x + 4:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(_draw_text("port", x + 13, y + 4, name))
        x += length + 16
    return parts, y + (24 if parts else 0)
