"""Tasks that take turns end with the first error, whoever raises it, and leave no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from guidegraph.graph.errors import Cancelled
from guidegraph.graph.shared_runs.many_runs import Task, Turns
from tests.must_end import must_end


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    with must_end(20):
        yield


def wait_twice(task: Task) -> int:
    task.wait("first")
    task.wait("second")
    return task.index


def test_each_task_waits_until_all_wait() -> None:
    turns = Turns([wait_twice] * 3, at_once=2)
    requests: list[list[tuple[int, str]]] = []
    turns.run(lambda tasks: requests.append([(task.index, task.request) for task in tasks]))
    assert requests == [[(0, "first"), (1, "first")], [(0, "second"), (1, "second")], [(2, "first")], [(2, "second")]]
    assert [task.result for task in turns.tasks] == [0, 1, 2]


def test_an_error_of_what_a_waiting_task_is_asked_to_do_ends_all() -> None:
    def leave() -> None:
        raise SystemExit(3)

    turns = Turns([wait_twice] * 3, at_once=3)
    with pytest.raises(SystemExit):
        turns.run(lambda tasks: tasks[1].resume(leave))
    assert [type(task.error) for task in turns.tasks] == [Cancelled, SystemExit, Cancelled]


def test_a_task_that_computes_at_ctrl_c_ends_where_it_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    computes, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def compute(task: Task) -> None:
        try:
            computes.set()
            go_on.wait()
            task.wait("never answered")
        finally:
            ended.set()

    turns = Turns([wait_twice, compute], at_once=2)
    wait = turns.wait

    def wait_or_interrupt() -> None:
        if waits.pop(0) != "second starts":
            wait()
            return
        computes.wait()
        raise KeyboardInterrupt

    waits = ["first starts", "second starts", "first is aborted"]
    monkeypatch.setattr(turns, "wait", wait_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        turns.run(lambda tasks: None)
    assert isinstance(turns.tasks[0].error, Cancelled)
    go_on.set()
    assert ended.wait(10), "the thread waits for ever"
