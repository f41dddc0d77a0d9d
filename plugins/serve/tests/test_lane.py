"""The order of jobs between steps: short ones overtake, long ones age, and batch and memory have limits."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidegraph_serve.lane import AGING, CallBudget, Lane


@dataclass(eq=False)
class Ticket:
    """A job of some steps, open from its first step on. ended: the round after which it was done."""

    remaining: int
    samples: int = 1
    nbytes: int = 1
    call_bytes: int = 0
    step_seconds: float = 1.0
    priority: int = 0
    waited: int = 0
    is_open: bool = False
    ended: int = 0


def run_round(lane: Lane[Ticket], number: int) -> list[Ticket]:
    chosen = lane.choose()
    for ticket in chosen:
        ticket.is_open = True
        ticket.remaining -= 1
        if not ticket.remaining:
            ticket.ended = number + 1
            lane.jobs.remove(ticket)
    return chosen


def run_all(lane: Lane[Ticket], arrivals: dict[int, list[Ticket]]) -> None:
    """Run rounds until all have ended. arrivals: by round."""
    number = 0
    while lane.jobs or any(arrived >= number for arrived in arrivals):
        lane.jobs += arrivals.get(number, [])
        run_round(lane, number)
        number += 1


def test_a_short_job_behind_a_long_one_takes_a_tenth_of_its_time_in_order_of_arrival_or_less() -> None:
    for batch in (1, 8):
        short, long = Ticket(5), Ticket(200)
        run_all(Lane(batch, 1000), {0: [long], 1: [short]})
        in_order = 199 + 5
        assert short.ended - 1 <= 0.10 * in_order
        assert long.ended <= 205


def test_a_full_batch_of_long_jobs_makes_room_for_a_short_one() -> None:
    long = [Ticket(200) for _ in range(8)]
    short = Ticket(5)
    run_all(Lane(8, 1000), {0: long, 10: [short]})
    assert short.ended == 15
    assert max(ticket.ended for ticket in long) == 205


def test_a_long_job_ends_under_a_stream_of_short_ones() -> None:
    long = Ticket(40)
    short = {number: [Ticket(5)] for number in range(0, 2000, 5)}  # as many as the lane can do without the long one
    run_all(Lane(1, 1000), {**short, 1: [long]})
    assert long.ended <= 1 + 40 + 40 / AGING + 5


def test_a_job_that_went_ahead_by_age_is_not_overtaken_again_by_new_ones() -> None:
    lane: Lane[Ticket] = Lane(1, 1000)
    long = Ticket(30, waited=200)
    lane.jobs = [long]
    for number in range(30):
        lane.jobs.append(Ticket(2))
        assert run_round(lane, number) == [long]


def test_priority_goes_before_length() -> None:
    urgent, short = Ticket(50, priority=1), Ticket(2)
    run_all(Lane(1, 1000), {0: [short, urgent]})
    assert (urgent.ended, short.ended) == (50, 52)


def test_equal_jobs_keep_the_order_of_their_arrival() -> None:
    tickets = [Ticket(3) for _ in range(4)]
    run_all(Lane(1, 1000), {0: tickets})
    assert [ticket.ended for ticket in tickets] == [3, 6, 9, 12]


def test_open_runs_keep_within_the_memory_but_one_is_always_open() -> None:
    lane: Lane[Ticket] = Lane(8, 10)
    lane.jobs = [Ticket(3, nbytes=12), Ticket(4, nbytes=6), Ticket(4, nbytes=4), Ticket(4, nbytes=1)]
    assert [ticket.nbytes for ticket in run_round(lane, 0)] == [12]
    run_round(lane, 1), run_round(lane, 2)
    assert [ticket.nbytes for ticket in run_round(lane, 3)] == [6, 4]


def test_no_new_job_begins_while_others_wait_for_the_bundle() -> None:
    lane: Lane[Ticket] = Lane(8, 10)
    lane.jobs = [Ticket(9, is_open=True), Ticket(1)]
    assert lane.choose(admit=False) == lane.jobs[:1]
    assert lane.has_open
    assert [ticket.waited for ticket in lane.jobs] == [0, 1]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8), st.integers(0, 20), st.integers(0, 40)), max_size=25),
    st.integers(8, 16),
)
def test_every_job_ends_and_no_round_exceeds_the_batch(jobs: list[tuple[int, int, int, int]], batch: int) -> None:
    arrivals: dict[int, list[Ticket]] = {}
    for steps, samples, nbytes, arrived in jobs:
        arrivals.setdefault(arrived, []).append(Ticket(steps, samples, nbytes))
    lane: Lane[Ticket] = Lane(batch, 20)
    for number in range(41 + sum(steps for steps, *_ in jobs)):
        lane.jobs += arrivals.get(number, [])
        chosen = run_round(lane, number)
        assert sum(ticket.samples for ticket in chosen) <= batch
        assert sum(ticket.nbytes for ticket in lane.jobs if ticket.is_open) <= 20
    assert lane.jobs == []


@pytest.mark.parametrize("samples", [1, 3])
def test_a_large_request_is_not_passed_over_for_ever(samples: int) -> None:
    large = Ticket(4, samples=8)
    small = {number: [Ticket(3, samples=samples)] for number in range(300)}
    lane: Lane[Ticket] = Lane(8, 1000)
    for number in range(300):
        lane.jobs += small[number] + ([large] if number == 1 else [])
        run_round(lane, number)
    assert 0 < large.ended < 60


def test_a_request_that_needs_memory_is_not_passed_over_for_ever() -> None:
    large = Ticket(4, nbytes=8)
    lane: Lane[Ticket] = Lane(8, 10)
    for number in range(300):
        lane.jobs += [Ticket(6, nbytes=2)] + ([large] if number == 5 else [])
        run_round(lane, number)
    assert 0 < large.ended < 60


def test_the_calls_of_a_step_fit_into_their_memory_and_the_quickest_goes_first() -> None:
    small, large, other = (
        Ticket(9, call_bytes=40),
        Ticket(3, call_bytes=80, step_seconds=10.0),
        Ticket(9, call_bytes=60),
    )
    lane: Lane[Ticket] = Lane(8, 1000, call_memory=100)
    lane.jobs += [large, small, other]
    assert lane.choose() == [small, other]
    lane.jobs = [Ticket(1, call_bytes=500)]
    assert lane.choose() == lane.jobs, "one that is alone is stepped whatever it takes"


def test_calls_of_several_bundles_wait_for_their_memory() -> None:
    budget, order = CallBudget(100), []
    is_held, may_end = Event(), Event()

    def hold() -> None:
        with budget.reserve(80):
            is_held.set()
            may_end.wait(30)
            order.append("first")

    thread = Thread(target=hold)
    thread.start()
    assert is_held.wait(30)
    with budget.reserve(20):
        may_end.set()
    with budget.reserve(500):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_large_call_is_not_passed_over_by_small_ones_that_come_later() -> None:
    budget, order = CallBudget(100), []
    large_waits = Event()

    def call(nbytes: int) -> None:
        with budget.reserve(nbytes, lambda: nbytes < 100 or large_waits.set() is None):
            order.append(nbytes)

    large, small = (Thread(target=call, args=(nbytes,)) for nbytes in (100, 20))
    with budget.reserve(60):
        large.start()
        assert large_waits.wait(30)
        small.start()  # 20 bytes are free, and it is behind the large one
        with budget.reserve(0) as is_held:
            assert is_held, "a call of unknown size does not wait"
        assert order == []
    large.join()
    small.join()
    assert order == [100, 20]


def test_a_call_that_nobody_wants_any_longer_leaves_the_queue() -> None:
    budget, answers = CallBudget(100), iter([True, False])
    with budget.reserve(80):
        with budget.reserve(50, lambda: next(answers)) as is_held:
            assert not is_held
        with budget.reserve(20) as is_held:
            assert is_held
