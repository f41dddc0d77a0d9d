"""The optimisers of a model: Muon on matrices, AdamW on the rest, and their states in a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidegraph.graph.sources import Literal
from guidegraph.graph.training.checkpoint import optimiser_tensors, restore_optimisers
from guidegraph.graph.training.fit import OptimisedModel
from guidegraph.graph.training.optimisers import Muon, make_optimisers, orthogonalise

RATE = 0.01


def spec(optimizer: str = "muon", **options: Any) -> OptimisedModel:
    return OptimisedModel("net", Literal(None), "loss", optimizer, RATE, None, 0, options)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 64, 3)
        self.mixed = nn.Conv2d(64, 48, 3)
        self.words = nn.Embedding(100, 48)
        self.wide = nn.Linear(48, 96)
        self.head = nn.Linear(96, 4)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        return self.head(torch.relu(self.wide(self.mixed(torch.relu(self.stem(x))).mean((2, 3)) + self.words(word))))


def train(net: nn.Module, optimisers: list[torch.optim.Optimizer], steps: int, first: int = 0) -> Tensor:
    loss = torch.zeros(())
    for i in range(first, first + steps):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(16, 3, 8, 8, generator=generator)
        loss = (net(x, torch.arange(16)) - x.mean((2, 3)).repeat(1, 2)[:, :4]).square().mean()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    return loss.detach()


def make(net: nn.Module, *args: Any, **options: Any) -> list[torch.optim.Optimizer]:
    return make_optimisers(spec(*args, **options), net, list(net.parameters()))


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    net = Net()
    muon, adamw = make(net)
    shapes = [tuple(p.shape) for p in muon.param_groups[0]["params"]]
    assert shapes == [(48, 64, 3, 3), (96, 48)]  # the stem has 27 columns, the head 4 rows
    taken = {id(p) for p in adamw.param_groups[0]["params"]}
    names = [name for name, p in net.named_parameters() if id(p) not in taken]
    assert names == ["mixed.weight", "wide.weight"]
    (only,) = make(nn.Linear(3, 4))
    assert type(only) is torch.optim.AdamW
    (only,) = make(nn.Linear(64, 64, bias=False))
    assert isinstance(only, Muon)


def test_a_weight_moves_by_an_orthogonal_matrix_with_the_root_mean_square_of_an_update_of_adamw() -> None:
    net = nn.Linear(96, 48, bias=False)
    before = net.weight.detach().clone()
    (muon,) = make(net, weight_decay=0.0)
    torch.manual_seed(1)
    net.weight.grad = torch.randn(48, 96) * torch.logspace(-1, 1, 48)[:, None]
    left, _, right = torch.linalg.svd(net.weight.grad, full_matrices=False)
    muon.step()
    update = (before - net.weight.detach()) / RATE
    scales = torch.linalg.svdvals(update) / (0.2 * 96**0.5)
    assert scales.min() > 0.5  # Jordan's five iterations give 0.7 to 1.2
    assert scales.max() < 1.3
    assert torch.nn.functional.cosine_similarity(update.flatten(), (left @ right).flatten(), dim=0) > 0.97
    assert update.square().mean().sqrt() == pytest.approx(0.2 * 0.9, abs=0.04)


def test_it_trains_as_torchs_muon_does_up_to_bfloat16() -> None:
    ours, theirs = (nn.Linear(96, 48, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    (muon,) = make(ours)
    reference = torch.optim.Muon(
        theirs.parameters(), lr=RATE, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    start = ours.weight.detach().clone()
    for i in range(5):
        gradient = torch.randn(48, 96, generator=torch.Generator().manual_seed(i))
        for layer, optimiser in ((ours, muon), (theirs, reference)):
            layer.weight.grad = gradient.clone()
            optimiser.step()
    moved, expected = ours.weight.detach() - start, theirs.weight.detach() - start
    assert (moved - expected).norm() < 0.03 * expected.norm()


def test_in_mixed_precision_it_iterates_in_bfloat16_and_the_weights_stay() -> None:
    matrix = torch.randn(48, 96, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = orthogonalise(matrix)
    assert rounded.dtype == torch.bfloat16
    exact = orthogonalise(matrix)
    assert exact.dtype == torch.float32
    assert (rounded - exact).norm() < 0.03 * exact.norm()
    net = Net()
    (muon, _) = make(net)
    net.wide.weight.grad = torch.randn(96, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        muon.step()
    assert net.wide.weight.dtype == muon.state[net.wide.weight]["momentum_buffer"].dtype == torch.float32


def test_both_decay_weights_by_the_same() -> None:
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimisers = make(net, weight_decay=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimiser in optimisers:
        optimiser.step()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.5 * RATE), msg=name)


def test_the_layout_of_a_weight_changes_nothing() -> None:
    updates = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = Net().to(memory_format=layout)
        (muon, _) = make(net)
        generator = torch.Generator().manual_seed(2)
        net.mixed.weight.grad = torch.randn(net.mixed.weight.shape, generator=generator)
        muon.step()
        assert net.mixed.weight.is_contiguous(memory_format=layout)
        updates.append((net.mixed.weight - Net().mixed.weight).detach())
    torch.testing.assert_close(*updates, rtol=0, atol=1e-3 * float(updates[0].abs().max()))


def test_a_weight_without_a_gradient_stays() -> None:
    net = Net()
    before = net.mixed.weight.detach().clone()
    optimisers = make(net)
    net.wide(torch.randn(2, 48)).square().mean().backward()
    for optimiser in optimisers:
        optimiser.step()
    assert torch.equal(net.mixed.weight, before)
    assert not torch.equal(net.wide.weight, Net().wide.weight)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_states_that_are_restored_go_on_with_the_same_losses(optimizer: str) -> None:
    whole, broken = Net(), Net()
    expected = train(whole, make(whole, optimizer), 6)
    first = make(broken, optimizer)
    train(broken, first, 3)
    tensors = {name: tensor.clone() for name, tensor in optimiser_tensors(first).items()}
    second = make(broken, optimizer)
    restore_optimisers(second, tensors)
    assert torch.equal(train(broken, second, 3, first=3), expected)


def test_muon_learns_faster_than_adamw_at_the_same_rate() -> None:
    losses = {}
    for optimizer in ("muon", "adamw"):
        net = Net()
        losses[optimizer] = train(net, make(net, optimizer), 60)
    assert losses["muon"] < losses["adamw"]
