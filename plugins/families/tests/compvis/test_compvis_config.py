"""A CompVis config.yaml, beside the file or named: its values are read, and bad ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import load_yaml
from guidegraph.nodes.sampling.schedule import cosine
from plugins.families.tests.compvis import latent_configs, latent_files
from plugins.families.tests.compvis.test_released_configs import (
    AUTOENCODER,
    FIRST_STAGES,
    MODELS,
    load,
    load_on_meta,
    on_meta,
    save,
)

STRAYS = {
    r"config\.yaml' describes another U-Net than that of .*: inputs 4 for 3; .*`config`": MODELS["cin256"],
    r"describes another first stage.*codes 16384 for 8192": MODELS["cin256-v2"]
    | {"first_stage_config": {"params": FIRST_STAGES["vq-f8"]}},
    "describes a first stage alone": FIRST_STAGES["vq-f4"],
}


@pytest.mark.parametrize("message", STRAYS)
def test_a_named_config_of_another_model_is_refused(message: str, tmp_path: Path) -> None:
    config = latent_files.write_config(tmp_path, STRAYS[message])
    with pytest.raises(ValueError, match=message):
        load_on_meta(on_meta("cin256-v2"), tmp_path, config=config)


@pytest.mark.parametrize("message", STRAYS)
def test_a_config_of_another_model_beside_the_file_is_ignored(message: str, tmp_path: Path) -> None:
    latent_files.write_config(tmp_path, STRAYS[message])
    with pytest.warns(UserWarning, match=message):
        parts = load_on_meta(on_meta("cin256-v2"), tmp_path)
    assert (parts["autoencoder"].scale, parts["label"].null_class) == (1.0, True)


def test_a_config_of_another_model_beside_an_unreleased_file_is_refused_until_settings_say_all(tmp_path: Path) -> None:
    save(tmp_path, latent_configs.shrink(MODELS["celeba256"]))
    latent_files.write_config(tmp_path, MODELS["celeba256"])
    with pytest.raises(ValueError, match=r"describes another U-Net.*or set heads or head_channels, attention, scale"):
        load(tmp_path / "model.ckpt")
    settings: dict[str, Any] = {"head_channels": 16, "scale": 0.5, "noise_schedule": "linear", "prediction": "v"}
    with pytest.warns(UserWarning, match="describes another U-Net.*left aside"):
        loaded = load(tmp_path / "model.ckpt", attention="legacy", **settings)
    assert loaded.autoencoder.scale == 0.5


def test_a_config_of_another_first_stage_beside_the_file_is_ignored(tmp_path: Path) -> None:
    latent_files.write_config(tmp_path, FIRST_STAGES["kl-f4"], AUTOENCODER)
    tensors = latent_files.first_stage_tensors(FIRST_STAGES["vq-f8"], "meta")
    with pytest.warns(UserWarning, match="describes another first stage"):
        assert load_on_meta(tensors, tmp_path)["autoencoder"].scale == 1.0


def test_a_field_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    latent_files.write_config(tmp_path, with_network(MODELS["cin256-v2"], dims=3, window=8))
    with pytest.raises(ValueError, match=r"'dims' is 3, and only 2 is supported; 'window' is 8, which is not known"):
        load_on_meta(on_meta("cin256-v2"), tmp_path)


def with_network(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return model | {"unet_config": {"params": model["unet_config"]["params"] | changes}}


def with_denoiser(scaling: str, discretisation: str) -> dict[str, Any]:
    """A model in the form of SDXL's software."""
    parts = {"scaling_config": {"target": scaling}, "discretization_config": {"target": discretisation}}
    return MODELS["celeba256"] | {"denoiser_config": {"target": "sgm.Denoiser", "params": parts}}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (with_denoiser("sgm.EDMScaling", "sgm.LegacyDDPMDiscretization"), "'scaling_config'.*'EDMScaling'; supported"),
        (with_denoiser("", "sgm.LegacyDDPMDiscretization"), "'scaling_config' of its denoiser_config is missing"),
        (with_denoiser("sgm.EpsScaling", "sgm.EDMDiscretization"), "'discretization_config'.*'EDMDiscretization'"),
        (MODELS["celeba256"] | {"parameterization": ["eps"]}, r"'parameterization' is \['eps'\]; supported are eps"),
    ],
)
def test_unsupported_values_of_a_config_are_not_replaced_by_those_of_the_table(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    latent_files.write_config(tmp_path, model)
    with pytest.raises(ValueError, match=message):
        load_on_meta(on_meta("celeba256"), tmp_path)


@pytest.mark.parametrize("changes", [{"beta_schedule": "cosine"}, {"given_betas": [0.1, 0.2]}])
def test_a_schedule_that_differs_from_the_table_must_be_set(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidegraph.nodes.derive.current_device", lambda: "cpu")
    latent_files.write_config(tmp_path, MODELS["celeba256"] | changes)
    with pytest.raises(ValueError, match=r"does not tell noise_schedule, and '.*config\.yaml' says"):
        load_on_meta(on_meta("celeba256"), tmp_path)
    schedule = load_on_meta(on_meta("celeba256"), tmp_path, noise_schedule="cosine")["schedule"]
    torch.testing.assert_close(schedule.alphas_bar, cosine().alphas_bar)


def test_a_measured_scale_is_in_the_file_or_must_be_set(tmp_path: Path) -> None:
    latent_files.write_config(tmp_path, MODELS["celeba256"] | {"scale_by_std": True})
    tensors = on_meta("celeba256")
    with pytest.raises(ValueError, match=r"does not tell scale, and '.*config\.yaml' says"):
        load_on_meta(tensors, tmp_path)
    first = {name: value for name, value in tensors.items() if name.startswith("first_stage_model.")}
    with pytest.raises(ValueError, match=r"does not tell the scale of its latents"):
        load_on_meta(first, tmp_path)
    assert load_on_meta(tensors, tmp_path, scale=0.3)["autoencoder"].scale == 0.3
    measured = tensors | {"scale_factor": torch.tensor(0.6)}
    assert load_on_meta(measured, tmp_path)["autoencoder"].scale == pytest.approx(0.6)


@pytest.mark.parametrize("scale", [torch.tensor(float("inf")), torch.tensor(float("nan")), torch.zeros(2)])
def test_a_setting_replaces_a_malformed_scale(scale: Tensor, tmp_path: Path) -> None:
    tensors = on_meta("celeba256") | {"scale_factor": scale}
    with pytest.raises(ValueError, match=r"model\.ckpt': its scale_factor is .*: set scale"):
        load_on_meta(tensors, tmp_path)
    assert load_on_meta(tensors, tmp_path, scale=0.3)["autoencoder"].scale == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_head_channels": 0}, "'num_head_channels' is 0; expected a whole number from 1"),
        ({"num_head_channels": -5}, "'num_head_channels' is -5"),
        ({"channel_mult": [float("inf"), 2]}, r"'channel_mult' is \[inf, 2\]"),
        ({"channel_mult": []}, r"'channel_mult' is \[\]"),
        ({"channel_mult": 4}, "'channel_mult' is 4; expected a list of numbers"),
        ({"attention_resolutions": [float("nan")]}, "'attention_resolutions'"),
        (
            {"use_spatial_transformer": True, "context_dim": 8, "transformer_depth": [1, 2]},
            "'transformer_depth'",
        ),
        ({"use_spatial_transformer": True, "context_dim": 8, "transformer_depth": ["a"] * 4}, "'transformer_depth'"),
        ({"use_scale_shift_norm": "false"}, "'use_scale_shift_norm' is 'false'; expected true or false"),
        ({8: 1}, "8 is the name of a field, which is not known"),
        ({"model_channels": 1 << 17}, "'model_channels' is 131072"),
    ],
)
def test_malformed_values_of_a_network_are_named(changes: dict[Any, Any], message: str, tmp_path: Path) -> None:
    model = MODELS["celeba256"]
    latent_files.write_config(tmp_path, model | {"unet_config": {"params": model["unet_config"]["params"] | changes}})
    with pytest.raises(ValueError, match=rf"config\.yaml'.* {message}"):
        load_on_meta(on_meta("celeba256"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timesteps": 10**10}, "'timesteps' is 10000000000; expected a whole number from 1 to 100000"),
        ({"scale_factor": True}, "'scale_factor' is True; expected a number above 0"),
        ({"linear_end": 1.0}, "β go from .*; expected linear_start ≤ linear_end < 1"),
        ({"linear_start": 0.5}, "β go from .*; expected linear_start ≤ linear_end < 1"),
        ({"beta_schedule": [1]}, r"'beta_schedule' is \[1\]"),
        ({"first_stage_config": {"params": {"ddconfig": {"ch_mult": [1, 2, 4]}}}}, "'ch' is None; expected a whole"),
        (
            {"first_stage_config": {"params": {"ddconfig": {"ch": 128, "ch_mult": 4}}}},
            "'ch_mult' is 4; ",
        ),
        ({"cond_stage_config": {"target": "a.SpatialRescaler", "params": {"n_stages": -2}}}, "'n_stages' is -2"),
        ({"cond_stage_config": {"target": "a.SpatialRescaler", "params": {"multiplier": 2}}}, "'multiplier' is 2"),
        ({"cond_stage_config": {"target": "a.SpatialRescaler", "params": {"method": {}}}}, "'method' is {}; supported"),
    ],
)
def test_malformed_values_of_a_model_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    latent_files.write_config(tmp_path, MODELS["celeba256"] | changes)
    with pytest.raises(ValueError, match=rf"config\.yaml'.* {message}"):
        load_on_meta(on_meta("celeba256"), tmp_path)


@pytest.mark.parametrize("text", ["version: 2\nsteps: 5\n", "- a list\n", ""])
def test_a_config_of_other_software_beside_the_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    tensors = on_meta("cin256")
    assert load_on_meta(tensors, tmp_path)["autoencoder"].scale == 1.0
    with pytest.raises(ValueError, match=r"config\.yaml' is not a config\.yaml of CompVis'"):
        load_on_meta(tensors, tmp_path, config=tmp_path / "config.yaml")


LEVELS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
UNREADABLE = {
    "tag": ("x: !include other.yaml\n", "is not plain YAML .could not determine a constructor"),
    "date": ("a: 2020-13-45\n", "is not plain YAML .month must be in 1..12"),
    "size": ("#" * (1 << 20) + "\na: 1\n", "has 1048582 bytes"),
    "aliases": (f"a0: &a0 [x, x]\n{LEVELS}b: *a8\n", "has more than 100000 values with its aliases written out"),
    "itself": ("model: &m\n  target: a\n  params: *m\n", "has more than .*, or one inside itself"),
    "depth": (f"a: {'[' * 200000}\n", "is not plain YAML"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_config_is_ignored_beside_the_file_and_refused_if_named(name: str, tmp_path: Path) -> None:
    text, message = UNREADABLE[name]
    (tmp_path / "config.yaml").write_text(text)
    tensors = on_meta("cin256")
    with pytest.warns(UserWarning, match=rf"config\.yaml' {message}.*left alone"):
        assert load_on_meta(tensors, tmp_path)["autoencoder"].scale == 1.0
    with pytest.raises(ValueError, match=rf"config\.yaml' {message}"):
        load_on_meta(tensors, tmp_path, config=tmp_path / "config.yaml")


def test_an_alias_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &a [1, 2]\nb: *a\n")
    assert load_yaml(tmp_path / "config.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_a_message_of_a_huge_value_is_short(tmp_path: Path) -> None:
    latent_files.write_config(tmp_path, with_network(MODELS["celeba256"], window=["long" * 1000] * 100))
    with pytest.raises(ValueError, match="'window' is ") as raised:
        load_on_meta(on_meta("celeba256"), tmp_path)
    assert len(str(raised.value)) < 2500


def test_a_config_is_data_and_never_code(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "config.yaml").write_text(f"model: !!python/object/apply:pathlib.Path.touch [!!python/name:{ran} '']\n")
    tensors = on_meta("cin256")
    with pytest.raises(ValueError, match=r"config\.yaml' is not plain YAML"):
        load_on_meta(tensors, tmp_path, config=tmp_path / "config.yaml")
    assert not ran.exists()
