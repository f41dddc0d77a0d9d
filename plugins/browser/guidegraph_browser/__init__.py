"""Make a bundle a page that runs in a browser: check it, tabulate its samplers, and write the page's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegraph.commands.exports.steps import ExportArguments


def export_page(arguments: ExportArguments, page: bool, onnxruntime_web: Path | None, single_file: bool) -> None:
    """Export a workflow as a page: ``guidegraph export --page`` calls it.

    Raises ``WorkflowError`` for options that do not go together, and for a workflow that cannot be a page.
    """
    from guidegraph_browser import export

    export.export_page(arguments, export.check_options(page, onnxruntime_web, single_file))
