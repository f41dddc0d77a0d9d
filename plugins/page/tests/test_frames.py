"""Previews: the newest x̂0 as a picture, within its share of the time, and without effect on the result."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidegraph import load_workflow
from guidegraph.graph.execution.watched_sizes import offer_value, use_viewer
from guidegraph.graph.ir import Graph
from guidegraph.graph.sources import Output
from guidegraph_page import frames
from guidegraph_page.frames import FrameMaker, RunCache, encode_first, find_decoder
from tests.paths import ROOT

EMPTY = Graph(Path("empty.yaml"), {}, {}, {}, {})
WORKFLOW = ROOT / "workflows" / "text_to_image.yaml"


class Clock:
    """A clock that goes on by ``step`` at each look."""

    def __init__(self, step: float):
        self.now, self.step = 0.0, step

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


def test_a_picture_is_shown_as_it_is() -> None:
    values = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    maker(values)
    shown = np.asarray(Image.open(io.BytesIO(maker.png)))
    assert shown[..., 0].tolist() == [[0, 128], [255, 255]]


def test_no_frames_are_made_while_nobody_watches() -> None:
    watching = iter([False, False, True, False])
    maker = FrameMaker(EMPTY, RunCache(1 << 20), lambda: next(watching))
    counts = []
    for _ in range(4):
        maker(torch.zeros(1, 3, 2, 2))
        counts.append(maker.count)
    assert counts == [0, 0, 1, 1]
    maker.finish()
    assert maker.count == 2


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1, 4, 2, 2), torch.zeros(1, 3, 0, 2), torch.zeros(3, 2, 2), torch.full((1, 3, 2, 2), float("nan"))],
)
def test_what_is_no_picture_is_not_shown(value: Any) -> None:
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    maker(value)
    assert (maker.png, maker.count) == (b"", 0)


@pytest.mark.parametrize("value", [torch.ones(1, 3, 2, 2).to_sparse(), torch.empty(1, 3, 2, 2, device="meta")])
def test_a_tensor_without_numbers_is_no_picture(value: Any) -> None:
    assert encode_first(value) == b""


def test_a_latent_that_the_autoencoder_refuses_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Autoencoder:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(latent, torch.ones(3, 4, 1, 1))

    monkeypatch.setattr(frames, "find_decoder", lambda graph: Output("model", "autoencoder"))
    monkeypatch.setattr(frames, "SHARE", 1e9)
    monkeypatch.setattr(RunCache, "find_value", lambda self, output: Autoencoder())
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    maker(torch.zeros(1, 3, 2, 2))
    assert maker.count == 0
    maker(torch.zeros(1, 4, 2, 2))
    assert maker.count == 1


@pytest.mark.parametrize("function", ["encode_first", "to_pixels", "encode_png"])
def test_a_preview_that_fails_costs_only_the_preview(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def fail(value: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr(frames, "SHARE", 1e9)
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    with monkeypatch.context() as patched:
        patched.setattr(frames, function, fail)
        maker(torch.zeros(1, 3, 2, 2))
    assert maker.count == 0
    maker(torch.zeros(1, 3, 2, 2))
    assert maker.count == 1


def test_frames_take_their_share_of_the_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(0.0)
    monkeypatch.setattr(frames, "time", clock)
    monkeypatch.setattr(
        frames.FrameMaker, "_make", lambda self, value: setattr(clock, "now", clock.now + 1.0) or b"png"
    )
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    for _ in range(1000):  # steps of a second each
        clock.now += 1.0
        maker(None)
    assert 0.5 * frames.SHARE < maker.seconds / clock.now <= frames.SHARE
    assert maker.count == pytest.approx(maker.seconds / (1.0 + frames.SENDING))


def test_frames_that_are_made_fast_wait_for_what_it_takes_to_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(0.0)
    monkeypatch.setattr(frames, "time", clock)
    monkeypatch.setattr(frames.FrameMaker, "_make", lambda self, value: b"png")
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    for _ in range(1000):  # 20 s of steps of 20 ms
        clock.now += 0.02
        maker(None)
    assert 20 * frames.SHARE / frames.SENDING - 2 <= maker.count <= 20 * frames.SHARE / frames.SENDING


def test_values_are_offered_to_the_viewer_of_the_block_alone() -> None:
    offered: list[int] = []
    offer_value(1)
    with use_viewer(offered.append):
        offer_value(2)
    offer_value(3)
    assert offered == [2]


def test_the_decoder_is_that_of_the_loops_result() -> None:
    assert find_decoder(load_workflow(WORKFLOW).graph) == Output("model", "autoencoder")
    assert find_decoder(load_workflow(ROOT / "workflows" / "class_cfg.yaml").graph) is None


@pytest.mark.slow
def test_each_step_offers_x0_and_the_picture_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SHARE", 1e9)
    cache = RunCache(1 << 30)
    workflow = load_workflow(WORKFLOW)
    plain = workflow.run(steps=3)["image"]
    workflow.attachments = type(workflow.attachments)(memory=cache)
    maker = FrameMaker(workflow.graph, cache)
    with use_viewer(maker):
        watched = workflow.run(steps=3)["image"]
    assert torch.equal(plain, watched)
    assert maker.count == 3
    last = np.asarray(Image.open(io.BytesIO(maker.png))).astype(float)
    result = ((watched[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(last - result).max() <= 1  # the last x̂0 of DDIM is its result


def test_the_frame_of_the_last_value_is_made_at_the_end_even_if_it_was_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "time", Clock(1.0))
    maker = FrameMaker(EMPTY, RunCache(1 << 20))
    for shade in (-1.0, 1.0):  # the first frame takes all of the time
        maker(torch.full((1, 3, 2, 2), shade))
    assert maker.count == 1
    maker.finish()
    maker.finish()
    assert maker.count == 2
    assert np.asarray(Image.open(io.BytesIO(maker.png))).max() == 255
