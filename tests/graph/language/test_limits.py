"""Limits are enforced before memory or time is spent, and the user can raise them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guidegraph import NodeError, WorkflowError, load_workflow
from guidegraph.graph.resolution.load import build
from guidegraph.graph.trust.policy import OWN_WORKFLOW
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.check import check_workflow
from tests.fake_clock import replace_clock
from tests.graph import engine_nodes, toys
from tests.must_end import must_end
from tests.paths import ROOT

REGISTRY = PluginManager(entry_points=False).registry
LOOP = """guidegraph: 1
params: {n: %s, inner: 1}
nodes:
  zero: {use: toy.number}
  work:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body:
      deeper:
        loop: {over: params.inner, as: j}
        carry: {y: carry.x}
        body: {more: {use: toy.add, in: {a: carry.y}}}
        next: {y: more}
    next: {x: deeper.y}
outputs: {out: work.x}
"""


@pytest.fixture(autouse=True)
def _end_in_time() -> Iterator[None]:
    with must_end(60):
        yield


def write_doubling_workflows(folder: Path, times: int) -> Path:
    """Write workflows that each use the next one twice, 2^times nodes in all; returns the path of the first."""
    for i in range(times):
        text = (
            f"guidegraph: 1\nnodes: {{a: {{use: ./{i + 1}.yaml}}, b: {{use: ./{i + 1}.yaml}}}}\noutputs: {{x: a.x}}\n"
        )
        (folder / f"{i}.yaml").write_text(text)
    (folder / f"{times}.yaml").write_text("guidegraph: 1\nnodes: {n: {use: toy.number}}\noutputs: {x: n}\n")
    return folder / "0.yaml"


def build_errors(path: Path, **options: Any) -> str:
    with pytest.raises(WorkflowError) as error:
        build(path, toys.REGISTRY, **options)
    return str(error.value)


@pytest.mark.parametrize("times", [16, 31])
def test_nodes_are_counted_before_they_are_built(tmp_path: Path, times: int) -> None:
    text = build_errors(write_doubling_workflows(tmp_path, times))
    count = 3 * 2**times - 2
    assert f"0.yaml:2:18: too-large: with the workflows that it uses, this is {count:,} nodes" in text
    assert f"the limit is 20,000. If that is right, raise it: --limit nodes={count} [nodes.a.use]" in text


def test_nodes_in_loops_count_and_the_limit_can_be_raised(tmp_path: Path) -> None:
    from guidegraph.graph.trust.limits import Limits

    path = write_doubling_workflows(tmp_path, 3)
    assert len(build(path, toys.REGISTRY, limits=Limits(nodes=22)).ops) == 8
    assert "this is 22 nodes; the limit is 21" in build_errors(path, limits=Limits(nodes=21))
    loop = "loop: {over: params.n, as: i}, carry: {x: z}, body: {a: {use: ./1.yaml}}, next: {x: a.x}"
    text = f"guidegraph: 1\nparams: {{n: 2}}\nnodes: {{z: {{use: toy.number}}, w: {{{loop}}}}}\noutputs: {{x: w.x}}\n"
    (tmp_path / "loop.yaml").write_text(text)
    assert "this is 13 nodes; the limit is 12" in build_errors(tmp_path / "loop.yaml", limits=Limits(nodes=12))


def test_the_bytes_of_workflows_are_limited_together(tmp_path: Path) -> None:
    from guidegraph.graph.trust.limits import Limits

    path = write_doubling_workflows(tmp_path, 1)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    build(path, toys.REGISTRY, limits=Limits(workflow_bytes=size))
    text = build_errors(path, limits=Limits(workflow_bytes=size - 1))
    assert f"1.yaml:1:1: too-large: the workflow has {size} bytes, with those that it uses" in text


def test_a_workflow_file_of_gigabytes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "w.yaml").open("wb") as file:
        file.truncate(10 * 10**9)
    assert "has 10 GB; the limit is 4 MB" in build_errors(tmp_path / "w.yaml")


@pytest.mark.parametrize("count", [10**12, 10**30])
def test_a_default_that_makes_an_endless_loop_is_refused_where_it_is_used(tmp_path: Path, count: int) -> None:
    (tmp_path / "w.yaml").write_text(LOOP % count)
    workflow = load_workflow(tmp_path / "w.yaml", registry=engine_nodes.REGISTRY, cache="off")
    with pytest.raises(WorkflowError) as refused:
        workflow.run()
    with pytest.raises(WorkflowError) as invalid:
        check_workflow(workflow.graph, engine_nodes.REGISTRY, OWN_WORKFLOW)
    text = str(refused.value)
    assert str(invalid.value) == text
    assert f"w.yaml:5:3: over-limit: the loop takes {2 * count:,} trips, with the loops inside of it" in text
    assert "the limit is 10,000,000. If that is right, raise it: --limit trips=" in text
    assert workflow.run(n=3) == {"out": 3.0}


def test_an_endless_loop_that_no_parameter_changes_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(LOOP % 1)
    text = "guidegraph: 1\nnodes: {w: {use: ./inner.yaml, with: {n: 1000000000000}}}\noutputs: {out: w}\n"
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(WorkflowError, match="over-limit: the loop takes 2,000,000,000,000 trips"):
        load_workflow(tmp_path / "w.yaml", registry=engine_nodes.REGISTRY)


def test_trips_of_inner_loops_multiply_and_use_parameter_values(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(LOOP % 10)
    workflow = load_workflow(tmp_path / "w.yaml", registry=engine_nodes.REGISTRY, cache="off")
    assert workflow.run(n=3, inner=4) == {"out": 12.0}
    with pytest.raises(WorkflowError, match=r"takes 25,005,000 trips, with the loops inside of it"):
        workflow.run(n=5_000, inner=5_000)


def test_a_computed_trip_count_is_checked_when_the_loop_begins(tmp_path: Path) -> None:
    from guidegraph.graph.trust.limits import Limits

    text = LOOP.replace("over: params.n", "over: rows").replace(
        "nodes:", "nodes:\n  rows: {use: toy.tensor, with: {rows: 6}}", 1
    )
    (tmp_path / "w.yaml").write_text(text % 1)

    def run(trips: int) -> Any:
        limits = Limits(trips=trips)
        return load_workflow(tmp_path / "w.yaml", registry=engine_nodes.REGISTRY, cache="off", limits=limits).run()

    assert run(12) == {"out": 6.0}
    with pytest.raises(NodeError, match=r"nodes.work.body.deeper .*12 with those around and before"):
        run(11)
    with pytest.raises(
        NodeError,
        match=r"nodes.work \(loop\): .*takes 6 trips, 6 with those around and before it; the limit is 5",
    ):
        run(5)


def test_trips_accumulate_over_loops_as_they_begin() -> None:
    from guidegraph.graph.trust.limits import LimitExceeded, Limits, TripCount, enforce_limits

    count = TripCount()
    with enforce_limits(Limits(trips=100)):
        with count.scope():
            count.begin(8)  # 8
            for _ in range(8):
                with count.scope():
                    count.begin(10)  # 80 more, in all trips of the first
            with count.count_separately(), count.scope():
                count.begin(5)  # a preview's
        with count.scope(), pytest.raises(LimitExceeded, match=r"takes 8 trips, 101 with those around and before it;"):
            count.begin(8)
        with count.scope(), pytest.raises(LimitExceeded, match="102 with those around and before it; the limit is 100"):
            count.begin(1)


def test_a_run_ends_at_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph.graph.errors import OutOfTime
    from guidegraph.graph.trust import limits

    (tmp_path / "w.yaml").write_text(LOOP % 1000)
    ticks = iter(range(10**6))
    replace_clock(monkeypatch, lambda: float(next(ticks)), "guidegraph.graph.trust.limits")
    workflow = load_workflow(
        tmp_path / "w.yaml", registry=engine_nodes.REGISTRY, cache="off", limits=limits.Limits(seconds=100)
    )
    with pytest.raises(OutOfTime, match=r"took longer than the limit of 100 s; .*--limit seconds=VALUE"):
        workflow.run()
    assert next(ticks) < 200


def write_png_bomb(path: Path, side: int) -> None:
    """Write a PNG of side × side pixels in few bytes, with its texts after the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_picture_of_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    from guidegraph.graph.trust.limits import Limits

    write_png_bomb(tmp_path / "a.png", 12_000)
    text = "guidegraph: 1\nnodes: {n: {use: image.load, with: {path: a.png}}}\noutputs: {x: n}\n"
    (tmp_path / "w.yaml").write_text(text)
    message = r"a\.png has 12,000 × 12,000 = 144,000,000 pixels; the limit is 100,000,000.*--limit pixels=144000000"
    with pytest.raises(NodeError, match=message):
        load_workflow(tmp_path / "w.yaml", registry=REGISTRY, cache="off").run()
    with pytest.raises(NodeError, match=r"cannot be read as a picture: .*truncated"):  # allowed, and then cut off
        load_workflow(tmp_path / "w.yaml", registry=REGISTRY, cache="off", limits=Limits(pixels=144_000_000)).run()


def test_the_recipe_of_a_picture_of_many_pixels_is_not_read(tmp_path: Path) -> None:
    from guidegraph.runs.recipe import read_recipe

    write_png_bomb(tmp_path / "a.png", 12_000)
    with pytest.raises(WorkflowError, match="144,000,000 pixels; the limit is"):
        read_recipe(tmp_path / "a.png")


def test_noise_of_many_elements_is_refused_before_it_is_drawn() -> None:
    from guidegraph_runtime.noise import gaussian

    for batch in (8, 10**15):
        with pytest.raises(ValueError, match=r"elements; the limit is 500,000,000"):
            gaussian(0, [4, 30_000, 30_000], batch)


def test_the_docs_list_every_limit_with_its_default() -> None:
    from guidegraph.graph.trust.limits import LIMIT_NAMES, Limits, show_limit

    text = (ROOT / "docs" / "reference" / "limits.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    assert rows == [(name, show_limit(name, getattr(Limits(), name))) for name in LIMIT_NAMES]


class TestParsing:
    """``--limit NAME=VALUE``."""

    @pytest.mark.parametrize(
        ("text", "name", "value"),
        [
            ("trips=20M", "trips", 20_000_000),
            ("nodes=1_000", "nodes", 1000),
            ("pixels=1.5G", "pixels", 1_500_000_000),
            ("file_bytes=6GB", "file_bytes", 6 * 10**9),
            ("workflow_bytes=1MiB", "workflow_bytes", 2**20),
            ("seconds=5min", "seconds", 300.0),
            ("call_seconds=off", "call_seconds", None),
            ("trips=off", "trips", 2**63 - 1),
            ("memory_bytes=off", "memory_bytes", None),
        ],
    )
    def test_valid_limits(self, text: str, name: str, value: float | None) -> None:
        from guidegraph.graph.trust.limits import parse_limits

        assert getattr(parse_limits([text]), name) == value

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("trip=3", "there is no limit 'trip'; did you mean 'trips'?"),
            ("trips", "'trips' is not NAME=VALUE"),
            ("trips=-1", "expected a number such as 20000, 20k or 2M, or off; found '-1'"),
            ("trips=0", "expected a number above 0"),
            ("trips=nan", "expected a number such as"),
            ("file_bytes=many", "'many' is not a size"),
            ("seconds=5 years", "expected a number such as 90, 5min or 2h"),
        ],
    )
    def test_invalid_limits(self, text: str, message: str) -> None:
        from guidegraph.graph.trust.limits import parse_limits

        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            parse_limits([text])

    def test_limits_from_python_are_checked(self) -> None:
        from guidegraph import Limits

        for limits in ({"trips": 0}, {"trips": None}, {"nodes": 1.5}, {"seconds": float("nan")}, {"pixels": True}):
            with pytest.raises(ValueError, match="limit '"):
                Limits(**limits)
