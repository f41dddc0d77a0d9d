"""The operator sets that the installed onnxruntime runs."""

from __future__ import annotations

from guidegraph_runtime.errors import BundleError

STANDARD = ("", "ai.onnx.ml")
"""The domains that a graph may use. com.microsoft, onnxruntime's own, is excluded: onnxruntime adds the operators it
needs itself while loading a graph, and some of the others open files."""

# The newest opset of "" since a version of onnxruntime, determined by loading graphs of rising opsets.
_NEWEST = (((1, 23), 23), ((1, 24), 25), ((1, 26), 26))
_NEWEST_ML = 5


def newest_opsets(version: str | None = None) -> dict[str, int]:
    """The newest opset of each standard domain in a version of onnxruntime, by default the installed one."""
    installed = onnxruntime_release(version)
    supported = [opset for since, opset in _NEWEST if since <= installed]
    return {"": max(supported, default=_NEWEST[0][1]), "ai.onnx.ml": _NEWEST_ML}


def onnxruntime_release(version: str | None = None) -> tuple[int, int]:
    """(major, minor) of a version of onnxruntime, by default the installed one.

    Raises ``BundleError`` where none is installed.
    """
    if version is None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            message = "bundles run on onnxruntime: pip install 'guidegraph-runtime[cpu]', or [gpu] where there is a GPU"
            raise BundleError("onnxruntime", "missing-extra", message) from error
        version = str(onnxruntime.__version__)
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
