"""Damage bundles and recompute their hashes, so that only their readers can refuse them."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from guidegraph_runtime.cli import main
from tests.runtime.running.bundles import seal_manifest
from tests.runtime.test_cli import make
from tools.harden.children import run_child

SECONDS = 60.0
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, -1e308, 5e-324, "", "a", "params.seed",
    "noise", "../../etc/passwd", "/etc/passwd", "\x1b[2J", "x" * 5000, "ü\u202e", "parts/step.onnx", [], {}, [[]],
    [1, 2, 3], ["a"], {"file": "inputs/photo.png"}, {"file": "/etc/passwd"}, {"a": {"b": 1}},
)  # fmt: skip


def try_mutants(count: int, folder: Path, say: Callable[[str], object], first: int = 0) -> Counter[str]:
    """Run mutants and count how they end: by exit code, or by the reason why the end is unacceptable."""
    ends: Counter[str] = Counter()
    original = make(folder / "whole")
    for seed in range(first, first + count):
        root = folder / "mutant"
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.copytree(original, root)
        change = _mutate(root, random.Random(seed))
        for command in (["--describe"], ["--out", str(folder / "out"), "--limit", f"seconds={SECONDS / 3:g}"]):
            ended = run_child(main, [str(root), *command], folder, SECONDS)
            if ended.unfit:
                say(f"mutant {seed} ({change}), {command[0]}: {ended.unfit}: {ended.out[-500:]}")
                ends[ended.unfit] += 1
                break
        else:
            ends[f"exit code {ended.code}"] += 1
    return ends


def _mutate(root: Path, rng: random.Random) -> str:
    """Damage a bundle in one to three spots and correct its hashes; describe the changes."""
    manifest = json.loads((root / "bundle.json").read_text())
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.6:
            done.append(_mutate_manifest(manifest, rng))
        else:
            done.append(_mutate_file(root, rng))
    files = manifest.get("files")
    for name, entry in files.items() if isinstance(files, dict) else ():
        path = root / name if isinstance(name, str) and "\0" not in name and len(name) < 200 else None
        if isinstance(entry, dict) and path is not None and path.is_relative_to(root) and path.is_file():
            data = path.read_bytes()
            entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (root / "bundle.json").write_bytes(seal_manifest(manifest))
    return ", ".join(done)


def _mutate_manifest(manifest: dict[str, Any], rng: random.Random) -> str:
    places = [*_places(manifest, "")]
    path, holder, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
        return f"{path} deleted"
    if kind == 1:
        other = rng.choice(places)
        try:
            holder[key] = copy.deepcopy(other[1][other[2]])
        except (KeyError, IndexError):
            holder[key] = None
        return f"{path} = {other[0]}"
    if kind == 2 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        return f"{path} twice"
    if kind == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * rng.choice((-1, 0, 2, 1000, 10**6, 10**12))
        return f"{path} scaled"
    holder[key] = copy.deepcopy(rng.choice(NASTY))
    return f"{path} = {holder[key]!r:.40}"


def _places(value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in [*entries]:
        yield f"{path}/{key}", value, key
        yield from _places(part, f"{path}/{key}")


def _mutate_file(root: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(p for p in root.rglob("*") if p.is_file() and p.name != "bundle.json"))
    data = bytearray(path.read_bytes())
    kind = rng.randrange(4)
    position = rng.randrange(len(data)) if data else 0
    if kind == 0 and data:
        for _ in range(rng.choice((1, 1, 4, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[position : position + rng.choice((1, 8, 1000))]
    elif kind == 2:
        data[position:position] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 8, 64))))
    elif data:
        data[position] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.relative_to(root)} damaged at {position}"
