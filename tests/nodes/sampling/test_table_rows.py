"""The rows of a sampler's table, taken one by one or from a list of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.sampling.table_rows import Zeros, take_entry, take_row
from guidegraph.nodes.types import Prediction, SchedulerState
from tests.nodes.sampling.closed_form import scaled_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [0, 3, 7])
def test_a_row_is_that_of_the_table_in_the_dtype_of_x(dtype: torch.dtype, row: int) -> None:
    scheduler = samplers.unipc(scaled_linear(), steps=8).scheduler
    x, index = torch.zeros(1, dtype=dtype), torch.tensor([row])
    taken = take_row(scheduler, index, x)
    for value, column in zip(taken[:3], (scheduler.matrix, scheduler.alpha, scheduler.sigma), strict=True):
        assert torch.equal(value, column[row].to(dtype))
        assert torch.equal(value, take_entry(column, index, x))


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler_ancestral", "lcm", "heun", "dpmpp_2m"])
def test_the_terms_of_a_row_are_its_matrix_if_it_keeps_nothing(name: str) -> None:
    scheduler = getattr(samplers, name)(scaled_linear(), steps=4).scheduler
    for row, matrix in enumerate(scheduler.matrix):
        terms = take_row(scheduler, torch.tensor([row]), torch.zeros(1)).terms
        if matrix[1:].any():
            assert terms is None
        else:
            assert terms is not None
            assert dict(terms) == {i: float(matrix[0, i]) for i in matrix[0].nonzero().flatten().tolist()}


def test_the_zeros_of_a_size_are_kept_until_another_size_is_asked_for() -> None:
    zeros = Zeros(torch.zeros((), dtype=torch.float64))
    small = zeros.expand(torch.Size([4, 1, 2]))
    assert zeros.expand(torch.Size([4, 1, 2])) is small
    for shape in ([4, 3, 2], [4, 1, 2], []):
        assert torch.equal(zeros.expand(torch.Size(shape)), torch.zeros(shape, dtype=torch.float64))


def test_an_index_that_is_changed_in_place_is_read_again() -> None:
    sampler, x = samplers.ddim(scaled_linear(), steps=4), torch.zeros(1, 1, 2, 2)

    def take_step() -> SchedulerState:
        return step(sampler.scheduler, x, Prediction(x, "eps"), sampler.state, sampler.steps[:1]).state

    first = take_step()
    assert first.index is take_step().index
    assert take_row(sampler.scheduler, first.index, x).alpha == take_row(sampler.scheduler, torch.tensor([1]), x).alpha
    first.index.add_(2)
    assert take_row(sampler.scheduler, first.index, x).alpha == take_row(sampler.scheduler, torch.tensor([3]), x).alpha
    assert take_step().index.tolist() == [1]


def test_the_next_index_stays_on_the_cpu_whatever_torchs_default_device() -> None:
    sampler, x = samplers.ddim(scaled_linear(), steps=4), torch.zeros(1, 1, 2, 2)
    with torch.device("meta"):
        state = step(sampler.scheduler, x, Prediction(x, "eps"), sampler.state, sampler.steps[:1]).state
    assert state.index.device.type == state.slots.device.type == "cpu"
    assert state.index.tolist() == [1]


@pytest.mark.parametrize("row", [-1, 8])
def test_a_row_that_does_not_exist_is_an_error(row: int) -> None:
    scheduler = samplers.ddim(scaled_linear(), steps=8).scheduler
    with pytest.raises(ValueError, match=rf"8 rows and no row {row}: the loop must run over the 'steps'"):
        take_row(scheduler, torch.tensor([row]), torch.zeros(1))


def test_rows_made_while_calls_are_recorded_are_not_those_of_later_steps() -> None:
    scheduler, index, x = samplers.ddim(scaled_linear(), steps=8).scheduler, torch.tensor([2]), torch.zeros(1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        take_row(scheduler, index, x)
    assert torch.equal(take_row(scheduler, index, x).alpha, scheduler.alpha[2].float())


def test_the_gradient_of_a_table_is_that_of_each_step() -> None:
    table = samplers.ddim(scaled_linear(), steps=8).scheduler
    scheduler = replace(table, matrix=table.matrix.clone().requires_grad_())
    for _ in range(2):
        take_row(scheduler, torch.tensor([2]), torch.zeros(1)).matrix.sum().backward()
    assert scheduler.matrix.grad is not None
    assert scheduler.matrix.grad[2].eq(2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_follow_a_table_that_is_changed_in_place(dtype: torch.dtype) -> None:
    scheduler, index = samplers.ddim(scaled_linear(), steps=8).scheduler, torch.tensor([2])
    x = torch.zeros(1, dtype=dtype)
    earlier = take_row(scheduler, index, x).alpha
    expected = 2 * earlier
    scheduler.alpha.mul_(2)
    assert torch.equal(take_row(scheduler, index, x).alpha, expected)
    assert torch.equal(2 * earlier, expected), "a row is a copy"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_a_table_of_inference_mode_allow_gradients(dtype: torch.dtype) -> None:
    with torch.inference_mode():
        scheduler = samplers.ddim(scaled_linear(), steps=8).scheduler
    x = torch.ones(1, dtype=dtype, requires_grad=True)
    (take_row(scheduler, torch.tensor([2]), x).alpha * x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, scheduler.alpha[2:3].to(dtype))
