"""Which samples of a batch each value of a function depends on, followed operator by operator.

The function runs on fake tensors of `SAMPLES` samples. Beside each tensor goes a tensor of bits, one for each sample
that an element depends on; an axis along which the bits are equal has the size 1 there. An operator without a rule
makes each of its results depend on every sample of its arguments, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from guidegraph.graph.export.onnx.fake_sizes import ShortFakes
from guidegraph.graph.export.partition.sample_rules import (
    PICKS,
    RULES,
    SAMPLES,
    Bits,
    Blame,
    Operator,
    count_samples,
    has_several,
    list_tensors,
    shrink,
)
from guidegraph.graph.torch_private import FakeTensor, TorchDispatchMode, disable_current_modes


@dataclass(frozen=True)
class Mixing:
    """Why a result's samples depend on each other. operator: such as ``aten.amax``, "" if none was found.

    place: FILE:LINE of the call, or "". has_rule: whether the operator's effect on samples is known.
    """

    output: int
    operator: str
    place: str
    has_rule: bool = True

    def describe(self) -> str:
        """The operator and its place as the end of a sentence, without the folder of the file."""
        if not self.operator:
            return ": they change places"
        place = f" at {Path(self.place).name}" if self.place else ""
        return f": {self.operator}{place} {'mixes them' if self.has_rule else 'is not known to keep them apart'}"


class _Cell:
    """The bits of a tensor, or for a view of another tensor, how they follow from that one's."""

    def __init__(
        self, shape: Sequence[int], bits: Bits, blame: Blame | None = None, source: _Source | None = None
    ) -> None:
        self.shape, self.source = tuple(shape), source
        self._bits, self._blame, self._is_marked = bits, blame, source is None and bool(bits.any())
        self._followed: tuple[Bits | None, Bits] = (None, bits)

    @property
    def is_marked(self) -> bool:
        """Whether an element may depend on a sample."""
        return self._is_marked if self.source is None else self.source.cell.is_marked

    @property
    def bits(self) -> Bits:
        if self.source is None:
            return self._bits
        bits = self.source.cell.bits
        if bits is not self._followed[0]:
            self._followed = (bits, self.source.follow(bits))
        return self._followed[1]

    @property
    def blame(self) -> Blame | None:
        return self._blame if self.source is None else self.source.cell.blame

    def write(self, bits: Bits, blame: Blame | None) -> None:
        """Replace the bits, those of the viewed tensor too."""
        if self.source is None:
            self._bits, self._blame, self._is_marked = bits, self._blame or blame, bool(bits.any())
            return
        cell = self.source.cell
        if self.source.view is None:
            joined = reduce(torch.bitwise_or, torch.cat([cell.bits.flatten(), bits.flatten()]))
            cell.write(joined.reshape([1] * len(cell.shape)), blame)
            return
        full = cell.bits.expand(cell.shape).clone()
        self.source.view(full).copy_(bits.expand(self.shape))
        cell.write(shrink(full), blame)


@dataclass(frozen=True)
class _Source:
    """The cell that another one views. follow: the view's bits from its bits. view: of a whole tensor, or None for an
    operator without a rule, of which a write may reach every element."""

    cell: _Cell
    follow: Callable[[Bits], Bits]
    view: Callable[[Tensor], Tensor] | None


def find_mixing(
    function: Callable[..., Sequence[Any]],
    inputs: Sequence[Tensor],
    input_axes: Sequence[int | None],
    output_axes: Sequence[int | None],
) -> Mixing | None:
    """The first result in which a sample depends on other samples, or None if no result does.

    inputs: examples, of which only shapes and dtypes count. input_axes, output_axes: the axis of the samples of each,
    or None. A result without such an axis, or of size 1 there, must depend on no sample. Errors of the function, and of
    torch for one that reads the values of tensors, are passed on.
    """
    flow = SampleFlow()
    with torch.no_grad(), ShortFakes(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):
        arguments = []
        for example, axis in zip(inputs, input_axes, strict=True):
            sizes = [SAMPLES if i == axis else size for i, size in enumerate(example.shape)]
            arguments.append(torch.empty(sizes, dtype=example.dtype, device=example.device))
        with disable_current_modes():
            for argument, axis in zip(arguments, input_axes, strict=True):
                if axis is not None:
                    flow.mark(argument, axis)
        with flow, _DataAssignments(flow):
            outputs = function(*arguments)
    for index, (output, axis) in enumerate(zip(outputs, output_axes, strict=True)):
        if blame := flow.find_blame(output, axis):
            return Mixing(index, blame.operator, blame.place, blame.has_rule)
    return None


class SampleFlow(TorchDispatchMode):
    """Follows the samples of marked tensors through all operators that run in its context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cells: Any = WeakIdKeyDictionary()
        self._ranges: Any = WeakIdKeyDictionary()
        self._picked: Blame | None = None

    def mark(self, tensor: Tensor, axis: int) -> None:
        """Declare an axis of `SAMPLES` samples of an input."""
        bits = 2 ** torch.arange(SAMPLES, dtype=torch.uint8)
        shape = [SAMPLES if i == axis else 1 for i in range(tensor.ndim)]
        self._cells[tensor] = _Cell(tensor.shape, bits.reshape(shape))

    def share(self, tensor: Tensor, other: Tensor) -> None:
        """Follow ``tensor.data = other``: from now on, one memory has the values of both."""
        for kept in (self._cells, self._ranges):
            kept.pop(tensor, None)
        if other in self._ranges:
            self._ranges[tensor] = self._ranges[other]
        if other not in self._cells:
            self._cells[other] = _Cell(other.shape, self._read(other))
        self._cells[tensor] = self._cells[other]

    def find_blame(self, output: Tensor, axis: int | None) -> Blame | None:
        """The operator through which a result's sample depends on other samples; None if each depends on itself."""
        cell = self._cells.get(output)
        if cell is None or not cell.bits.any():
            return None
        bits, own = cell.bits, torch.zeros(1, dtype=torch.uint8)
        if axis is not None and output.shape[axis] == SAMPLES:
            own = 2 ** torch.arange(SAMPLES, dtype=torch.uint8)
            own = own.reshape([SAMPLES if i == axis else 1 for i in range(output.ndim)])
        if not (bits & ~own).any():
            return None
        return cell.blame or self._picked or Blame("", "", True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = Operator(func, args, kwargs, self._read, self._read_values)
        cells = [cell for each in operator.tensors if (cell := self._cells.get(each)) is not None]
        out = func(*args, **kwargs)
        operator.results = [*list_tensors(out if isinstance(out, (list, tuple)) else (out,))]
        if operator.results or operator.signature.written:
            with disable_current_modes():
                self._follow(operator, [cell for cell in cells if cell.is_marked])
        return out

    def _read(self, tensor: Tensor) -> Bits:
        cell = self._cells.get(tensor)
        return torch.zeros([1] * tensor.ndim, dtype=torch.uint8) if cell is None else cell.bits

    def _read_values(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor that are the same in every call: a range, or a constant of the code."""
        values: Tensor | None = self._ranges.get(tensor)
        if values is None:
            values = tensor if not isinstance(tensor, FakeTensor) else tensor.constant
        return values

    def _follow(self, operator: Operator, marked: Sequence[_Cell]) -> None:
        """Give the results of an operator their bits, and the arguments that it writes. marked: cells of arguments."""
        if operator.name == "arange":
            options = {name: value for name, value in operator.kwargs.items() if name == "dtype"}
            self._ranges[operator.results[0]] = operator.func(*operator.args, **options)
        if operator.signature.is_view:
            self._follow_view(operator)
            return
        targets = [*list_tensors([operator.by_name[name] for name in operator.signature.written])]
        if any(not each.is_floating_point() for each in targets):
            self._ranges.clear()  # one of them may be a range, or share its memory
        if targets and not all(any(each is result for result in operator.results) for each in targets):
            self._join_into(targets, operator)
            return
        if not marked and not operator.signature.written:
            return
        has_rule = True
        if not marked or operator.creates:
            bits = [torch.zeros([1] * each.ndim, dtype=torch.uint8) for each in operator.results]
        else:
            bits, has_rule = operator.apply()
        blame = self._find_blame(operator, marked, bits, has_rule) if marked else None
        for result, marks in zip(operator.results, bits, strict=True):
            written = self._cells.get(result) if operator.writes(result) else None
            if written is not None:
                written.write(shrink(marks.expand(result.shape)) if marks.numel() > 1 else marks, blame)
            elif marks.any():
                self._cells[result] = _Cell(result.shape, marks, blame)

    def _join_into(self, written: Sequence[Tensor], operator: Operator) -> None:
        """Let tensors that an operator writes, and does not return singly, depend on all samples of its arguments."""
        bits = torch.cat([self._read(each).flatten() for each in operator.tensors])
        joined = reduce(torch.bitwise_or, bits)
        for each in written:
            cell = self._cells.get(each)
            if cell is None:
                cell = self._cells[each] = _Cell(each.shape, self._read(each))
            cell.write(joined.reshape([1] * each.ndim), operator.blame(False) if joined else None)

    def _follow_view(self, operator: Operator) -> None:
        viewed = operator.values[0]
        cell = self._cells.get(viewed)
        if viewed in self._ranges and len(operator.results) == 1:
            self._ranges[operator.results[0]] = operator.run(self._ranges[viewed])
        if cell is None:
            cell = self._cells[viewed] = _Cell(viewed.shape, self._read(viewed))
        for index, result in enumerate(operator.results):

            def follow(bits: Bits, index: int = index) -> Bits:
                return operator.with_bits(bits).apply()[0][index]

            def view(full: Tensor, index: int = index) -> Tensor:
                return [*list_tensors(made if isinstance(made := operator.run(full), (list, tuple)) else (made,))][
                    index
                ]

            has_rule = operator.name in RULES
            made = _Cell(result.shape, cell.bits, None, _Source(cell, follow, view if has_rule else None))
            if not has_rule and self._picked is None and cell.is_marked:
                self._picked = operator.blame(False)
            if (
                operator.name in PICKS
                and self._picked is None
                and cell.is_marked
                and count_samples(made.bits) < count_samples(cell.bits)
            ):
                self._picked = operator.blame(True)
            self._cells[result] = made

    def _find_blame(
        self, operator: Operator, marked: Sequence[_Cell], bits: Sequence[Bits], has_rule: bool
    ) -> Blame | None:
        """The blame of the arguments, or that of this operator if it joins samples, or is not known."""
        for cell in marked:
            if cell.blame is not None:
                return cell.blame
        if not has_rule or (any(map(has_several, bits)) and not any(has_several(cell.bits) for cell in marked)):
            return operator.blame(has_rule)
        return None


class _DataAssignments(TorchFunctionMode):
    """Tells a `SampleFlow` of assignments to ``.data``, which call no operator."""

    def __init__(self, flow: SampleFlow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            with disable_current_modes():
                self._flow.share(*args)
        return result
