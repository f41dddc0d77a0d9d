"""What guidegraph-run checks before it makes a folder and replaces the record of the run before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidegraph_runtime import Bundle, BundleError, SessionSettings
from tests.runtime.lora.adaptable_bundle import write_adaptable_bundle, write_lora
from tests.runtime.test_cli import Run
from tests.runtime.test_cli import run as run  # the fixture


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("nofile.safetensors", "bad-lora: 'nofile.safetensors' cannot be read: No such file or directory"),
        ("other.safetensors", "bad-lora: the LoRA 'other.safetensors' is for another model"),
        ("lora.safetensors:much", "bad-lora: the strength of the LoRA 'lora.safetensors': expected a finite number"),
    ],
)
def test_a_wrong_lora_leaves_the_record_of_the_run_before(run: Run, tmp_path: Path, lora: str, message: str) -> None:
    bundle = write_adaptable_bundle(tmp_path / "adaptable")
    write_lora(tmp_path / "lora.safetensors")
    write_lora(tmp_path / "other.safetensors", "unet.other")
    assert run(bundle, "--lora", "lora.safetensors:0.5", "--out", "here").code == 0
    before = {path.name: path.read_bytes() for path in Path("here").iterdir()}
    result = run(bundle, "--lora", lora, "--out", "here")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path("here").iterdir()} == before
    assert run(bundle, "--lora", lora, "--out", "new").code == 2
    assert not Path("new").exists()


def require_cuda(value: dict[str, Any]) -> None:
    value["requires"]["providers"] = ["cuda"]


def test_a_machine_without_the_provider_checks_runs_of_others(tmp_path: Path) -> None:
    """As the router of several replicas does."""
    bundle = Bundle(write_adaptable_bundle(tmp_path / "adaptable", require_cuda), SessionSettings.on("cpu"))
    prepared = bundle.prepare({"seed": 3})
    with pytest.raises(BundleError, match="no-provider: expected one of the providers cuda, found cpu"):
        bundle.check_provider(prepared)


def test_a_missing_provider_is_refused_before_a_folder_is_made(run: Run, tmp_path: Path) -> None:
    bundle = write_adaptable_bundle(tmp_path / "adaptable", require_cuda)
    result = run(bundle, "--provider", "cpu", "--out", "here")
    assert (result.code, result.out) == (2, "")
    assert "no-provider: expected one of the providers cuda, found cpu; ask for one of them" in result.err
    assert not Path("here").exists()
