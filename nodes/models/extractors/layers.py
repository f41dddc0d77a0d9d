"""The layers whose features an extractor can give. Needs no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

InceptionLayer: TypeAlias = Literal["pooled", "logits", "spatial"]
