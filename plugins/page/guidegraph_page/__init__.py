"""``guidegraph open``: a page in the browser that shows workflows, runs them and edits their files."""

from __future__ import annotations

from typing import Any

from guidegraph import hookimpl


@hookimpl
def guidegraph_commands(app: Any) -> None:
    from guidegraph_page.command import add_open

    add_open(app)
