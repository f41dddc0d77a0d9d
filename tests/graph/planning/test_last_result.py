"""A call that keeps its last result, also where threads run the same plan."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from guidegraph.graph.errors import Mark
from guidegraph.graph.ir import Call
from guidegraph.graph.node import get_spec
from guidegraph.graph.planning.steps import cache_last_result, keeps_last_result
from tests.graph.engine_nodes import scale

CALL = Call("scale", get_spec(scale), {}, {}, Mark("f.yaml", 1, 1))


@pytest.fixture
def switch_often() -> Iterator[None]:
    """Threads take turns after every few bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_it_computes_again_for_other_objects() -> None:
    numbers = itertools.count(1)
    call = cache_last_result(replace(CALL, spec=replace(CALL.spec, function=lambda x: next(numbers))))
    first, second = object(), object()
    assert [call.spec.function(x) for x in (first, first, second, first)] == [1, 1, 2, 3]
    assert keeps_last_result(call)
    assert not keeps_last_result(CALL)


@pytest.mark.usefixtures("switch_often")
def test_each_thread_gets_the_result_for_its_own_argument() -> None:
    function = cache_last_result(replace(CALL, spec=replace(CALL.spec, function=lambda x: x[0]))).spec.function
    wrong: list[int] = []

    def run_often(number: int) -> None:
        argument = (number,)
        wrong.extend(number for _ in range(30_000) if function(argument) != number)

    threads = [threading.Thread(target=run_often, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
