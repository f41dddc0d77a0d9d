"""Fashion-MNIST: the packaged subset, idx files, and the reproducibility of batches."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from guidegraph.nodes.models.own.classifier import ClassifierConfig, NoisyClassifier
from guidegraph.nodes.models.own.unet import UNet
from guidegraph_lab.augmentations import drop_labels, jitter
from guidegraph_scenes.datasets import fashion, fashion_mnist
from guidegraph_scenes.fashion import CLASSES, load_fashion, read_idx


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def a_folder(folder: Path, count: int = 7) -> np.ndarray:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 28, 28)).astype(np.uint8)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pictures)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(count)))
    return pictures


def test_the_packaged_subset_has_every_class_about_equally_often() -> None:
    for split, count in (("train", 10_000), ("test", 2_000)):
        pictures, labels = load_fashion(split)  # type: ignore[arg-type]
        assert pictures.shape == (count, 28, 28)
        share = np.bincount(labels, minlength=len(CLASSES)) / count
        assert np.all((share > 0.08) & (share < 0.12))


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    data = fashion_mnist(seed=3, batch=5, count=4).batches
    again = fashion_mnist(seed=3, batch=5, count=9).batches
    torch.testing.assert_close(data[2].sample, again[2].sample)
    assert data[2].label.tolist() == again[2].label.tolist()
    assert not torch.equal(data[2].sample, data[3].sample)
    assert not torch.equal(data[2].sample, fashion_mnist(seed=4, batch=5, count=4).batches[2].sample)


def test_pictures_are_padded_with_black_and_scaled() -> None:
    batch = fashion_mnist(batch=3, split="test", shuffle=False).batches[0]
    pictures, labels = load_fashion("test")
    assert batch.sample.shape == (3, 1, 32, 32)
    assert batch.label.tolist() == labels[:3].tolist()
    assert torch.all(batch.sample[:, :, :2] == -1)
    assert torch.all(batch.sample[:, :, :, 30:] == -1)
    inner = ((batch.sample[:, 0, 2:30, 2:30] + 1) * 127.5).round().to(torch.uint8).numpy()
    assert np.array_equal(inner, pictures[:3])


def test_without_shuffling_the_file_is_read_in_order_and_starts_over() -> None:
    batches = fashion_mnist(batch=1_500, split="test", shuffle=False).batches
    _, labels = load_fashion("test")
    assert batches[0].label.tolist() == labels[:1500].tolist()
    assert batches[1].label.tolist() == [*labels[1500:], *labels[:1000]]


def test_a_test_set_is_a_range_of_the_file_in_order() -> None:
    first_30 = fashion(batch=30)
    part = fashion(start=20, batch=10)
    assert torch.equal(part.sample, first_30.sample[20:])
    assert torch.equal(part.label, first_30.label[20:])
    assert not torch.equal(fashion(batch=30, split="train").label, first_30.label)


def test_a_folder_of_idx_files_is_read(tmp_path: Path) -> None:
    pictures = a_folder(tmp_path)
    batch = fashion_mnist(batch=7, folder=tmp_path, shuffle=False).batches[0]
    assert batch.label.tolist() == list(range(7))
    assert np.array_equal(((batch.sample[:, 0, 2:30, 2:30] + 1) * 127.5).round().numpy(), pictures)


def test_errors_name_a_bad_folder_and_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        fashion_mnist(folder=tmp_path).batches[0]
    valid = idx(np.zeros((2, 28, 28)))
    for content, message in (
        (b"PNG", "not an idx file of bytes"),
        (valid[:-1], "is damaged: shape"),
        (gzip.compress(valid)[:40], "cannot be read"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_idx(tmp_path / "file")
    a_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(6)))
    with pytest.raises(ValueError, match="and N labels; found"):
        fashion_mnist(folder=tmp_path).batches[0]


def test_a_fraction_p_of_labels_is_dropped() -> None:
    label = torch.arange(10).repeat(200)
    dropped = drop_labels(label, 3, classes=10, p=0.15, seed=1)
    gone = dropped == 10
    assert 0.12 < gone.float().mean() < 0.18
    assert torch.equal(dropped[~gone], label[~gone])
    assert torch.equal(dropped, drop_labels(label, 3, classes=10, p=0.15, seed=1))
    assert not torch.equal(dropped, drop_labels(label, 4, classes=10, p=0.15, seed=1))


def test_jitter_shifts_by_at_most_the_set_pixels_and_mirrors() -> None:
    sample = torch.full((64, 1, 16, 16), -1.0)
    sample[:, :, 8, 3] = 1.0
    moved = jitter(sample, 0, pixels=2, seed=0)
    positions = [tuple(int(v) for v in picture[0].nonzero()[0]) for picture in (moved > 0)]
    assert all(abs(row - 8) <= 2 and min(abs(column - 3), abs(column - 12)) <= 2 for row, column in positions)
    assert {column > 8 for _, column in positions} == {True, False}
    assert len(set(positions)) > 20
    assert torch.equal(moved, jitter(sample, 0, pixels=2, seed=0))
    assert not torch.equal(moved, jitter(sample, 1, pixels=2, seed=0))


def test_the_classifier_shares_the_unets_encoder_and_sees_the_time() -> None:
    torch.manual_seed(0)
    config = ClassifierConfig(classes=4, size=16, channels=16, multipliers=(1, 2), attention=(1,), patch=2, heads=2)
    network = NoisyClassifier(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x = torch.randn(3, 1, 16, 16)
    unet = UNet(config.trunk())
    missing, unexpected = unet.load_state_dict(network.trunk.state_dict(), strict=False)
    assert not unexpected
    assert all(name.split(".")[0] in ("up", "upsample", "norm", "head") for name in missing)
    t = torch.tensor([0.0, 10.0, 900.0])
    ours, theirs = (trunk.encode(x, trunk.embed(t, None))[0] for trunk in (network.trunk, unet))
    torch.testing.assert_close(ours, theirs)
    logits = network(x, t)
    assert logits.shape == (3, 4)
    torch.testing.assert_close(logits[1:2], network(x[1:2], torch.tensor([10.0])))
    assert not torch.allclose(logits[1:2], network(x[1:2], torch.tensor([500.0])), atol=1e-4)
    assert network(x.double(), torch.zeros(3)).dtype == torch.float64
