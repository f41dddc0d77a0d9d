"""The folders in which a user's caches are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache_folder(name: str, variable: str) -> Path | None:
    """The folder of a cache: that in an environment variable, or else `guidegraph/NAME` in `$XDG_CACHE_HOME`.

    That is `~/.cache` if it is not set. None if the variable is `off`, or if there is no home folder.
    """
    chosen = os.environ.get(variable, "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home folder
        return None
    return caches / "guidegraph" / name
