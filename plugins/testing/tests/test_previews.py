"""The kit checks a plugin's previews of the outputs that have its own types."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from guidegraph.plugins.entry_points import import_plugin_module
from guidegraph_testing import NodeCase, Nonconforming, applicable_checks, cases_of, run_check
from tests.paths import ROOT


@pytest.fixture(scope="module")
def palettes() -> ModuleType:
    module = import_plugin_module(str(ROOT / "plugins" / "page" / "tests" / "palettes.py"))
    assert isinstance(module, ModuleType)
    return module


def test_the_check_applies_to_nodes_that_give_a_type_of_the_plugin(palettes: ModuleType) -> None:
    make, paint = cases_of(palettes)
    assert "previews" in applicable_checks(make)
    assert "previews" not in applicable_checks(paint)
    run_check(make, "previews")


@pytest.mark.parametrize(
    ("shows", "words"),
    [
        ("number", "returned int, which is not a preview"),
        ("long", "of length 5000"),
        ("a failure", "RuntimeError: no way to show a failure"),
    ],
)
def test_a_wrong_preview_is_caught(palettes: ModuleType, shows: str, words: str) -> None:
    (case, _) = cases_of(palettes, [NodeCase(palettes.make, settings={"shows": shows})])
    with pytest.raises(Nonconforming, match="a preview of the output 'out'") as caught:
        run_check(case, "previews")
    assert words in str(caught.value)


def test_a_preview_that_changes_the_value_is_caught(palettes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph import hookimpl

    @hookimpl
    def guidegraph_preview(value: Any) -> str:
        value.colours.add_(1)
        return "changed"

    monkeypatch.setattr(palettes, "guidegraph_preview", guidegraph_preview)
    with pytest.raises(Nonconforming, match="guidegraph_preview changes it"):
        run_check(cases_of(palettes)[0], "previews")
