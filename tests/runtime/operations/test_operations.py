"""The runtime's operations refuse invalid arguments with the expected and the actual value, and do not need torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.operations import OPERATIONS, schedule
from guidegraph_runtime.pictures.png import write_png
from tests.paths import ROOT

RUNTIME = ROOT / "runtime"
LINEAR = schedule.linear()
SAMPLE = np.zeros((1, 3, 4, 4), np.float32)

ALONE = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pydantic", "guidegraph", "annotated_types", "lightning_fabric"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Absent())
import guidegraph_runtime
names = [module.name for module in pkgutil.walk_packages(guidegraph_runtime.__path__, "guidegraph_runtime.")]
for name in names:
    if not name.endswith(("__main__", ".ray_serve")):  # Ray is not part of an extra
        importlib.import_module(name)
from guidegraph_runtime.operations import OPERATIONS
schedule = OPERATIONS["schedule.cosine"]()["out"]
print(len(OPERATIONS["scheduler.unipc"](schedule=schedule, steps=6)["steps"]), *names)
"""


def test_the_runtime_imports_and_works_without_torch_pydantic_and_guidegraph(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(RUNTIME)}
    result = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    rows, *names = result.stdout.split()
    assert rows == "6"
    assert {"guidegraph_runtime.operations.text", "guidegraph_runtime.samplers.dpm_solver"} <= set(names)


def test_the_host_operations_start_without_pillow_and_tokenizers(tmp_path: Path) -> None:
    code = (
        "import sys, guidegraph_runtime.operations; print(*{'PIL', 'tokenizers', 'onnxruntime'} & sys.modules.keys())"
    )
    environment = os.environ | {"PYTHONPATH": str(RUNTIME)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


@pytest.mark.parametrize(
    ("id", "arguments", "message"),
    [
        (
            "scheduler.ddim",
            {},
            "scheduler.ddim: missing a required argument: 'schedule'; it takes schedule, levels, st",
        ),
        ("scheduler.ddim", {"schedule": LINEAR, "stepz": 3}, "got an unexpected keyword argument 'stepz'"),
        ("scheduler.ddim", {"schedule": {}}, "schedule: expected the fields alphas_bar; alphas_bar is missing"),
        ("scheduler.ddim", {"schedule": 3}, "schedule: expected the fields alphas_bar; found int 3"),
        (
            "scheduler.ddim",
            {"schedule": {"alphas_bar": np.zeros((2, 2))}},
            r"schedule.alphas_bar: expected an array \(T\); found an array \(2, 2\) of float64",
        ),
        ("scheduler.ddim", {"schedule": {"alphas_bar": np.full(9, 1.5)}}, r"expected ᾱ \(T\), two or more numbers"),
        ("scheduler.ddim", {"schedule": {"alphas_bar": np.full(9, np.nan)}}, r"expected ᾱ \(T\), two or more numbers"),
        (
            "scheduler.ddim",
            {"schedule": {"alphas_bar": np.array([0.5])}},
            r"from 0 to 1; found an array \(1,\)",
        ),
        ("schedule.linear", {"train_steps": 1}, "train_steps: expected a whole number of at least 2; found int 1"),
        ("schedule.linear", {"beta_end": 1}, "beta_end: expected a number above 0 and below 1; found int 1"),
        ("schedule.linear", {"beta_start": 0.5}, "beta_start 0.5 must not be above beta_end 0.02"),
        ("schedule.edm", {"sigma_min": 3, "sigma_max": 2}, "sigma_min 3.0 must be below sigma_max 2.0"),
        ("schedule.edm", {"sigmas": "linear"}, "sigmas: expected one of karras, exponential; found str 'linear'"),
        ("schedule.cosine", {"offset": -1}, "offset: expected a number of at least 0; found int -1"),
        ("noise.gaussian", {}, "the noise has no shape: wire 'like', or set 'shape'"),
        ("noise.gaussian", {"shape": [3], "rng": "torch"}, "rng: 'torch' draws from torch's own generator"),
        ("noise.gaussian", {"shape": [3], "rng": "xor"}, "rng: expected one of philox, torch; found str 'xor'"),
        ("noise.gaussian", {"shape": []}, r"shape: expected a list of one number or more; found \[\]"),
        ("noise.gaussian", {"shape": [3, 0]}, r"shape\[1\]: expected a whole number of at least 1; found int 0"),
        ("noise.gaussian", {"shape": [3], "seed": -1}, "seed: expected a whole number of at least 0; found int -1"),
        ("noise.gaussian", {"shape": [3], "seed": [1, 0.5]}, r"seed\[1\]: expected a whole number .*; found float 0.5"),
        ("noise.gaussian", {"shape": [3], "seed": 2**64}, "a seed must be from 0 to"),
        ("noise.gaussian", {"shape": [3], "seed": [1, 2], "batch": 3}, "2 seeds cannot fill a batch of 3"),
        ("noise.gaussian", {"like": np.zeros((2, 3), np.int64)}, r"like: expected a sample \(B, …\)"),
        ("label.constant", {"label": True}, "label: expected a whole number of at least 0 .*; found bool True"),
        ("label.constant", {"label": [3, -1]}, r"label\[1\]: expected a whole number of at least 0"),
        ("label.constant", {"label": []}, "label: expected one label or more; found an empty list"),
        ("label.constant", {"label": [3, 10], "classes": 10}, "the classes are 0 … 9; found label 10"),
        ("label.cycle", {"classes": 0}, "classes: expected a whole number of at least 1; found int 0"),
        (
            "image.load",
            {"path": "", "size": 8},
            "path: expected a file given by the user, as a Path, or its bytes; found str ''",
        ),
        ("image.load", {"path": "a.png", "size": [8]}, r"size: expected a side in pixels, or \[height, width\]"),
        (
            "image.load",
            {"path": "a.png", "resize": "fit"},
            "resize: expected one of crop, pad, stretch; found",
        ),
        ("image.from_sample", {"sample": np.zeros((1, 4, 2, 2))}, "this sample 4: autoencoder.decode decodes a latent"),
        ("image.from_sample", {"sample": np.zeros((4, 2, 2))}, r"sample: expected an array \(B, C, H, W\); found"),
        ("image.grid", {"image": SAMPLE[:0]}, "image: expected one picture or more; found none"),
        ("image.grid", {"image": SAMPLE, "background": 2}, "background: .* of at least -1 and at most 1; found int 2"),
        ("mask.box", {"size": [6, 8], "top": 5}, "a box of 32 × 32 at 5, 16 reaches beyond 6 × 8 pixels"),
        ("mask.load", {"path": "a.png", "threshold": float("nan")}, "threshold: expected a number .*; found float nan"),
        ("text.replace", {"text": 3, "words": {}}, "text: expected a text or a list of texts; found int 3"),
        ("text.replace", {"text": "a", "words": {"": "b"}}, "an empty word cannot be replaced"),
        ("text.replace", {"text": "a", "words": {"a": 1}}, "words: expected a table from words to words"),
        ("text.tokenize", {"texts": "a", "tokenizer": b"{}"}, "this tokenizer.json cannot be read"),
        ("text.tokenize", {"texts": "a", "tokenizer": "a.json"}, "expected the bytes of a tokenizer.json; found str"),
        ("text.tokenize", {"texts": [], "tokenizer": b""}, "there are no texts"),
    ],
)
def test_invalid_arguments_are_refused(id: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OPERATIONS[id](**arguments)


@pytest.mark.parametrize(
    ("id", "settings", "message"),
    [
        ("ddim", {"steps": 0}, "steps: expected a whole number of at least 1; found int 0"),
        ("ddpm", {"steps": 2.5}, "steps: expected a whole number of at least 1; found float 2.5"),
        ("ddim", {"steps": 1001}, "1001 steps do not fit into the schedule's 1000 timesteps"),
        ("ddim", {"spacing": "even"}, "spacing: expected one of leading, trailing, linspace; found str 'even'"),
        ("ddim", {"final": "two"}, "final: expected one of one, first; found str 'two'"),
        ("ddim", {"sigmas": None}, "sigmas: expected one of schedule, karras, exponential; found NoneType None"),
        ("ddim", {"offset": -1}, "offset: expected a whole number of at least 0; found int -1"),
        ("ddim", {"strength": 0}, "strength: expected a number above 0 and at most 1; found int 0"),
        ("ddim", {"eta": 1.5}, "eta: expected a number of at least 0 and at most 1; found float 1.5"),
        ("ddim", {"clip": 0}, "clip: expected a number above 0; found int 0"),
        ("ddim", {"threshold": "high"}, "threshold: expected a number above 0 and at most 1; found str 'high'"),
        ("ddim", {"rederive_eps": 1}, "rederive_eps: expected true or false; found int 1"),
        ("euler", {"eta": 0.5}, "this sampler draws no noise, so eta is 0"),
        ("ddpm", {"eta": 0}, "DDPM is ancestral sampling, so eta is 1"),
        ("ddpm", {"variance": "small"}, "variance: expected one of fixed_small, fixed_large, learned"),
        ("pndm", {"warmup": "heun"}, "warmup: expected one of plms, runge_kutta"),
        ("lms", {"order": 5}, "order: expected a whole number of at least 1 and at most 4; found int 5"),
        ("deis", {"order": 4}, "order: expected a whole number of at least 1 and at most 3; found int 4"),
        ("unipc", {"order": 0}, "order: expected a whole number of at least 1 and at most 3; found int 0"),
        ("unipc", {"variant": "bh3"}, "variant: expected one of bh1, bh2"),
        ("edm", {"churn": -1}, "churn: expected a number of at least 0; found int -1"),
        ("edm", {"s_noise": 0}, "s_noise: expected a number above 0; found int 0"),
    ],
)
def test_a_samplers_settings_are_checked(id: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OPERATIONS[f"scheduler.{id}"](schedule=LINEAR, **settings)


@pytest.mark.parametrize(
    ("id", "arguments", "setting"),
    [
        ("label.constant", {"label": []}, "label"),
        ("label.constant", {"label": [1, 2], "batch": 3}, "label"),
        ("levels.flow", {"schedule": schedule.flow(), "steps": 1, "sigma_max": 1.0, "terminal": 0.1}, "terminal"),
        ("levels.simple", {"schedule": LINEAR, "steps": 1001}, "steps"),
        ("levels.split", {"levels": OPERATIONS["levels.simple"](schedule=LINEAR, steps=5)["out"], "at": 5}, "at"),
        ("noise.gaussian", {"shape": [3], "seed": [1, 2], "batch": 3}, "seed"),
        ("noise.gaussian", {"shape": [3], "rng": "torch"}, "rng"),
        ("scheduler.ddim", {"schedule": LINEAR, "steps": 1001}, "steps"),
        ("scheduler.ddim", {"schedule": LINEAR, "offset": 1000}, "offset"),
        ("scheduler.euler", {"schedule": LINEAR, "eta": 0.5}, "eta"),
        ("scheduler.lcm", {"schedule": LINEAR, "steps": 51}, "steps"),
        ("text.replace", {"text": "a", "words": {"": "b"}}, "words"),
        ("text.replace", {"text": "a", "words": {"a": 1}}, "words"),
        ("text.tokenize", {"texts": [], "tokenizer": b""}, "texts"),
        ("text.tokenize", {"texts": "(a:1.3)", "tokenizer": b"", "weighted": True}, "texts"),
    ],
)
def test_an_error_carries_the_setting_that_it_is_about(id: str, arguments: dict[str, Any], setting: str) -> None:
    with pytest.raises(SettingError) as refused:
        OPERATIONS[id](**arguments)
    assert refused.value.setting == setting


def test_numbers_may_be_numpys() -> None:
    plain = OPERATIONS["scheduler.ddim"](schedule=LINEAR, steps=5, eta=0.5, clip=True)
    result = OPERATIONS["scheduler.ddim"](
        schedule=LINEAR, steps=np.int32(5), eta=np.array(0.5, np.float32), clip=np.bool_(True)
    )
    for name, value in plain["scheduler"].items():
        assert np.array_equal(result["scheduler"][name], value)
    noise = OPERATIONS["noise.gaussian"](shape=[3], seed=np.array([4, 5]), index=np.array(2))
    assert np.array_equal(noise["out"], OPERATIONS["noise.gaussian"](shape=[3], seed=4, batch=2, index=2)["out"])


def test_a_state_beyond_the_table_and_unlike_shapes_are_refused() -> None:
    sampler = OPERATIONS["scheduler.ddim"](schedule=LINEAR, steps=5)
    with pytest.raises(ValueError, match=r"state.index: expected a row from 0 to 5; found 6"):
        OPERATIONS["scheduler.add_noise"](
            scheduler=sampler["scheduler"], x0=SAMPLE, noise=SAMPLE, state={"index": np.array([6])}
        )
    with pytest.raises(ValueError, match="x0 and noise must be of one size"):
        OPERATIONS["scheduler.add_noise"](scheduler=sampler["scheduler"], x0=SAMPLE, noise=SAMPLE[..., :2])
    with pytest.raises(ValueError, match="scheduler: expected the fields alpha, sigma; sigma is missing"):
        OPERATIONS["scheduler.add_noise"](scheduler={"alpha": np.ones(3)}, x0=SAMPLE, noise=SAMPLE)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for id in ("image.load", "mask.load", "semantic.load"):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.png"):
            OPERATIONS[id](path=tmp_path / "absent.png")


def test_texts_of_several_lengths_and_a_tokenizer_without_padding_are_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    data = tokenizer.to_str().encode()
    assert OPERATIONS["text.tokenize"](texts=["a b", "b c"], tokenizer=data)["ids"].tolist() == [[0, 1], [1, 2]]
    with pytest.raises(ValueError, match="the texts have 1 to 2 tokens, and the tokenizer does not pad"):
        OPERATIONS["text.tokenize"](texts=["a", "a b"], tokenizer=data)
    with pytest.raises(ValueError, match="the tokenizer has no padding, so it cannot fill 4 tokens"):
        OPERATIONS["text.tokenize"](texts=["a"], tokenizer=data, length=4)


@pytest.mark.parametrize("id", ["image.load", "mask.load", "semantic.load"])
def test_a_file_is_its_path_or_its_bytes(tmp_path: Path, id: str) -> None:
    path = tmp_path / "black.png"
    write_png(path, np.zeros((4, 6), np.uint8))
    by_path, by_bytes = (OPERATIONS[id](path=file, size=2)["out"] for file in (path, path.read_bytes()))
    assert by_path.shape[2:] == (2, 2)
    assert np.array_equal(by_path, by_bytes)
    with pytest.raises(ValueError, match="the file of 7 bytes is not a picture that Pillow can read"):
        OPERATIONS[id](path=b"nothing")
