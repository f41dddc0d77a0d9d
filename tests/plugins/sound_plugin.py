"""A stranger's plugin: a sound as a port type, written as WAV, and shown by reports and the page."""

from __future__ import annotations

import base64
import io
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guidegraph import OutputFormat, Tensor, hookimpl, node


class Sound(Tensor):
    """Samples in [-1, 1] at 8 kHz."""

    axes = ("B", "L")


class Chord(Sound):
    """Several tones at once, written by the format of a sound."""


class Broken(Sound):
    """A sound whose writer raises."""


class Slow(Sound):
    """A sound whose writer hangs."""


class Silent(Sound):
    """A sound whose writer writes nothing."""


@node("sound.tone")
def tone(*, pitch: float = 440.0, batch: int = 1, length: int = 800) -> Sound:
    """Sine tones, each an octave above the one before."""
    times = torch.arange(length) / 8000
    return torch.stack([torch.sin(2 * torch.pi * pitch * 2**i * times) for i in range(batch)])


@node("sound.chord")
def chord(sound: Sound) -> Chord:
    """The tones of a batch at once."""
    return sound.mean(0, keepdim=True)


@node("sound.breaks")
def breaks(sound: Sound) -> Broken:
    """The same sound as a type whose writer raises."""
    return sound.clone()


@node("sound.hangs")
def hangs(sound: Sound) -> Slow:
    """The same sound as a type whose writer hangs."""
    return sound.clone()


@node("sound.says_nothing")
def says_nothing(sound: Sound) -> Silent:
    """The same sound as a type whose writer writes nothing."""
    return sound.clone()


def write(sound: Any, path: Path) -> None:
    """Write one sound (L) as 16-bit WAV."""
    samples = (np.asarray(sound).clip(-1, 1) * 32767).round().astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


def read(path: Path) -> np.ndarray[Any, Any]:
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767


def html(samples: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'


def fail(sound: Any, path: Path) -> None:
    path.write_bytes(b"half of a")
    raise ValueError("no codec")


def hang(sound: Any, path: Path) -> None:
    time.sleep(30)


FORMAT = OutputFormat(Sound, ".wav", write, read=read, html=html)
"""Named by the entry point ``guidegraph_runtime_outputs`` too."""


@hookimpl
def guidegraph_nodes() -> list[Any]:
    return [tone, chord, breaks, hangs, says_nothing]


@hookimpl
def guidegraph_types() -> list[type]:
    return [Sound, Chord, Broken, Slow, Silent]


@hookimpl
def guidegraph_outputs() -> list[OutputFormat]:
    return [
        FORMAT,
        OutputFormat(Broken, ".wav", fail),
        OutputFormat(Slow, ".wav", hang, seconds=0.2),
        OutputFormat(Silent, ".wav", lambda sound, path: None),
    ]
