"""Markup for the files of outputs, by the formats of their types: reports and the page show it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from guidegraph.graph.node import Registry
from guidegraph.graph.output_format import OutputFormat, formats_of
from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.output_formats import run_in_time

LARGEST = 4 << 20
"""The largest markup of one file, in bytes."""


class ShownFile(NamedTuple):
    """A file's markup. failure: why there is none, as the end of a sentence."""

    html: str
    failure: str = ""


def find_html_format(registry: Registry, type_text: str, file: str) -> OutputFormat | None:
    """The format that shows a file of an output; None if its type has none.

    type_text: the type as run.json has it, such as ``Sound`` or ``Sequence[Sound]``.
    """
    for name in re.findall(r"\w+", type_text):
        if (cls := registry.types.get(name)) is not None:
            for format in formats_of(registry.formats, cls):
                if file.endswith(format.suffix) and format.read and format.html:
                    return format
    return None


def show_file(format: OutputFormat, path: Path) -> ShownFile:
    """The markup of a file by its format. A format that fails or hangs is named in the failure."""

    def render() -> str:
        assert format.read is not None
        assert format.html is not None
        return format.html(format.read(path))

    try:
        html = run_in_time(render, format.seconds)
    except KeyboardInterrupt:
        raise
    except TimeoutError as error:
        return ShownFile("", f"is not shown: {format.owner} {error}")
    except BaseException as error:  # code of a plugin: the page goes on
        return ShownFile("", f"is not shown: {format.owner} failed: {describe_error(error)}")
    if not isinstance(html, str):
        return ShownFile("", f"is not shown: {format.owner} returned {type(html).__name__} in place of markup")
    if len(html.encode()) > LARGEST:
        return ShownFile("", f"is not shown: its markup has more than {LARGEST >> 20} MiB")
    return ShownFile(html)
