"""A plugin's previews of its own types are shown on the wires of the page; one that fails says so, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from guidegraph.plugins.manager import PluginManager
from plugins.page.tests.conftest import Site

PLUGIN = str(Path(__file__).with_name("palettes.py"))
LINES = ["Palette", "colours: (3) int64, 1 to 3"]
WORKFLOW = """\
guidegraph: 1
params: {shows: text}
nodes:
  palette: {use: palette.make, in: {shows: params.shows}}
  picture: {use: palette.paint, in: {palette: palette}}
outputs: {image: picture}
"""


def read_palette(site: Site, shows: str) -> tuple[dict[str, Any], Any]:
    """The row of the palette in a run, and the answer to a request for its picture."""
    (site.folder / "draw.yaml").write_text(WORKFLOW)
    site.page.jobs.manager = PluginManager((PLUGIN,), entry_points=False)
    number = site.run_to_end(shows=shows)["number"]
    (row,) = site.get(f"api/runs/{number}/values", key="palette").json()["values"]
    return row, site.get(f"api/runs/{number}/thumbnail", key="palette", output="out")


def test_a_text_follows_the_description_of_the_value(site: Site) -> None:
    row, thumbnail = read_palette(site, "text")
    assert row["lines"] == [*LINES, "3 colours of a Palette", "first 1"]
    assert not row["picture"]
    assert thumbnail.status_code == 404


def test_a_picture_is_shown(site: Site) -> None:
    row, thumbnail = read_palette(site, "picture")
    assert (row["lines"], row["picture"]) == (LINES, True)
    assert thumbnail.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(thumbnail.content)).getpixel((0, 0)) == (1, 0, 0)


def test_a_plugin_may_show_nothing(site: Site) -> None:
    row, thumbnail = read_palette(site, "nothing")
    assert (row["lines"], row["picture"], thumbnail.status_code) == (LINES, False, 404)


@pytest.mark.parametrize(
    ("shows", "words"),
    [
        ("number", "returned int, which is not a preview"),
        ("long", "returned str of length 5000"),
        ("no picture", "returned bytes of length 6"),
        ("a failure", "RuntimeError: no way to show a failure"),
    ],
)
def test_a_preview_that_fails_says_so_and_is_reported(site: Site, shows: str, words: str) -> None:
    row, thumbnail = read_palette(site, shows)
    assert row["lines"][:-1] == LINES
    assert row["lines"][-1].startswith("no preview: ")
    assert (row["picture"], thumbnail.status_code) == (False, 404)
    (failure,) = site.page.jobs.manager.failures
    assert words in failure.reason


def test_values_of_other_types_are_not_shown_to_the_plugin(site: Site) -> None:
    read_palette(site, "text")
    (row,) = site.get("api/runs/1/values", key="picture").json()["values"]
    assert (len(row["lines"]), row["picture"]) == (1, True)
