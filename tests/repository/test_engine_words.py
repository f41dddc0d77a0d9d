"""The engine knows nothing of diffusion: no word of it, and no id of a node, stands in the code of graph/.

What it says about an operation or a type is declared there and found through the registry. Docstrings and comments may
take their examples from diffusion; identifiers and texts, messages included, may not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidegraph.graph.node import get_spec
from guidegraph.plugins.builtin import guidegraph_nodes
from guidegraph_runtime.operations import OPERATIONS
from tests.paths import ROOT


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORDS = _words("""
    alpha alphas autoencoder autoencoders caption captions cfg classifier classifiers ddim ddpm denoise denoiser
    denoisers denoising diffusion embedder embedders epsilon gaussian guidance guided image images inpaint latent
    latents lora loras mask masks noise noised noises noisy philox picture pictures prompt prompts rescale
    sampler samplers sampling scheduler schedulers score scores segmenter semantic sigma sigmas timestep timesteps
    tokenize tokenizer unet vae
""")
"""Words of the field. Left out are words that the engine needs in another sense: label (of a branch), token (to cancel
a run), sample (of a batch), condition, level, schedule (of learning rates), step, scale, clip and eps (of AdamW).
"""

EXCEPTIONS = {
    ("graph/export/onnx/affine.py", "epsilon"): "an attribute of ONNX's BatchNormalization",
    ("graph/export/onnx/program.py", "attn_mask"): "a parameter of torch's operator",
    ("graph/export/onnx/decompositions.py", "output_mask"): "a parameter of torch's operator",
    ("graph/export/onnx/gradients.py", "attn_mask"): "a parameter of torch's operator",
    ("graph/export/one_node.py", "MASKS"): "the runtime's name for a key of a bundle",
    ("graph/export/partition/sample_rules.py", "grid_sampler_2d grid_sampler_3d"): "torch's operators",
    ("graph/training/optimisers.py", "alpha"): "a parameter of torch's addmm",
    ("graph/values/ownership.py", "PIL.Image"): "a class of Pillow",
    ("graph/values/ownership.py", "Image"): "a class of Pillow",
}
"""Names of other packages, by file and text."""


def split_words(text: str) -> set[str]:
    """The words of a text or an identifier, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)}


def names_and_texts(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Identifiers and texts outside docstrings: the line, the text, and whether it is a text."""
    docstrings = {
        id(statement.value)
        for node in ast.walk(tree)
        for statement in (node.body if isinstance(getattr(node, "body", None), list) else ())  # type: ignore[attr-defined]
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in docstrings:
                yield line, node.value, True
        elif isinstance(node, ast.Name):
            yield line, node.id, False
        elif isinstance(node, ast.Attribute):
            yield line, node.attr, False
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield line, node.name, False
        elif isinstance(node, (ast.arg, ast.keyword)):
            yield line, node.arg or "", False
        elif isinstance(node, ast.alias):
            yield line, f"{node.name} {node.asname or ''}", False
        elif isinstance(node, ast.ImportFrom):
            yield line, node.module or "", False


def find_words(root: Path) -> list[tuple[str, int, str, str]]:
    """The words of diffusion in the code below a folder: file, line, text and word."""
    return [
        (path.relative_to(root).as_posix(), line, text, word)
        for path in sorted((root / "graph").rglob("*.py"))
        for line, text, _ in names_and_texts(ast.parse(path.read_text(encoding="utf-8")))
        for word in sorted(split_words(text) & WORDS)
    ]


def test_no_word_of_diffusion_stands_in_the_engine() -> None:
    assert [entry for entry in find_words(ROOT) if (entry[0], entry[2].strip()) not in EXCEPTIONS] == []


def test_every_exception_is_still_needed() -> None:
    assert {(file, text.strip()) for file, _, text, _ in find_words(ROOT)} == set(EXCEPTIONS)


def test_no_module_of_the_engine_is_named_for_diffusion() -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in (ROOT / "graph").rglob("*.py")]
    assert [path for path in paths if split_words(path) & WORDS] == []


def test_no_id_of_a_node_stands_in_the_engine() -> None:
    ids = {get_spec(function).id for function in guidegraph_nodes()} | set(OPERATIONS)
    pattern = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, sorted(ids)))})(?![\w.])")
    texts = [
        (path.relative_to(ROOT).as_posix(), line, match[0])
        for path in sorted((ROOT / "graph").rglob("*.py"))
        for line, text, is_text in names_and_texts(ast.parse(path.read_text(encoding="utf-8")))
        if is_text
        for match in pattern.finditer(text)
    ]
    assert texts == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f():\n    'Draws noise.'\n    return 1\n", []),
        ("noise_inputs = 1  # latents\n", [(1, "noise_inputs", "noise")]),
        ("class NoiseInput:\n    x: int\n", [(1, "NoiseInput", "noise")]),
        ("raise ValueError(f'the prompt {x} is empty')\n", [(1, "the prompt ", "prompt")]),
        ("from a.lora import b\nf(sigma=2)\n", [(1, "a.lora", "lora"), (2, "sigma", "sigma")]),
    ],
)
def test_a_word_in_code_is_recognised(tmp_path: Path, code: str, expected: list[tuple[int, str, str]]) -> None:
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "module.py").write_text(code)
    assert [entry[1:] for entry in find_words(tmp_path)] == expected
