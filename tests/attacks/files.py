"""Attacks by a stranger's file that your own workflow loads: checkpoints, tensors, models, pictures."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np

from tests.attacks.arena import Arena, Outcome, attack
from tests.paths import ROOT

HEAD = "guidegraph: 1\n"


class Payload:
    """An object that runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def overwrite(arena: Arena) -> Payload:
    return Payload(f"echo gone > {arena.protected_file}")


def load(arena: Arena, node: str, path: Path | str, output: str = "out") -> Outcome:
    text = f'{HEAD}nodes:\n  a: {{use: {node}, with: {{path: "{path}"}}}}\noutputs: {{a: a.{output}}}\n'
    return arena.run_own(text)


def run_sample(arena: Arena, node: str, path: Path | str, output: str) -> Outcome:
    """Run a workflow that loads a model and decodes noise with it."""
    text = (
        f'{HEAD}nodes:\n  a: {{use: {node}, with: {{path: "{path}"}}}}\n'
        "  n: {use: noise.gaussian, with: {shape: [1, 4, 8, 8]}}\n  z: {use: tensor.as_latent, in: {tensor: n}}\n"
        f"  d: {{use: autoencoder.decode, in: {{autoencoder: a.{output}, latent: z}}}}\noutputs: {{d: d}}\n"
    )
    return arena.run_own(text)


@attack("a checkpoint that is a pickle with a command", "checkpoint.load")
def checkpoint_pickle(arena: Arena) -> Outcome:
    path = arena.folder / "model.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": overwrite(arena)}, protocol=2))
    return run_sample(arena, "checkpoint.load", path, "autoencoder")


@attack("a checkpoint of torch's own format with a command in its pickle", "checkpoint.load")
def checkpoint_zip(arena: Arena) -> Outcome:
    path = arena.folder / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(overwrite(arena), protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return run_sample(arena, "checkpoint.load", path, "autoencoder")


@attack("an array file of objects, with a command in its pickle", "tensor.load")
def array_pickle(arena: Arena) -> Outcome:
    path = arena.folder / "array.npy"
    array = np.empty(1, dtype=object)
    array[0] = overwrite(arena)
    np.save(path, array, allow_pickle=True)
    return load(arena, "tensor.load", path)


@attack("an archive of object arrays, with a command in their pickle", "tensor.load")
def arrays_pickle(arena: Arena) -> Outcome:
    path = arena.folder / "arrays.npz"
    array = np.empty(1, dtype=object)
    array[0] = overwrite(arena)
    np.savez(path, a=array)
    return load(arena, "tensor.load", path)


@attack("a safetensors file whose header claims more bytes than any machine's memory", "tensor.load")
def huge_header(arena: Arena) -> Outcome:
    path = arena.folder / "t.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    return load(arena, "tensor.load", path)


@attack("a safetensors file with a tensor of 2^60 elements", "tensor.load")
def huge_tensor(arena: Arena) -> Outcome:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 4]}}).encode()
    path = arena.folder / "t.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    return load(arena, "tensor.load", path)


@attack("an array file that claims 2^60 elements", "tensor.load")
def huge_array(arena: Arena) -> Outcome:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**30, 2**30)})
    path = arena.folder / "a.npy"
    path.write_bytes(buffer.getvalue() + b"\0" * 16)
    return load(arena, "tensor.load", path)


@attack("a model folder whose index takes weights from a parent folder", "model.load")
def weights_above(arena: Arena) -> Outcome:
    shipped = ROOT / "workflows" / "models" / "scenes" / "model.json"
    index = shipped.read_text().replace("autoencoder.safetensors", "../../outside/kept.txt")
    (arena.folder / "model").mkdir()
    (arena.folder / "model" / "model.json").write_text(index)
    return run_sample(arena, "model.load", arena.folder / "model", "autoencoder")


@attack("a configuration next to a checkpoint with a YAML tag that creates a Python object", "checkpoint.load")
def config_tag(arena: Arena) -> Outcome:
    (arena.folder / "config.yaml").write_text(
        f"model: !!python/object/apply:os.system ['echo gone > {arena.protected_file}']\n"
    )
    path = arena.folder / "model.ckpt"
    path.write_bytes(b"PK")
    return run_sample(arena, "checkpoint.load", path, "autoencoder")


@attack("a LoRA that is a pickle with a command", "lora.apply")
def lora_pickle(arena: Arena) -> Outcome:
    path = arena.folder / "style.safetensors"
    path.write_bytes(pickle.dumps(overwrite(arena)))
    text = (
        f'{HEAD}nodes:\n  m: {{use: model.load, with: {{path: "pkg:scenes"}}}}\n'
        f'  l: {{use: lora.apply, in: {{denoiser: m.denoiser}}, with: {{path: "{path}"}}}}\n'
        "  n: {use: noise.gaussian, with: {shape: [1, 4, 8, 8]}}\n  t: {use: timesteps.constant, in: {like: n}, "
        "with: {t: 5}}\n  e: {use: text.encode, in: {embedder: m.text}, with: {prompt: a}}\n"
        "  d: {use: denoiser.predict, in: {denoiser: l.denoiser, x: n, t: t, condition: e}}\noutputs: {d: d}\n"
    )
    return arena.run_own(text)


@attack("a picture file whose content is HTML, SVG or a pickle", "image.load")
def invalid_picture(arena: Arena) -> Outcome:
    path = arena.folder / "a.png"
    path.write_bytes(pickle.dumps(overwrite(arena)))
    return load(arena, "image.load", path)


def bert(folder: Path, config: dict[str, object]) -> Path:
    """Write a folder like that of transformers for MiniLM, without weights."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    return folder


def embed_text(arena: Arena, folder: Path) -> Outcome:
    text = (
        f'{HEAD}nodes:\n  m: {{use: text.minilm, with: {{path: "{folder}"}}}}\n'
        "  e: {use: text.encode, in: {embedder: m}, with: {prompt: a}}\noutputs: {e: e}\n"
    )
    return arena.run_own(text)


@attack("a text encoder whose configuration names Python code in its folder", "text.minilm")
def remote_code(arena: Arena) -> Outcome:
    config: dict[str, object] = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    folder = bert(arena.folder / "encoder", config)
    (folder / "evil.py").write_text(f"open({str(arena.protected_file)!r}, 'w').write('gone')\n")
    return embed_text(arena, folder)


@attack("a text encoder whose index takes weights from a parent folder", "names files beside it")
def shards_above(arena: Arena) -> Outcome:
    folder = bert(arena.folder / "encoder", {"model_type": "bert"})
    index = {"weight_map": {"embeddings.word_embeddings.weight": "../../outside/kept.txt"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return embed_text(arena, folder)


@attack("a workflow with the name of a diffusers component that leads to another folder", "expected the plain name")
def part_above(arena: Arena) -> Outcome:
    text = (
        f"{HEAD}nodes:\n  s: {{use: schedule.linear}}\n  d: {{use: diffusers.denoiser, in: {{schedule: s}}, "
        f'with: {{path: ".", part: "{arena.outside}", kind: eps}}}}\n'
        "  n: {use: noise.gaussian, with: {shape: [1, 4, 8, 8]}}\n"
        "  t: {use: timesteps.constant, in: {like: n}, with: {t: 5}}\n"
        "  p: {use: denoiser.predict, in: {denoiser: d, x: n, t: t}}\noutputs: {p: p}\n"
    )
    return arena.run_own(text)
