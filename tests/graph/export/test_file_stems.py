"""Names of a bundle's files: those of the workflow where every system can hold them, and never two that collide."""

from __future__ import annotations

import pytest

from guidegraph.graph.export.file_stems import choose_stems
from guidegraph_runtime.bundle.manifest_types import file_name_problem


def test_names_that_every_system_can_hold_stay_as_they_are() -> None:
    names = ["image", "sample.step", "encode2", "x_1"]
    assert choose_stems(names) == {name: name for name in names}


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["Image", "image", "IMAGE"], ["Image", "image_2", "IMAGE_3"]),
        (["a", "A", "a_2"], ["a", "A_2", "a_2_2"]),
        (["größe", "große"], ["gr__e", "gro_e"]),
        (["con", "aux.step"], ["_con", "_aux.step"]),
        (["x" * 300, "x" * 301], ["x" * 100, "x" * 100 + "_2"]),
    ],
)
def test_other_names_are_changed_and_numbered(names: list[str], stems: list[str]) -> None:
    found = choose_stems(names)
    assert [found[name] for name in names] == stems
    assert [file_name_problem(f"reference/input-{stem}.npy") for stem in stems] == [None] * len(stems)
    assert [file_name_problem(f"{stem}.onnx.data") for stem in stems] == [None] * len(stems)
