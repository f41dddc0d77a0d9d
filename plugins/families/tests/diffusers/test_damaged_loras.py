"""LoRA files with factors, an α or settings that no tool writes are one error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph.graph.planning.digest import path_digest
from guidegraph.nodes.checkpoints.lora_layers import read_lora

DOWN, UP = torch.ones(2, 4), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("down", "up", "alpha", "reason"),
    [
        (torch.ones(4), torch.ones(4), torch.tensor(1.0), r"the factors of a have the shapes \(4,\) and \(4,\)"),
        (torch.ones(()), torch.ones(()), torch.tensor(1.0), r"the factors of a have the shapes \(\) and \(\)"),
        (torch.ones(0, 4), torch.ones(4, 0), torch.tensor(1.0), r"the shapes \(0, 4\) and \(4, 0\)"),
        (DOWN, UP, torch.ones(2), r"a\.alpha of shape \(2,\) is not one finite number"),
        (DOWN, UP, torch.ones(0), r"a\.alpha of shape \(0,\) is not one finite number"),
        (DOWN, UP, torch.tensor(1 + 1j), r"complex a\.alpha of shape \(\) is not one finite number"),
        (DOWN * 1j, UP, torch.tensor(1.0), r"real factors of a; found torch\.complex64"),
        (DOWN, UP * 1j, torch.tensor(1.0), r"real factors of a; found torch\.complex64"),
        (DOWN, UP, torch.tensor(torch.inf), r"a\.alpha of shape \(\) is not one finite number"),
    ],
)
def test_it_is_refused(down: Tensor, up: Tensor, alpha: Tensor, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"a.lora_down.weight": down, "a.lora_up.weight": up, "a.alpha": alpha}, path)
    with pytest.raises(ValueError, match=rf"lora\.safetensors' is damaged: .*{reason}"):
        read_lora(path)


def test_an_alpha_of_one_value_is_read_whatever_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"a.lora_down.weight": DOWN, "a.lora_up.weight": UP, "a.alpha": torch.full((1,), 4.0)}, path)
    assert read_lora(path)["a"].scale == 2.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"lora_alpha": [1]}', r"'lora_alpha': expected a finite number, found \[1\]"),
        ('{"lora_alpha": NaN}', "'lora_alpha': expected a finite number, found nan"),
        ('{"alpha_pattern": [1]}', "'alpha_pattern': expected an object of patterns and numbers"),
        ('{"lora_alpha": 2, "alpha_pattern": {"(": 3}}', "'alpha_pattern': expected regular expressions"),
        ("[1]", r"expected an object of settings, found \[1\]"),
        ("[" * 100_000, "holds lists within lists"),
        ("{", "is not JSON"),
    ],
    ids=range(7),
)
def test_settings_of_a_wrong_type_are_refused(config: str, message: str, tmp_path: Path) -> None:
    save_file({"a.lora_A.weight": DOWN, "a.lora_B.weight": UP}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ValueError, match=rf"/adapter_config\.json'.*{message}"):
        read_lora(tmp_path)


def test_a_folder_counts_with_its_settings_in_a_cached_result(tmp_path: Path) -> None:
    digests = set()
    for alpha in (2, 64):
        save_file({"a.lora_A.weight": DOWN, "a.lora_B.weight": UP}, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
        digests.add(path_digest(tmp_path))
    assert len(digests) == 2
