"""The labels of curves: short, and different where their texts differ."""

from __future__ import annotations

from guidegraph_lab.report.plots import LINE, TICK, caption_of, clip, clip_distinctly, draw_curves, list_numbered
from guidegraph_lab.report.series import Plot, Series


def test_long_texts_that_differ_early_are_cut_at_the_end() -> None:
    texts = ["a cat on the mat", "dogs"]
    assert clip_distinctly(texts, TICK) == ["a cat on the …", "dogs"]
    assert list_numbered(texts, TICK) == ""


def test_texts_that_begin_alike_lose_what_they_share() -> None:
    texts = ["a photo of a cat", "a photo of a car", "a photo of a car at night", "two dogs"]
    assert clip_distinctly(texts, TICK) == ["a ph…cat", "a ph…car", "a ph…car at n…", "two dogs"]
    assert clip_distinctly(["x" * 20 + "1", "x" * 20 + "2"], TICK) == ["xxxx…1", "xxxx…2"]


def test_texts_that_stay_alike_are_numbered_and_listed() -> None:
    texts = ["a photo of a black cat by night", "a photo of a black cat by day", "a photo of a white cat by night"]
    labels = clip_distinctly(texts, TICK)
    assert labels == ["1. a photo of…", "2. a photo of…", "3. a photo of…"]
    assert list_numbered(texts, TICK) == f"1. {texts[0]}; 2. {texts[1]}; 3. {texts[2]}"
    assert clip_distinctly(["a  b", "a b"], TICK) == ["1. a b", "2. a b"]


def test_equal_texts_have_equal_labels() -> None:
    assert clip_distinctly(["a" * 20, "a" * 20], TICK) == [clip("a" * 20, TICK)] * 2


def test_lines_and_ticks_of_prompts_that_begin_alike_differ_in_the_drawing() -> None:
    scene = "a tiger on grass under a night sky with a full moon over distant hills, number"
    prompts = [f"{scene} one", f"{scene} two"]
    lines = [Series(f"prompt = {prompt}", [0.0, 1.0], [1.0, i], [0.5, i], [2.0, i]) for i, prompt in enumerate(prompts)]
    svg = draw_curves(Plot("t", "x", "y", lines, [], ""), "salt")
    assert svg.count("…one</text>") == svg.count("…two</text>") == 1
    svg = draw_curves(Plot("t", "prompt", "y", lines[:1], prompts, ""), "salt")
    assert svg.count("…one</text>") == svg.count("…two</text>") == 1


def test_the_caption_has_the_texts_of_numbered_lines() -> None:
    names = [f"{kind} {'in a long scene' * 5} {end}{'.' * 60}{end}" for kind in "ab" for end in "cd"]
    names = [f"the same beginning of all of them, which is long enough, {name}" for name in names]
    plot = Plot("t", "x", "y", [Series(name) for name in names], [], "A mean.")
    assert clip_distinctly(names, LINE)[3].startswith("4. the same")
    assert caption_of(plot).startswith(f"A mean. 1. {names[0]}; 2. ")
