"""peft's settings of a LoRA are checked, and an error names the file that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from guidegraph_runtime import BundleError
from guidegraph_runtime.lora.lora_files import read_loras
from guidegraph_runtime.lora.peft_settings import METADATA
from tests.runtime.lora.adaptable_bundle import DOWN, LAYER, UP, write_lora, write_peft_folder

WRONG = [
    ('{"unet.lora_alpha": [1]}', "'unet.lora_alpha': expected a finite number, found [1]"),
    ('{"unet.lora_alpha": "abc"}', "'unet.lora_alpha': expected a finite number, found 'abc'"),
    ('{"unet.lora_alpha": true}', "'unet.lora_alpha': expected a finite number, found True"),
    ('{"unet.lora_alpha": NaN}', "'unet.lora_alpha': expected a finite number, found nan"),
    (f'{{"unet.lora_alpha": 1{"0" * 400}}}', "'unet.lora_alpha': expected a finite number, found 1000"),
    ('{"unet.alpha_pattern": [1]}', "'unet.alpha_pattern': expected an object of patterns and numbers, found [1]"),
    ('{"unet.alpha_pattern": {"layer": null}}', "'unet.alpha_pattern.layer': expected a finite number, found None"),
    (
        '{"unet.lora_alpha": 2, "unet.alpha_pattern": {"(": 3}}',
        "'unet.alpha_pattern': expected regular expressions for the names of layers, of letters, digits,",
    ),
    ('{"unet.alpha_pattern": {"([a-z0-9_.]+)+!": 3}}', "groups without a quantifier"),
    ('{"unet.alpha_pattern": {"([a-z]+)+": 3}}', "found '([a-z]+)+'; correct it"),
    ('{"unet.alpha_pattern": {"a?a?a?a": 3}}', "at most 2 quantifiers"),
    ('{"unet.alpha_pattern": {"(a|a)(a|a)(a|a)(a|a)(a|a)": 3}}', "or 4 '|' in groups"),
    ('{"unet.alpha_pattern": {"a)(a|a)(a|a)(a|a)(a|a)(a|a)(a": 3}}', "or 4 '|' in groups"),
    ('{"unet.alpha_pattern": {"a*(b|c|d|e)": 3}}', "or one quantifier and half as many"),
    ('{"unet.alpha_pattern": {"(?=a)": 3}}', "expected regular expressions for the names of layers"),
    (f'{{"unet.alpha_pattern": {{"{"a" * 1001}": 3}}}}', "expected regular expressions for the names of layers"),
    ('{"unet.alpha_pattern": {"a{99999999999}": 3}}', "expected regular expressions for the names of layers"),
    ('{"unet.use_rslora": "no"}', "'unet.use_rslora': expected true or false, found 'no'"),
    ('{"unet.use_dora": true}', "is not a LoRA that can be applied: it is a DoRA"),
    ("[1]", "expected an object of settings, found [1]"),
    ("[" * 100_000, "holds lists within lists, too deep to read"),
    ("{", "is not JSON: "),
]


@pytest.mark.parametrize(("config", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_setting_in_a_folder_is_named_with_its_file(tmp_path: Path, config: str, message: str) -> None:
    folder = write_peft_folder(tmp_path / "lora", config)
    with pytest.raises(BundleError) as caught:
        read_loras(folder, "here")
    assert f"'{folder}/adapter_config.json'" in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize(("config", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_setting_in_a_header_is_named_with_its_file(tmp_path: Path, config: str, message: str) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}, path, {METADATA: config})
    with pytest.raises(BundleError) as caught:
        read_loras(path, "here")
    assert f"'{path} ({METADATA} in its header)'" in caught.value.message
    assert message in caught.value.message


def test_a_folder_without_its_settings_is_named(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "lora", "{}")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(BundleError, match=r"lora' holds no adapter_config\.json: peft did not write this folder"):
        read_loras(folder, "here")


def test_a_scale_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "lora", '{"unet.lora_alpha": 1e300}')
    with pytest.raises(BundleError, match=r"the α of unet\.layer makes the scale 5e\+299, and float32 has numbers up"):
        read_loras(folder, "here")


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ("{}", 1.0),
        ('{"lora_alpha": 64, "r": 2}', 32.0),
        ('{"lora_alpha": null, "alpha_pattern": null, "use_dora": false, "use_rslora": null}', 1.0),
        ('{"lora_alpha": 2, "alpha_pattern": {"layer": 3}}', 1.5),
        ('{"lora_alpha": 2, "alpha_pattern": {"ayer": 3}}', 1.0),
    ],
)
def test_settings_of_a_single_network_need_no_prefix(tmp_path: Path, config: str, scale: float) -> None:
    folder = write_peft_folder(tmp_path / "lora", config)
    write_lora(folder / "adapter_model.safetensors", "base_model.model.layer")
    (lora,) = read_loras(folder, "here")
    assert lora.pairs["layer"].scale == scale


@pytest.mark.parametrize(
    ("pattern", "scale"),
    [
        ("^layer", 2.0),
        ("ayer", 1.0),
        ("lay", 1.0),
        ("layer$", 2.0),
        ("l[a-z]+r", 2.0),
        ("other|layer", 2.0),
        ("(?:other|lay)er", 2.0),
        (r"layer\\.\\d", 1.0),
        (".*", 2.0),
    ],
)
def test_a_pattern_in_a_header_is_for_names_without_the_prefix(tmp_path: Path, pattern: str, scale: float) -> None:
    path = tmp_path / "lora.safetensors"
    settings = f'{{"unet.lora_alpha": 2, "unet.alpha_pattern": {{"{pattern}": 4}}}}'
    save_file({f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}, path, {METADATA: settings})
    (lora,) = read_loras(path, "here")
    assert lora.pairs[LAYER].scale == scale


def test_patterns_are_not_compared_to_a_name_of_any_length(tmp_path: Path) -> None:
    folder = write_peft_folder(tmp_path / "lora", '{"unet.alpha_pattern": {".*a.*": 3}}')
    write_lora(folder / "adapter_model.safetensors", "unet." + "a" * 200)
    with pytest.raises(BundleError, match="'alpha_pattern' is read for names of layers of up to 200 characters"):
        read_loras(folder, "here")
