"""The two forms of a noise schedule."""

from __future__ import annotations

from typing import Literal, TypeAlias

Form: TypeAlias = Literal["variance_preserving", "flow"]
"""How x = αx0 + σε is scaled: α² + σ² = 1, or α + σ = 1, the straight path of flow matching (Lipman et al. 2023)."""
