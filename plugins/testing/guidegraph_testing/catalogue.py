"""The checks by name."""

from __future__ import annotations

from collections.abc import Mapping

CHECKS: Mapping[str, tuple[str, str]] = {
    "docs": ("docs", "check_docs"),
    "types": ("output_types", "check_types"),
    "files": ("files", "check_files"),
    "shapes": ("output_types", "check_shapes"),
    "dtypes": ("dtypes", "check_dtypes"),
    "batch invariance": ("batch", "check_batch_invariance"),
    "determinism": ("determinism", "check_determinism"),
    "inputs unchanged": ("determinism", "check_inputs_unchanged"),
    "device independence": ("device", "check_device_independence"),
    "waits": ("device", "check_waits"),
    "gradients": ("gradients", "check_gradients"),
    "identity": ("traits", "check_identity"),
    "needs": ("traits", "check_needs"),
    "previews": ("previews", "check_previews"),
    "ONNX export": ("onnx", "check_onnx_export"),
}
"""Module and function of each check, in the order in which they run."""
