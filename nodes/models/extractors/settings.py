"""The literal settings of feature extractors, which nodes can import without torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

Range: TypeAlias = Literal["-1..1", "0..1", "0..255", "uint8"]


InceptionLayer: TypeAlias = Literal["pooled", "logits", "spatial"]
