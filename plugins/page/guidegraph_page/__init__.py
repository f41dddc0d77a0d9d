"""``guidegraph open``: a page in the browser that shows workflows, runs them and edits their files."""

from __future__ import annotations

from typing import Any

from guidegraph import hookimpl


@hookimpl
def guidegraph_commands(app: Any) -> None:
    from guidegraph.commands.shared.root import examples
    from guidegraph_page.command import open

    lines = ("open draw.yaml", "open workflows --port 8100 --no-browser", "open draw.yaml --device cuda")
    app.command(epilog=examples(*lines))(open)
