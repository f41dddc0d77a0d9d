"""A folder like the npm package onnxruntime-web, with files that nothing can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidegraph_browser.support import GLUE, MODULE, WASM


def write_onnxruntime_web(folder: Path, **change: Any) -> Path:
    """change: of package.json."""
    (folder / "dist").mkdir(parents=True)
    described = {"name": "onnxruntime-web", "version": "1.30.0", "license": "MIT", **change}
    (folder / "package.json").write_text(json.dumps(described))
    for name in (MODULE, GLUE, WASM):
        (folder / "dist" / name).write_text(f"the file {name}")
    return folder
