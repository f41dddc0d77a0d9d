"""The built-in nodes for the conformance kit: values that replace unsuitable examples, and declared exceptions."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.node import NodeSpec
from guidegraph.nodes.models.own.autoencoder import AutoencoderConfig, KLAutoencoder, VQAutoencoder, VQConfig
from guidegraph.nodes.models.own.box_detector import BoxDetector, BoxDetectorConfig, Detector, DetectorConfig
from guidegraph.nodes.sampling.schedule import flow
from guidegraph.nodes.sampling.scheduler import ddpm
from guidegraph.nodes.training.adversarial import new_feature_classifier
from guidegraph.nodes.types import Classifier, Condition, Prediction, Schedule, Table
from guidegraph.plugins.manager import PluginManager
from guidegraph_lab.metrics.frechet import Moments
from guidegraph_scenes.datasets import scenes
from guidegraph_scenes.scenes128.layout_sample import encode_layout
from guidegraph_testing import NodeCase, example
from guidegraph_testing.examples import draw_normal
from tests.paths import ROOT

DATA = ROOT / "workflows" / "data"
MODELS = DATA.parent / "models"

IN_TRAINING = {"ONNX export": "it draws numbers for training or an evaluation, as many as the batch has samples"}
BY_POSITION = {"batch invariance": "the values drawn depend on the sample's position in the batch", **IN_TRAINING}
WHOLE_BATCH = {"batch invariance": "the values drawn belong to the batch as a whole", **IN_TRAINING}
IN_FLOAT32 = {"dtypes": "a loss is computed in float32, also where training runs in a half"}
ABSENT = {"types": "a field that the folder does not hold is an error where it is used"}
METRIC = {"dtypes": "statistics are computed in float64", "gradients": "a metric is not trained on"}
OF_A_CHAIN = {"batch invariance": "its steps are those of the chain, not of the samples"}
BY_SIXTEEN = {"shapes": "the sides of the detector's pictures are multiples of 16"}
BY_SIZE = {"ONNX export": "which samples it takes depends on the size of the batch"}

CHECKPOINT = "needs the files of a released checkpoint; plugins/families/tests makes them"
DISTILLED = "needs a guidance-distilled denoiser; tests/nodes/models/transformers/test_flux.py makes them"
NOT_BUILT = {
    "checkpoint.flow_shift": CHECKPOINT,
    "checkpoint.load": CHECKPOINT,
    "checkpoint.sampling": CHECKPOINT,
    "scheduler.of_checkpoint": CHECKPOINT,
    "denoiser.distilled": DISTILLED,
    "denoiser.predict_distilled": DISTILLED,
    "lora.apply": "needs a LoRA file for a released U-Net; plugins/families/tests makes them",
    "lora.new": "needs a U-Net; tests/nodes/training/test_lora_training.py makes them",
    "denoiser.add_coordinates": "needs a U-Net; tests/nodes/training/test_spatial_input.py makes them",
    "denoiser.add_spatial_channels": "needs a U-Net; tests/nodes/training/test_spatial_input.py makes them",
    "lora.save": "writes a file, of a U-Net; tests/nodes/training/test_lora_training.py reads it back",
    "features.inception": "needs a file of weights; plugins/lab/tests/metrics/test_inception.py makes one",
    "features.onnx": "needs an ONNX file; plugins/lab/tests/metrics/test_inception.py makes one",
    "features.torchscript": "needs a TorchScript file",
    "loss.adaptive_weight": "needs two losses with a graph to the last layer of an autoencoder in training",
    "moments.load": "needs a file of statistics",
    "model.save": "writes files; tests/nodes and plugins/families/tests read them back",
    "onnx.denoiser": "needs an exported bundle; tests/graph/export makes one",
    "text.add_words": "needs a table of words; tests/nodes/conditioning/test_added_words.py makes one",
    "text.clip": "needs the files of a CLIP text encoder, and transformers",
    "text.embedding": "needs a CLIP text encoder and a file of textual inversion; plugins/families/tests makes them",
    "text.minilm": "takes seconds to load; tests/nodes/conditioning/test_pretrained_text.py has it",
    "text.scale_positions": "needs a text encoder; tests/nodes/conditioning/test_positions.py makes one",
    "text.vocabulary": "needs a table of words; tests/nodes/conditioning has it",
    "text.picture_size": "needs SDXL's text encoders; plugins/families/tests makes them",
}
"""Nodes whose inputs the kit cannot make, and why."""


@cache
def specs() -> dict[str, NodeSpec]:
    """The nodes of this project, without those of diffusers, whose folders its own tests make."""
    return dict(PluginManager(entry_points=False, disable=("diffusers",)).registry.nodes)


def case(id: str, **options: Any) -> NodeCase:
    return NodeCase(specs()[id].function, **options)


def placed() -> dict[str, Tensor]:
    """The objects of two scenes of 128 pixels."""
    return {
        "object": torch.tensor([[3, 7, -1, -1], [3, 3, 9, -1]]),
        "colour": torch.tensor([[1, -1, -1, -1], [4, 4, 10, -1]]),
        "box": torch.tensor([0.125, 0.25, 0.5, 0.75]).expand(2, 4, 4),
    }


def layouts() -> Tensor:
    return encode_layout(**placed())


def logits(classes: int = 7, batch: int = 2) -> Tensor:
    return draw_normal((batch, classes), 3)


def present(classes: int = 23) -> Tensor:
    return (draw_normal((2, classes), 4) > 0).float()


def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(DetectorConfig(channels=8)).eval().requires_grad_(False)


def box_detector() -> BoxDetector:
    torch.manual_seed(0)
    return BoxDetector(BoxDetectorConfig(channels=8)).eval().requires_grad_(False)


def scene_rows() -> dict[str, Tensor]:
    """The objects of two pictures, one in the first and two in the second."""
    boxes = torch.tensor([[[0.1, 0.2, 0.4, 0.8], [-1.0] * 4], [[0.5, 0.1, 0.9, 0.6], [0.2, 0.3, 0.4, 0.5]]])
    return {"object": torch.tensor([[2, -1], [5, 7]]), "colour": torch.tensor([[1, -1], [-1, 3]]), "box": boxes}


def autoencoder(vq: bool = False) -> Any:
    torch.manual_seed(0)
    if vq:
        model: Any = VQAutoencoder(VQConfig(channels=8, multipliers=(1,), patch=2, codes=16))
    else:
        model = KLAutoencoder(AutoencoderConfig(channels=8, multipliers=(1,), patch=2))
    return model.eval().requires_grad_(False)


def picture(size: int = 32) -> Tensor:
    return draw_normal((2, 3, size, size), 5).tanh()


def prediction_with_variance() -> Prediction:
    """A prediction with a learned variance."""
    return Prediction(draw_normal(("B", "C", "H", "W"), 6), "eps", draw_normal(("B", "C", "H", "W"), 7).tanh())


def noisy() -> dict[str, Any]:
    """Ports of scheduler.step for a sampler that draws noise and takes a score."""
    sampler = ddpm(example(Schedule), steps=5, variance="learned")
    return {
        "scheduler": sampler.scheduler,
        "prediction": prediction_with_variance(),
        "noise": draw_normal(("B", "C", "H", "W"), 8),
        "score": draw_normal(("B", "C", "H", "W"), 9),
    }


def two_sets() -> dict[str, Any]:
    return {"features": draw_normal((30, 6), 1), "reference": draw_normal((40, 6), 2)}


def moments(seed: int = 0) -> Moments:
    features: Moments = specs()["moments.add"].function(specs()["moments.empty"].function(), draw_normal((30, 6), seed))
    return features


SCORES = Table({"scale": [1.0, 2.0, 3.0], "fid": [3.0, 1.5, 2.0], "method": ["a", "a", "b"]})
COUNTED = "objects are counted"
TARGET = "the target is what is learned"


@cache
def overrides() -> list[NodeCase]:
    """In the order of the nodes' ids."""
    return [
        case("autoencoder.codebook_usage", inputs={"autoencoder": autoencoder(vq=True)}),
        case("autoencoder.freeze_encoder", inputs={"autoencoder": autoencoder()}),
        case(
            "autoencoder.measure_scale",
            inputs={"autoencoder": autoencoder(), "batches": scenes(batch=2, count=1).batches},
        ),
        case("autoencoder.renew_decoder", inputs={"autoencoder": autoencoder()}),
        case(
            "coding.prior",
            skip={
                "dtypes": "bits are computed in float64",
                **OF_A_CHAIN,
            },
        ),
        case(
            "coding.step",
            inputs={"index": 1},
            skip={
                "dtypes": "bits are computed in float64",
                "ONNX export": "it is for an evaluation, and its steps are no batch",
                **OF_A_CHAIN,
            },
        ),
        case("condition.drop", settings={"p": 0.5, "seed": 2}, skip=BY_POSITION),
        case(
            "condition.merge",
            inputs={
                "conditions": [
                    Condition(vector=logits(), tokens=draw_normal(("B", "M", "D"), 1)),
                    Condition(tokens=draw_normal(("B", 3, "D"), 2), spatial=draw_normal(("B", "C", "H", "W"), 3)),
                ]
            },
        ),
        case("condition.vector", inputs={"values": draw_normal(("B", "D"), 1)}),
        case("data.degrade", skip=WHOLE_BATCH),
        case("data.drop_labels", settings={"p": 0.5, "classes": 10, "seed": 2}, skip=BY_POSITION),
        case("data.emoji", settings={"batch": 2, "count": 2}),
        case("data.fashion_mnist", settings={"batch": 2, "count": 2}),
        case("data.folder", settings={"path": DATA / "examples", "batch": 2, "count": 2}, skip=ABSENT),
        case(
            "data.folder_latents",
            inputs={"batches": folder_batches(), "autoencoder": autoencoder()},
            skip=ABSENT,
        ),
        case(
            "data.folder_sample",
            settings={"path": DATA / "examples", "count": 2},
            skip=ABSENT,
        ),
        case("data.jitter", skip=BY_POSITION),
        case("data.layouts_128", settings={"batch": 2, "count": 2}),
        case("data.scenes", settings={"batch": 2, "count": 2}),
        case("data.scene_128", settings={"batch": 2}),
        case(
            "data.scene_map",
            inputs={"classes": torch.arange(2 * 8 * 12).reshape(2, 8, 12) % 76},
        ),
        case(
            "data.object_share",
            inputs={"classes": torch.arange(2 * 16 * 16).reshape(2, 16, 16) % 76},
            settings={"size": 4},
        ),
        case(
            "data.colour_map",
            inputs={
                "classes": torch.arange(2 * 16 * 16).reshape(2, 16, 16) % 76,
                "object": torch.tensor([[3, 7, -1, -1], [3, 3, 9, -1]]),
                "colour": torch.tensor([[1, -1, -1, -1], [4, 4, 10, -1]]),
            },
            settings={"size": 4},
        ),
        case("data.scenes_128", settings={"batch": 2, "count": 2}),
        case("data.soil", skip=WHOLE_BATCH),
        case("layout.boxes", inputs={"layout": layouts()}),
        case("layout.encode", inputs=placed()),
        case("layout.map", inputs={"layout": layouts()}, settings={"size": 8}),
        case("layout.place", settings={"objects": ["a red car"], "boxes": [[0.1, 0.5, 0.6, 0.8]]}),
        case("layout.table", inputs={"layout": layouts()}),
        case(
            "detector.boxes",
            inputs={"detector": box_detector(), "image": picture()},
            settings={"most": 4},
            skip=BY_SIXTEEN,
        ),
        case(
            "detector.finds",
            inputs={"logits": logits(23), "label": present()},
            detached={"logits": COUNTED, "label": COUNTED},
        ),
        case("detector.predict", inputs={"detector": detector(), "image": picture()}),
        case("denoiser.deep_features", settings={"site": "deep.up.3"}),
        case("denoiser.empty_memory", inputs={"condition": example(Condition)}),
        case("denoiser.features", inputs={"condition": example(Condition)}, settings={"site": "self.middle.0"}),
        case(
            "denoiser.predict_with_features",
            inputs={"condition": example(Condition)},
            settings={"site": "feature.middle.0"},
        ),
        case("denoiser.predict_with_memory", inputs={"condition": example(Condition)}),
        case("features.classifier", inputs={"classifier": example(Classifier)}),
        case(
            "features.pooled",
            skip={
                "dtypes": "features for statistics are float32 whatever the run's dtype is",
                "gradients": "features for statistics are nothing to train on",
                "ONNX export": "it goes through a batch in chunks of a number that is fixed",
            },
        ),
        case(
            "guidance.classifier",
            detached={"x": "the score is a gradient already; a second one is not taken"},
        ),
        case("guidance.context", skip={"dtypes": "its t is float32, as a denoiser takes it"}),
        case("image.from_sample", inputs={"sample": draw_normal(("B", 3, "H", "W"), 1)}),
        case("image.grid", skip={"shapes": "it makes one picture of a batch"}),
        case(
            "image.scale",
            skip={"ONNX export": "the new sides are rounded in Python, and a graph has no sides to round"},
        ),
        case("image.load", settings={"path": DATA / "examples" / "small.png"}),
        case("label.argmax", inputs={"scores": logits()}),
        case("label.caption", inputs={"names": [f"animal {i}" for i in range(10)]}),
        case("label.named", inputs={"names": ["cat", "dog", "bird"]}, settings={"batch": 2}),
        *(case(id, inputs={"schedule": flow()}) for id in ("levels.flow", "levels.flow_sd3", "levels.flow_sigmas")),
        case("levels.sigmas", settings={"sigmas": [2.0, 1.0, 0.3]}),
        case("levels.timesteps", settings={"timesteps": [80.0, 40.0, 10.0]}),
        case(
            "loss.box_detector",
            inputs={"detector": box_detector(), "image": picture(), **scene_rows()},
            detached={"box": TARGET},
            skip={"ONNX export": "the number of objects in its targets depends on values", **BY_SIXTEEN, **IN_FLOAT32},
        ),
        case("loss.cross_entropy", inputs={"logits": logits()}, skip=IN_FLOAT32),
        case(
            "loss.feature_classes",
            inputs={
                "classifier": new_feature_classifier(channels=8, classes=7, width=8),
                "features": draw_normal((2, 8, 4, 4), 1),
                "share": draw_normal((2, 7, 4, 4), 2).softmax(1),
            },
            skip=IN_FLOAT32,
        ),
        case("loss.detector", inputs={"detector": detector(), "image": picture(), "label": present()}),
        case(
            "loss.discriminator",
            detached={"fake": "the discriminator's loss trains the discriminator alone"},
            skip=IN_FLOAT32,
        ),
        case("loss.generator", skip=IN_FLOAT32),
        case("loss.distillation", detached={"teacher": TARGET}),
        case("loss.kl_autoencoder", inputs={"autoencoder": autoencoder()}, skip=IN_FLOAT32 | BY_POSITION),
        case("loss.perceptual", detached={"target": TARGET}, skip=IN_FLOAT32),
        case("loss.segmentation", inputs={"logits": draw_normal(("B", "K", "H", "W"), 1)}, skip=IN_FLOAT32),
        case("loss.sum", inputs={"losses": [torch.tensor(0.5), torch.tensor(2.0)]}, skip=IN_FLOAT32),
        case("loss.vector", detached={"target": TARGET}, skip=IN_FLOAT32),
        case("loss.vq_autoencoder", inputs={"autoencoder": autoencoder(vq=True)}, skip=IN_FLOAT32),
        case("mask.load", settings={"path": DATA / "examples" / "mask.png"}),
        case("mask.boxes", inputs={"box": draw_normal(("B", 3, 4), 1)}),
        case("mask.random", skip=BY_POSITION),
        case("metric.accuracy", inputs={"logits": logits()}),
        case("metric.class_accuracy", inputs={"logits": logits()}),
        case("metric.fid", inputs=two_sets(), settings={"resamples": 2}),
        case("metric.fid_of_moments", inputs={"moments": moments(), "reference": moments(1)}),
        case("metric.gain", inputs={"values": draw_normal((6,), 1), "baseline": draw_normal((6,), 2)}, skip=METRIC),
        case("metric.inception_score", inputs={"logits": logits(7, 20)}, settings={"splits": 2}),
        case("metric.kid_subsets", inputs=two_sets(), settings={"subsets": 2, "subset_size": 4}),
        case("metric.kid", inputs={"features": logits(6, 30), "reference": logits(6, 40)}),
        case(
            "metric.grid_peaks",
            inputs={"image": draw_normal((2, 3, 24, 24), 1), "reference": draw_normal((2, 3, 24, 24), 2)},
            settings={"period": 2},
        ),
        case("metric.mean", inputs={"values": draw_normal((6,), 1)}, skip=METRIC),
        case("metric.miou", inputs={"predicted": draw_normal(("B", "K", "H", "W"), 1)}, skip=METRIC),
        case("metric.perceptual", skip=METRIC),
        case("metric.precision_recall", inputs=two_sets(), settings={"resamples": 2}),
        case(
            "metric.rate_distortion",
            inputs={
                "bits": draw_normal((2, 3), 1).abs(),
                "squared_error": draw_normal((2, 3), 2).abs(),
                "prior": draw_normal((3,), 3).abs(),
            },
            settings={"resamples": 2},
        ),
        case("metric.psnr", skip=METRIC),
        case("metric.ssim", skip=METRIC),
        case("metric.start_clock", inputs={"value": 1.0}),
        case("metric.share", inputs={"yes": draw_normal((6,), 1) > 0}),
        case(
            "model.load",
            settings={"path": MODELS / "fashion_judge"},
            skip={"types": "a part that the folder does not hold is an error where it is used"},
        ),
        case("moments.add", inputs={"features": draw_normal((8, 6), 3)}, skip=METRIC),
        case("moments.empty", skip={"dtypes": "statistics are computed in float64"}),
        case("noise.gaussian", settings={"shape": [4, 8, 12], "batch": 2}),
        case("plot.lines", inputs={"table": SCORES}, settings={"x": "scale", "y": "fid"}),
        case("plot.scatter", inputs={"table": SCORES}, settings={"x": "scale", "y": "fid"}),
        case(
            "scene_eval.contents",
            inputs={name: scene_rows()[name] for name in ("object", "colour")},
            skip={"ONNX export": "it is for an evaluation"},
        ),
        case(
            "scene_eval.judge",
            inputs={**scene_rows(), "task": torch.tensor([[1, 2, 1, -1, 5, 1, -1, 0]] * 2)},
            skip={"ONNX export": "it is for an evaluation"},
        ),
        case("scene_eval.scores", inputs={"right": torch.tensor([True, False]), "category": torch.tensor([0, 3])}),
        case("scene_eval.everyday", settings={"path": DATA / "everyday_prompts.json"}),
        case(
            "scene_eval.judge_everyday",
            inputs={**scene_rows(), "task": torch.tensor([[1, 2, -1, 5, 1, -1, *(-1,) * 6, 0]] * 2)},
            skip={"ONNX export": "it is for an evaluation"},
        ),
        case("scene_eval.tasks", settings={"count": 2, "batch": 2}),
        case("schedule.flow_shift", inputs={"schedule": flow()}),
        case("scheduler.step", inputs={"noise": draw_normal(("B", "C", "H", "W"), 8)}),
        case("scheduler.step", name="noise", inputs=noisy(), skip={"needs": "the other case leaves out the noise"}),
        case(
            "semantic.boxes",
            inputs={"semantic": torch.eye(23)[:2, :, None, None].expand(-1, -1, 8, 8).contiguous()},
            settings={"most": 2},
        ),
        case("semantic.from_logits", detached={"logits": "a choice of classes has no gradient"}),
        case("semantic.load", settings={"path": DATA / "examples" / "map.png"}),
        case("semantic.picture", inputs={"semantic": example_map()}),
        case("table.columns", inputs={"values": [[1.0, 2.0], 3.0]}, settings={"names": ["a", "b"]}),
        case(
            "table.join",
            inputs={"left": SCORES, "right": Table({"method": ["a", "b"], "year": [1, 2]})},
            settings={"on": "method"},
        ),
        case("table.select", inputs={"table": SCORES}, settings={"names": ["fid"]}),
        case("tensor.cast", settings={"dtype": "float64"}, skip={"dtypes": "it changes the dtype"}),
        case(
            "tensor.load",
            settings={"path": MODELS / "fashion_judge" / "classifier.safetensors", "key": "head.bias"},
            skip={"dtypes": "the file has the dtype"},
        ),
        case("tensor.select", settings={"index": 1}),
        case("tensor.slice", skip=BY_SIZE),
        case("tensor.shuffle", skip={"batch invariance": "it changes the places of a batch's samples", **BY_SIZE}),
        case("text.replace", settings={"words": {"red": "blue"}}),
        *(case(f"timesteps.{name}", skip=BY_POSITION) for name in ("cosmap", "logit_normal", "mode", "uniform")),
    ]


def folder_batches() -> Any:
    """Batches of the example pictures."""
    return specs()["data.folder"].function(path=DATA / "examples", batch=2, count=2).batches


def example_map() -> Tensor:
    """A map of the 23 classes of scenes."""
    classes = draw_normal(("B", 23, "H", "W"), 1).argmax(1, keepdim=True)
    return torch.zeros(2, 23, 8, 12).scatter_(1, classes, 1)
