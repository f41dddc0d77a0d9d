"""The files of onnxruntime-web, from a folder that the user names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guidegraph_runtime.files.bounded_json import read_json

MODULE, GLUE, WASM = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
"""The library, the loader of its WebAssembly, and the WebAssembly."""

INSTALL = "'npm install --ignore-scripts onnxruntime-web' writes it to node_modules/onnxruntime-web"


@dataclass(frozen=True)
class OnnxruntimeWeb:
    """The npm package onnxruntime-web: its folder `dist`, its version and the name of its licence."""

    dist: Path
    version: str
    license: str

    @property
    def files(self) -> list[Path]:
        """The files that a page needs."""
        return [self.dist / name for name in (MODULE, GLUE, WASM)]


def find_onnxruntime_web(folder: Path) -> OnnxruntimeWeb:
    """The package in a folder: its own, or its `dist`.

    Raises ``ValueError`` with the missing file and a way to get the package.
    """
    package = folder.absolute().parent if folder.name == "dist" else folder
    described = package / "package.json"
    try:
        description = read_json(described)
    except OSError as error:
        raise ValueError(
            f"'{described}' cannot be read ({error.strerror}): name the folder of the package; {INSTALL}"
        ) from None
    except ValueError:
        raise ValueError(f"'{described}' is not JSON: {INSTALL}") from None
    name = description.get("name") if isinstance(description, dict) else None
    if name != "onnxruntime-web":
        raise ValueError(f"'{described}' describes {name!r:.60}, not onnxruntime-web: {INSTALL}")
    web = OnnxruntimeWeb(package / "dist", str(description.get("version")), str(description.get("license")))
    if missing := [path for path in web.files if not path.is_file()]:
        raise ValueError(f"'{missing[0]}' is missing from onnxruntime-web {web.version}: {INSTALL}")
    return web
