"""Labels of curves and ticks: short, on one line, and different where their texts differ."""

from __future__ import annotations

from collections.abc import Sequence

from guidegraph.report.html import shorten
from guidegraph.report.series import Plot

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
