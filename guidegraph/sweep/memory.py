"""What one worker keeps from cell to cell: models, data sets and whatever else no cell changes."""

from __future__ import annotations

from guidegraph.graph.cache import MemoryCache, Values
from guidegraph.graph.ir import Call, Op, Output
from guidegraph.graph.plan import Plan
from guidegraph_runtime.machine import machine_memory

KEPT_FOR = 8


class SharedValues(MemoryCache):
    """A cache of the values that cells may take from each other without a bit of their results changing.

    Calls of a batchable node may be made as one, and a batch of two may differ from two batches of one in the last
    bit. So no such call is answered from here, and nothing that follows one: each cell makes the very calls that
    it makes alone. What ``KEPT_FOR`` cells have not asked for is dropped.
    """

    def __init__(self, limit: int):
        super().__init__(limit)
        self._allowed: frozenset[str] = frozenset()
        self._used: dict[str, int] = {}
        self._cell = 0

    def begin(self, plan: Plan) -> SharedValues:
        """This cache, as the next cell may use it, which follows this plan."""
        self._allowed = shareable(plan)
        self._cell += 1
        for digest in [d for d, cell in self._used.items() if cell < self._cell - KEPT_FOR]:
            del self._used[digest]
            self.drop(digest)
        return self

    def get(self, digest: str) -> Values | None:
        if digest not in self._allowed or (found := super().get(digest)) is None:
            return None
        self._used[digest] = self._cell
        return found

    def put(self, digest: str, values: Values) -> None:
        if digest in self._allowed:
            self._used[digest] = self._cell
            super().put(digest, values)


def shareable(plan: Plan) -> frozenset[str]:
    """The digests of the operations that are in no batch and follow no call that may be in one."""
    alone: set[str] = set()
    for key, op in plan.ops.items():
        if not _batchable(op) and all(s.op in alone for s in op.sources() if isinstance(s, Output)):
            alone.add(key)
    return frozenset(plan.digests[key] for key in alone)


def _batchable(op: Op) -> bool:
    return isinstance(op, Call) and bool(op.spec.batchable)


def memory_limit(device: str, workers: int) -> int:
    """How many bytes one of several workers may keep: three quarters of its share of the device's memory."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory) * 3 // 4
    return max(2 << 30, (machine_memory() or 0) * 3 // 4 // max(workers, 1))
