"""A workflow in a notebook is its drawing, whose styles and ids stay its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from guidegraph import load_workflow
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"


def test_a_workflow_shows_its_drawing() -> None:
    html = load_workflow(WORKFLOWS / "text_to_image.yaml")._repr_html_()
    drawing = ET.fromstring(html)
    titles = [element.text for element in drawing.iter("text") if element.get("class") == "title"]
    assert {"guided", "step", "sample"} <= {*titles}
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(http|//)""", html)


def test_two_drawings_in_one_notebook_share_no_style_and_no_id() -> None:
    drawings = [load_workflow(WORKFLOWS / f"{name}.yaml")._repr_html_() for name in ("text_to_image", "inpaint")]
    scopes = [re.findall(r'<svg class="([^"]+)"', drawing) for drawing in drawings]
    assert [len(scope) for scope in scopes] == [1, 1]
    assert scopes[0] != scopes[1]
    for drawing, (scope,) in zip(drawings, scopes, strict=True):
        rules = re.findall(r"(?:^|\})\s*([^{}@]+)\{", re.search(r"<style>(.*?)</style>", drawing, re.DOTALL)[1])  # type: ignore[index]
        assert rules
        assert all(selector.strip().startswith(f".{scope}") for rule in rules for selector in rule.split(","))
        assert re.findall(r' id="([^"]+)"', drawing) == [f"{scope}-back"]
