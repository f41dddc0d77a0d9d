"""Curves and bars as SVG for a page: drawn by matplotlib, coloured by the page's style, with text kept as text.

Every colour is written as a variable of ``style.css``, so that one drawing serves light and dark. Lines differ by
their dashes and markers too, and bars by their hatching.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from guidegraph_lab.report.html import Html, shorten, tag
from guidegraph_lab.report.series import Plot, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.6, 3.2
INK, MUTED, RULE, GROUND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = [f"#0a0c0{i}" for i in range(8)]
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", GROUND: "panel"} | {c: f"s{i}" for i, c in enumerate(SERIES)}
"""Placeholder colours: each stands for a variable of the style, and is replaced after drawing."""
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 2)), (0, (1, 1)), (0, (8, 3)))
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "hatch.color": GROUND,
    "hatch.linewidth": 1.6,
}


def draw_curves(plot: Plot, salt: str, title: str = "") -> Html:
    """A plot of curves with their intervals.

    salt: makes the ids in the SVG unique on the page. title: a label in place of the plot's title.
    """
    from matplotlib import rc_context

    with rc_context({**SETTINGS, "svg.hashsalt": salt}), _ignore_missing_glyphs():
        figure, axes = _make_figure(HEIGHT + 0.17 * max(0, len(plot.series) - 2))
        labels = clip_distinctly([series.name for series in plot.series], LINE)
        for i, (series, label) in enumerate(zip(plot.series, labels, strict=True)):
            _draw_series(axes, series, label, i % len(SERIES), joined=not plot.ticks)
        axes.set_xlabel(plot.x)
        axes.set_title(title or clip(plot.title, TITLE))
        positions = sorted({x for series in plot.series for x in series.x})
        if plot.ticks:
            axes.set_xticks(range(len(plot.ticks)), clip_distinctly(plot.ticks, TICK))
            axes.margins(x=0.15)
        elif positions[0] > 0 and len(positions) > 3 and positions[-1] / positions[0] >= 16:
            axes.set_xscale("log")
        if not plot.ticks and len(positions) <= 8:
            axes.set_xticks(positions, [f"{x:g}" for x in positions])
            axes.minorticks_off()
        if len(plot.series) > 1 or plot.series[0].name:
            long = max(map(len, labels)) > 18
            figure.legend(loc="outside lower center", ncols=1 if long else min(3, len(plot.series)), handlelength=3.2)
        return _to_svg(figure, f"{plot.title}: {plot.y} over {plot.x}")


def draw_bars(names: Sequence[str], values: Sequence[float], hatched: Sequence[bool], unit: str, salt: str) -> Html:
    """Horizontal bars, the first on top, each labelled with its value."""
    from matplotlib import rc_context

    with rc_context({**SETTINGS, "svg.hashsalt": salt, "axes.grid.axis": "x"}), _ignore_missing_glyphs():
        figure, axes = _make_figure(0.55 + 0.2 * len(names))
        kinds = zip(names, values, hatched, strict=True)
        for i, (_, value, inside) in enumerate(kinds):
            axes.barh(i, value, 0.66, color=SERIES[1 if inside else 0], hatch="////" if inside else None)
            axes.annotate(
                f"{value:.3g}", (value, i), xytext=(3, 0), textcoords="offset points", va="center_baseline", fontsize=8
            )
        axes.set_yticks(range(len(names)), clip_distinctly(names, 30))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.02)
        axes.set_xlabel(unit)
        return _to_svg(figure, f"Bars: {unit} of {len(names)} nodes")


@contextmanager
def _ignore_missing_glyphs() -> Iterator[None]:
    """Context manager: ignore warnings of missing glyphs, because the browser has its own fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from (font|current font)")
        yield


def _make_figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _draw_series(axes: Axes, series: Series, label: str, i: int, joined: bool) -> None:
    colour, few = SERIES[i], len(series.x) <= 24
    axes.plot(
        series.x,
        series.y,
        color=colour,
        linestyle=DASHES[i] if joined else "none",
        linewidth=1.6,
        marker=MARKERS[i] if few else None,
        markersize=4.6,
        markerfacecolor=colour if i % 2 == 0 else GROUND,
        label=label or None,
    )
    bounded = [k for k in range(len(series.x)) if math.isfinite(series.low[k]) and math.isfinite(series.high[k])]
    if not bounded:
        return
    x, y, low, high = ([values[k] for k in bounded] for values in (series.x, series.y, series.low, series.high))
    if few:
        below = [max(0.0, b - a) for a, b in zip(low, y, strict=True)]
        above = [max(0.0, b - a) for a, b in zip(y, high, strict=True)]
        axes.errorbar(x, y, yerr=[below, above], fmt="none", color=colour, ecolor=colour, elinewidth=0.9, capsize=2.4)
    if joined and x == sorted(x):
        axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)


def _to_svg(figure: Figure, title: str) -> Html:
    """The drawing as an element of a page, without styles or ids that could affect the rest of the page."""
    data = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(data, format="svg", metadata=nothing)
    text = data.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
    used = frozenset(re.findall(r'<[^>]*(?:href="|url\()#([\w-]+)', text))
    text = re.sub(r"<\w[^>]*>", lambda m: _tidy_tag(m[0], used), text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    open_ = f'<svg class="plot" viewBox="0 0 {size[1]} {size[2]}" role="img">'
    return Html(open_ + tag("title", title) + text[text.index(">") + 1 :].strip())


def _tidy_tag(element: str, used: Collection[str]) -> str:
    """A tag of matplotlib's without unused ids and font families, its colours replaced by style variables."""
    element = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element).replace("xlink:href", "href")
    element = re.sub(r'\sid="([^"]*)"', lambda m: m[0] if m[1] in used else "", element)
    element = re.sub(r"#0a0[bc]0\d", lambda m: f"var(--{VARIABLES[m[0]]})", element)

    def shorten_font(match: re.Match[str]) -> str:
        font = re.search(r"(bold|[1-9]00)?\s*([\d.]+px)", match[0])
        if font is None:
            return ""
        return f"font-size: {font[2]}" + (f"; font-weight: {font[1]}" if font[1] else "")

    return re.sub(r"font-family: [^;\"]*; ?|font: [^;\"]*", shorten_font, element)


LINE, TICK, TITLE = 56, 14, 46
"""The most characters of a line's name in the legend, of a tick's, and of a title."""


def clip(text: str, most: int) -> str:
    text = join_lines(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def join_lines(text: str) -> str:
    return " ".join(text.split())


def clip_distinctly(texts: Sequence[str], most: int) -> list[str]:
    """Clip texts to ``most`` characters. Those that would look alike are cut in their common part, or numbered."""
    if len(set(labels := _omit_shared(texts, most))) == len(set(texts)):
        return labels
    return [clip(f"{i}. {text}", most) for i, text in enumerate(texts, 1)]


def list_numbered(texts: Sequence[str], most: int) -> str:
    """The full texts of numbered labels; empty if ``clip_distinctly`` numbers none."""
    if len(set(_omit_shared(texts, most))) == len(set(texts)):
        return ""
    return shorten("; ".join(f"{i}. {join_lines(text)}" for i, text in enumerate(texts, 1)))


def caption_of(plot: Plot) -> str:
    """The caption of a plot, with the full texts of numbered labels."""
    names = [series.name for series in plot.series]
    return " ".join(filter(None, (plot.caption, list_numbered(names, LINE), list_numbered(plot.ticks, TICK))))


def _omit_shared(texts: Sequence[str], most: int) -> list[str]:
    lines = [join_lines(text) for text in texts]
    groups: dict[str, set[str]] = {}
    for line in lines:
        groups.setdefault(clip(line, most), set()).add(line)
    labels = []
    for line in lines:
        group = groups[label := clip(line, most)]
        if len(group) > 1:  # leave out most of the beginning that they share
            first, last, head = min(group), max(group), line[: most // 3].rstrip()
            shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
            word = line.rfind(" ", 0, shared) + 1
            label = clip(f"{head}…{line[word if word > len(head) else shared :]}", most)
        labels.append(label)
    return labels
