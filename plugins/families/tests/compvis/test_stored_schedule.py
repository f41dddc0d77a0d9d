"""The schedule of a single file: the stored ᾱ, the β beside it, and the mark of zero terminal SNR."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.load_options import LoadOptions
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import Schedule
from guidegraph_families.compvis.single_file import load_compvis
from plugins.families.tests.diffusers import pipelines

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

NOMINAL = schedules.scaled_linear(train_steps=1000, beta_start=0.00085, beta_end=0.012)
ZERO = schedules.zero_terminal_snr(NOMINAL).alphas_bar
MARKS = {"ztsnr": torch.zeros(0), "v_pred": torch.zeros(0)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sd1")
    return pipelines.single_file(pipelines.pipeline("sd1", root), "sd1", root / "model.ckpt")


@pytest.fixture(scope="module")
def tensors(path: Path) -> dict[str, Tensor]:
    read: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return read


def load_schedule(tensors: dict[str, Tensor], path: Path) -> Schedule:
    schedule: Schedule = load_compvis(tensors, path, LoadOptions())["schedule"]
    return schedule


@pytest.mark.parametrize("betas", [None, -torch.ones(1000), torch.full((1000,), torch.nan)])
def test_the_stored_values_win_over_betas_that_disagree(
    betas: Tensor | None, tensors: dict[str, Tensor], path: Path
) -> None:
    changes = {"alphas_cumprod": ZERO.float()} | ({} if betas is None else {"betas": betas})
    assert torch.equal(load_schedule(tensors | changes, path).alphas_bar, ZERO.float().double())


def test_betas_that_agree_give_the_values_before_they_were_rounded(tensors: dict[str, Tensor], path: Path) -> None:
    other = schedules.linear(train_steps=1000, beta_start=1e-4, beta_end=0.02).alphas_bar
    betas = 1 - other / torch.cat([torch.ones(1), other[:-1]])
    actual = load_schedule(tensors | {"alphas_cumprod": other.half(), "betas": betas.float()}, path).alphas_bar
    torch.testing.assert_close(actual, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_rounded_schedule_is_the_nominal_one_unless_it_ends_without_signal(
    dtype: torch.dtype, tensors: dict[str, Tensor], path: Path
) -> None:
    without_betas = {name: value for name, value in tensors.items() if name != "betas"}
    nominal = NOMINAL.alphas_bar
    assert torch.equal(load_schedule(without_betas | {"alphas_cumprod": nominal.to(dtype)}, path).alphas_bar, nominal)
    actual = load_schedule(without_betas | {"alphas_cumprod": ZERO.to(dtype)}, path).alphas_bar
    assert torch.equal(actual, ZERO.to(dtype).double())


def test_the_mark_of_zero_terminal_snr_counts_beside_stored_values(tensors: dict[str, Tensor], path: Path) -> None:
    schedule = load_schedule(tensors | MARKS, path)
    torch.testing.assert_close(schedule.alphas_bar, ZERO)
    assert (schedule.alphas_bar[-1], schedule.trained_to) == (0, 999)


def test_stored_values_without_signal_at_the_end_are_not_rescaled(tensors: dict[str, Tensor], path: Path) -> None:
    schedule = load_schedule(tensors | MARKS | {"alphas_cumprod": ZERO.float()}, path)
    assert torch.equal(schedule.alphas_bar, ZERO.float().double())
    assert schedule.trained_to == 999
