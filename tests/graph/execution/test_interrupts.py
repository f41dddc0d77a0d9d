"""Ctrl-C in a person's own program is theirs; whatever else a node raises is the node's failure."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from guidegraph import NodeError, node
from guidegraph.graph.cancellation import ignore_interrupt
from guidegraph.graph.execution.run import run
from guidegraph.graph.node import Registry, get_spec
from guidegraph.graph.resolution.load import build

TEXT = """
guidegraph: 1
nodes: {bad: {use: toy.raises}}
outputs: {bad: bad}
"""


def run_raising(folder: Path, failure: type[BaseException], *, io: bool = False) -> None:
    @node("toy.raises", io=io)
    def raises() -> float:
        """Raise."""
        raise failure

    @node("toy.other", io=io)
    def other() -> float:
        """Two such nodes run on threads beside each other."""
        return 0.0

    text = TEXT.replace("bad: {use: toy.raises}", "bad: {use: toy.raises}, other: {use: toy.other}")
    (folder / "w.yaml").write_text(text.replace("outputs: {", "outputs: {other: other, "))
    registry = Registry({"toy.raises": get_spec(raises), "toy.other": get_spec(other)})
    run(build(folder / "w.yaml", registry), {})


def test_ctrl_c_ends_the_program_that_called_us(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_raising(tmp_path, KeyboardInterrupt)


def test_where_ctrl_c_sets_a_token_the_node_raised_it(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, ignore_interrupt)
    try:
        with pytest.raises(NodeError, match=r"nodes\.bad \(toy\.raises\): KeyboardInterrupt"):
            run_raising(tmp_path, KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("failure", [GeneratorExit, SystemExit, BaseException])
@pytest.mark.parametrize("io", [False, True])
def test_every_other_exception_is_the_nodes(tmp_path: Path, failure: type[BaseException], io: bool) -> None:
    with pytest.raises(NodeError, match=rf"nodes\.bad \(toy\.raises\): {failure.__name__}"):
        run_raising(tmp_path, failure, io=io)


def test_an_interrupt_on_a_thread_is_the_nodes(tmp_path: Path) -> None:
    """Python raises that of Ctrl-C in the main thread alone."""
    with pytest.raises(NodeError, match="KeyboardInterrupt"):
        run_raising(tmp_path, KeyboardInterrupt, io=True)
