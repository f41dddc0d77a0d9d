"""Attacks that exhaust time, memory or disk space: each soon ends in an error message."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

from tests.attacks.arena import Arena, Outcome, attack, recipe_picture
from tests.attacks.recipes import HEAD, PLAIN, reads, run_picture
from tests.runtime.running.bundles import write_bundle


@attack("a picture whose workflows each use the next one twice, twenty levels deep", "too-large")
def expands(arena: Arena) -> Outcome:
    texts = {}
    for depth in range(20):
        below = f"./b{depth + 1}.yaml" if depth < 19 else "noise.gaussian"
        more = "" if depth < 19 else ", with: {shape: [1, 3, 4, 4]}"
        output = "a.a" if depth < 19 else "a"
        texts[f"b{depth}.yaml"] = (
            f"{HEAD}nodes:\n  a: {{use: {below}{more}}}\n  b: {{use: {below}{more}}}\noutputs: {{a: {output}}}\n"
        )
    return run_picture(arena, texts)


@attack("a picture whose loop has 10^12 iterations", "trips")
def loops(arena: Arena) -> Outcome:
    text = (
        f"{HEAD}params: {{trips: 1000000000000}}\nnodes:\n  n: {{use: noise.gaussian, with: {{shape: [1, 3, 4, 4]}}}}\n"
        "  each:\n    loop: {over: params.trips, as: i}\n    carry: {x: n}\n"
        "    body: {y: {use: noise.gaussian, in: {like: carry.x}}}\n    next: {x: y}\noutputs: {x: each.x}\n"
    )
    return run_picture(arena, text)


@attack("a picture whose nested loops have 10^12 iterations in all", "trips")
def loops_in_loops(arena: Arena) -> Outcome:
    text = (
        f"{HEAD}params: {{trips: 1000000}}\nnodes:\n  n: {{use: noise.gaussian, with: {{shape: [1, 3, 4, 4]}}}}\n"
        "  outer:\n    loop: {over: params.trips, as: i}\n    carry: {x: n}\n    body:\n      inner:\n"
        "        loop: {over: params.trips, as: j}\n        carry: {y: carry.x}\n"
        "        body: {z: {use: noise.gaussian, in: {like: carry.y}}}\n        next: {y: z}\n"
        "    next: {x: inner.y}\noutputs: {x: outer.x}\n"
    )
    return run_picture(arena, text)


@attack("a picture that asks for noise of 10^12 numbers", "it would take at least")
def huge_noise(arena: Arena) -> Outcome:
    return run_picture(arena, PLAIN.replace("[1, 3, 4, 4]", "[3, 1000000, 1000000]"))


@attack("a picture that asks for a batch of 10^9", "it would take at least")
def huge_batch(arena: Arena) -> Outcome:
    return run_picture(arena, PLAIN.replace("[1, 3, 4, 4]", "[3, 64, 64], batch: 1000000000"))


@attack("a picture file that is a pipe, which would block forever", "expected a regular file")
def pipe(arena: Arena) -> Outcome:
    os.mkfifo(arena.folder / "cat.png")
    return arena.run_own(reads("image.load", "cat.png"))


@attack("a picture file that is an endless device", "expected a regular file")
def device(arena: Arena) -> Outcome:
    return arena.run_own(reads("image.load", "/dev/zero"))


@attack("a workflow that is a pipe", "expected a regular file")
def workflow_pipe(arena: Arena) -> Outcome:
    os.mkfifo(arena.folder / "flow.yaml")
    return arena.run("validate", arena.folder / "flow.yaml")


def bomb(path: Path, side: int) -> Path:
    """A grey PNG of side × side pixels, all zeros, in a small file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


@attack("a small picture file that claims 30,000 × 30,000 pixels", "pixels")
def pixels(arena: Arena) -> Outcome:
    bomb(arena.folder / "cat.png", 30_000)
    return arena.run_own(reads("image.load", "cat.png"))


@attack("a small picture with a workflow that claims 30,000 × 30,000 pixels", "pixels")
def pixels_of_recipe(arena: Arena) -> Outcome:
    return arena.run("run", bomb(arena.folder / "holiday.png", 30_000), "--out", "out")


@attack("a picture whose text chunk decompresses to gigabytes", "not-a-picture")
def text_bomb(arena: Arena) -> Outcome:
    picture = recipe_picture(arena.folder / "holiday.png", PLAIN)
    data = picture.read_bytes()
    packed = zlib.compress(b" " * (200 << 20), 9)
    text = b"guidegraph\0\1\0\0\0" + packed
    chunk = struct.pack(">I", len(text)) + b"iTXt" + text + struct.pack(">I", zlib.crc32(b"iTXt" + text))
    end = data.rindex(b"IEND") - 4
    picture.write_bytes(data[:end] + chunk + data[end:])
    return arena.run("run", picture, "--out", "out")


def change_plan(key: str, value: Any) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        manifest["inputs"]["x"] |= {"required": False}
        manifest["plan"] = [
            {"op": "noise.gaussian", "node": "noise", "in": {}, "with": {"shape": [4], key: value}, "out": ["noise"]},
            {**manifest["plan"][0], "in": {"x": "noise"}},
            manifest["plan"][1],
        ]
        del manifest["inputs"]["x"]

    return change


@attack("a bundle that asks for noise of 10^15 numbers", "bundle: ")
def bundle_noise(arena: Arena) -> Outcome:
    root = write_bundle(arena.folder / "bundle", change=change_plan("shape", [10**5, 10**5, 10**5]))
    return arena.run_bundle(root, "--out", "out")


@attack("a bundle that asks for a batch of 10^12", "bundle: ")
def bundle_batch(arena: Arena) -> Outcome:
    root = write_bundle(arena.folder / "bundle", change=change_plan("batch", 10**12))
    return arena.run_bundle(root, "--out", "out")


@attack("a bundle whose loop has 10^15 iterations", "trips")
def bundle_loop(arena: Arena) -> Outcome:
    def change(manifest: dict[str, Any]) -> None:
        change_plan("batch", 1)(manifest)
        manifest["plan"][1]["with"] |= {"over": 10**15}

    return arena.run_bundle(write_bundle(arena.folder / "bundle", change=change), "--out", "out")
