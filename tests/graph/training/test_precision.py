"""The precision of a training: the choice of `auto` on each machine, and its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from guidegraph import TrainingStarted
from guidegraph.graph import torch_private
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event
from guidegraph.graph.hardware import policy
from guidegraph.graph.hardware.policy import ISA_LIMITS, ComputePolicy, computes_bf16
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.training import optimisers
from guidegraph.graph.training.optimisers import Muon
from guidegraph.graph.training.precision import resolve_precision
from guidegraph.runs.run import RecordedRun
from tests.graph.engine_nodes import REGISTRY, run_text
from tests.graph.training.test_fit import cancel_at, text

CPU = torch.device("cpu")


def is_faster_in_bf16(device: torch.device) -> bool:
    return ComputePolicy(str(device)).trains_faster_in_bf16()


@pytest.fixture(autouse=True)
def without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)


def fake_cpu(
    monkeypatch: pytest.MonkeyPatch, *, amx: bool = False, bf16: bool = False, avx512: bool = False, amd: bool = False
) -> None:
    """A CPU with these instruction sets, of AMD or of another maker."""
    monkeypatch.setattr(policy, "is_amd", lambda: amd)
    monkeypatch.setattr(torch_private, "is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch_private, "is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch_private, "is_avx512_supported", lambda: avx512)


def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cpu(monkeypatch, amx=True, bf16=True, avx512=True)


def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cpu(monkeypatch)


def training(precision: str, steps: int = 40, checkpoint: bool = False) -> str:
    return text(steps, checkpoint).replace("collect:", f"precision: {precision}\n    collect:")


@pytest.mark.parametrize(
    ("amx", "bf16", "limit", "computes", "gains"),
    [
        (True, True, None, True, True),
        (False, True, None, True, False),
        (False, False, None, False, False),
        (True, True, "AVX2", False, False),
        (True, True, "avx2", False, False),
        (True, True, "AVX512_CORE", False, False),
        (True, True, "AVX512_CORE_BF16", True, False),
        (True, False, "AVX512_CORE_BF16", False, False),
        (True, False, "AVX512_CORE_AMX", True, True),
        (True, True, "ALL", True, True),
        (True, True, "", True, True),
    ],
)
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("variable", ISA_LIMITS)
def test_a_cpu_computes_in_bf16_where_it_has_the_instructions_and_gains_by_it_with_amx_alone(
    amx: bool,
    bf16: bool,
    limit: str | None,
    computes: bool,
    gains: bool,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_cpu(monkeypatch, amx=amx, bf16=bf16)
    if limit is not None:
        monkeypatch.setenv(variable, limit)
    assert (computes_bf16(CPU), is_faster_in_bf16(CPU)) == (computes, gains)


@pytest.mark.parametrize(
    ("bf16", "limit", "gains"),
    [(True, None, True), (False, None, False), (True, "AVX512_CORE", False), (True, "AVX512_CORE_BF16", True)],
)
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_a_cpu_of_amd_gains_by_bf16_without_amx(
    bf16: bool, limit: str | None, gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cpu(monkeypatch, bf16=bf16, amd=True)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert is_faster_in_bf16(CPU) is gains


@pytest.mark.parametrize(("vendor", "amd"), [("AuthenticAMD", True), ("GenuineIntel", False)])
@pytest.mark.parametrize("linux", [True, False])
def test_the_maker_of_a_cpu_is_told_by_the_system(
    vendor: str, amd: bool, linux: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = tmp_path / "cpuinfo"
    monkeypatch.setattr(policy, "CPU_INFO", description)
    if linux:
        description.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(policy.platform, "processor", lambda: "" if linux else f"AMD64 Family 25, {vendor}")
    assert policy.is_amd.__wrapped__() is amd


def test_without_onednn_a_cpu_does_not_compute_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bf16(monkeypatch)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not computes_bf16(CPU)
    assert not is_faster_in_bf16(CPU)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_cuda_device_computes_in_bf16_from_8_0(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_bf16(torch.device("cuda", 1)) is expected
    assert is_faster_in_bf16(torch.device("cuda", 1)) is expected
    assert not computes_bf16(torch.device("meta"))


def test_auto_is_bf16_where_it_is_faster_and_fp32_elsewhere() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_precision("auto", CPU, emulated=False, gains=True) == "bf16"
        assert resolve_precision("auto", CPU, emulated=False, gains=False) == "fp32"
        assert resolve_precision("fp32", CPU, emulated=False, gains=True) == "fp32"
        assert resolve_precision("bf16", CPU, emulated=False, gains=False) == "bf16"
    with pytest.raises(ValueError, match="precisions: auto, fp32, bf16"):
        resolve_precision("fp16", CPU, emulated=False, gains=True)


@pytest.mark.parametrize(("avx512", "factor"), [(False, "6 to 18 times"), (True, r"1\.5 to 3 times")])
def test_an_emulated_bf16_is_kept_with_its_cost_and_the_remedy(
    avx512: bool, factor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cpu(monkeypatch, avx512=avx512)
    with pytest.warns(UserWarning, match=rf"only emulated here: .*{factor}.*'precision: auto'"):
        assert resolve_precision("bf16", CPU, emulated=True, gains=False) == "bf16"


def test_an_older_gpu_is_told_what_it_lacks() -> None:
    with pytest.warns(UserWarning, match=r"compute capability 8\.0"):
        resolve_precision("bf16", torch.device("cuda"), emulated=True, gains=False)


def started(precision: str, folder: Path, steps: int = 3, checkpoint: bool = False) -> TrainingStarted:
    seen: list[Event] = []
    run_text(training(precision, steps, checkpoint), folder, observers=[seen.append])
    (event,) = [event for event in seen if isinstance(event, TrainingStarted)]
    return event


def test_a_training_says_which_precision_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bf16(monkeypatch)
    assert started("auto", tmp_path) == TrainingStarted("nodes.fit", "bf16", "auto", 0)
    without_bf16(monkeypatch)
    assert started("auto", tmp_path) == TrainingStarted("nodes.fit", "fp32", "auto", 0)
    fake_cpu(monkeypatch, bf16=True, avx512=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert started("auto", tmp_path) == TrainingStarted("nodes.fit", "fp32", "auto", 0)
        assert started("bf16", tmp_path) == TrainingStarted("nodes.fit", "bf16", "bf16", 0)


def test_auto_trains_to_the_losses_of_what_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {name: run_text(training(name, 5), tmp_path).outputs["loss"] for name in ("fp32", "bf16")}
    assert not torch.equal(losses["fp32"], losses["bf16"])
    with_bf16(monkeypatch)
    assert torch.equal(run_text(training("auto", 5), tmp_path).outputs["loss"], losses["bf16"])
    without_bf16(monkeypatch)
    assert torch.equal(run_text(training("auto", 5), tmp_path).outputs["loss"], losses["fp32"])


def test_mixed_precision_holds_for_the_optimisers_products_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    step = Muon.step

    def record(self: Muon) -> None:
        seen.append(torch.is_autocast_enabled("cpu"))
        step(self)

    monkeypatch.setattr(Muon, "step", record)
    monkeypatch.setattr(optimisers, "LEAST_SIDE", 1)
    for precision in ("fp32", "bf16"):
        run_text(training(precision, 1).replace("adamw", "muon"), tmp_path)
    assert seen == [False, True]


def test_a_whole_training_warns_once_of_an_emulated_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_bf16(monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_text(training("bf16", 5), tmp_path)
    assert sum("only emulated" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(("first", "then"), [("auto", "auto"), ("bf16", "fp32")])
def test_a_training_goes_on_in_another_precision_and_says_so(
    first: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bf16(monkeypatch)
    short = run_text(training(first, 20, checkpoint=True), tmp_path).outputs["loss"]
    with safe_open(str(tmp_path / "ckpt" / "state.safetensors"), "pt") as file:
        assert file.metadata()["precision"] == "bf16"
    without_bf16(monkeypatch)
    with pytest.warns(UserWarning, match="trained in bf16 up to step 20, and goes on in fp32"):
        event = started(then, tmp_path, 30, checkpoint=True)
    assert event == TrainingStarted("nodes.fit", "fp32", then, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        longer = run_text(training(then, 30, checkpoint=True), tmp_path).outputs["loss"]
    assert torch.equal(longer[:20], short)


def test_a_stopped_training_of_one_machine_goes_on_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bf16(monkeypatch)
    whole = run_text(training("auto"), tmp_path).outputs["loss"]
    with pytest.raises(Exception, match="cancel"):
        run_text(training("auto", checkpoint=True), tmp_path, **cancel_at(13))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(run_text(training("auto", checkpoint=True), tmp_path).outputs["loss"], whole)


def test_a_processor_that_is_kept_at_avx2_trains_in_fp32() -> None:
    program = (
        "import torch\n"
        "from guidegraph.graph.hardware.policy import computes_bf16\n"
        "print(computes_bf16(torch.device('cpu')), bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))\n"
    )
    where = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment = {**os.environ, **where, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_the_record_of_a_run_has_the_precision_of_each_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_bf16(monkeypatch)
    file = tmp_path / "train.yaml"
    workflow = training("auto", 3).replace("net: fit.net, ", "").replace(", start: start", "")
    file.write_text(f"guidegraph: 1\n{workflow}", encoding="utf-8")
    RecordedRun(build(file, REGISTRY), REGISTRY, {}, RunConfig(), tmp_path).run([], CancelToken())
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert record["trainings"] == {"nodes.fit": {"precision": "fp32", "asked": "auto", "from_step": 0}}
