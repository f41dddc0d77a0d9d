"""Each request goes to the replica with the least open work, counted when it is assigned."""

from __future__ import annotations

from guidegraph_serve.replica_loads import ReplicaLoads

NAMES = ("a", "b")


def is_never_dropped() -> bool:
    return False


def assign(loads: ReplicaLoads, request: str, work: int = 1, names: tuple[str, ...] = NAMES) -> str:
    return loads.assign(request, work, names, is_never_dropped)[0]


def test_equal_requests_are_spread_evenly() -> None:
    loads = ReplicaLoads()
    chosen = [assign(loads, str(i), names=("a", "b", "c")) for i in range(12)]
    assert chosen == ["a", "b", "c"] * 4


def test_a_long_request_counts_as_several_short_ones() -> None:
    loads = ReplicaLoads()
    assert [assign(loads, str(i), work) for i, work in enumerate([100, 10, 30, 50, 20])] == ["a", "b", "b", "b", "b"]
    assert assign(loads, "6", 5) == "a"


def test_what_has_ended_counts_no_more() -> None:
    loads = ReplicaLoads()
    assign(loads, "long", 100)
    assign(loads, "short", 1)
    loads.release("long")
    loads.release("unknown")
    assert assign(loads, "next") == "a"


def test_idle_replicas_take_turns() -> None:
    loads = ReplicaLoads()
    chosen = []
    for i in range(4):
        chosen.append(assign(loads, str(i)))
        loads.release(str(i))
    assert chosen == ["a", "b", "a", "b"]


def test_a_request_counts_where_it_was_sent() -> None:
    loads = ReplicaLoads()
    assert loads.assign("1", 5, NAMES, is_never_dropped) == ["a", "b"]
    loads.send("1", "b")
    assert assign(loads, "2") == "a"


def test_a_request_that_is_assigned_again_counts_once() -> None:
    loads = ReplicaLoads()
    assign(loads, "1", 5)
    assign(loads, "1", 5)
    assert [assign(loads, "2", 5), assign(loads, "3", 5)].count("a") == 1


def test_a_request_that_was_dropped_before_it_was_sent_counts_no_more() -> None:
    loads = ReplicaLoads()
    loads.assign("1", 100, NAMES, lambda: True)
    loads.assign("2", 1, NAMES, is_never_dropped)
    assert assign(loads, "3", 1) == "a"


def test_a_request_that_was_sent_counts_until_it_ends() -> None:
    loads = ReplicaLoads()
    loads.assign("1", 100, NAMES, lambda: True)
    loads.send("1", "a")
    assert [assign(loads, "2"), assign(loads, "3")] == ["b", "b"]


def test_lost_replicas_are_forgotten() -> None:
    loads = ReplicaLoads()
    assign(loads, "1", 100)
    assert assign(loads, "2", names=("b",)) == "b"
    assert assign(loads, "3", names=NAMES) == "a"
    assert loads.assign("4", 1, (), is_never_dropped) == []
