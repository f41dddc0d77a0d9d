"""Only regular files are opened: a pipe or a device is an error, and never blocks."""

from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidegraph import load_workflow
from guidegraph.graph.errors import NodeError, WorkflowError
from guidegraph.graph.planning.digest import path_digest
from guidegraph.graph.resolution.load import build
from guidegraph.plugins.manager import PluginManager
from guidegraph_lab.sweep.grid_options import parse_table
from tests.must_end import must_end

REGISTRY = PluginManager(entry_points=False).registry
PATHS = {
    id: [name for name, port in spec.settings.items() if Path in port.type.alternatives]
    for id, spec in REGISTRY.nodes.items()
}
ALONE = [
    *("image.load", "mask.load", "semantic.load", "tensor.load", "moments.load", "model.load", "checkpoint.load"),
    *("checkpoint.sampling", "features.efficientnet", "onnx.denoiser", "text.clip", "text.minilm", "data.folder"),
    *("data.folder_sample", "data.fashion", "data.fashion_mnist"),
]
"""The built-in nodes whose only required argument is a path."""


@pytest.fixture(autouse=True)
def _end_in_time() -> Iterator[None]:
    with must_end():
        yield


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.npy")
    return tmp_path / "pipe.npy"


def run_node(folder: Path, node: str, value: Path | str) -> None:
    """Run a node whose first setting of type path names a file."""
    outputs = list(REGISTRY.nodes[node].outputs)
    link = "n" if outputs == ["out"] else f"n.{outputs[0]}"
    path = folder / "workflow.yaml"
    setting = PATHS[node][0]
    text = f"guidegraph: 1\nnodes:\n  n: {{use: {node}, with: {{{setting}: {value}}}}}\noutputs: {{x: {link}}}\n"
    path.write_text(text)
    load_workflow(path, registry=REGISTRY, cache="off").run()


@pytest.mark.parametrize("node", ALONE)
def test_a_pipe_as_the_path_of_a_node_is_an_error(tmp_path: Path, pipe: Path, node: str) -> None:
    message = "is not a model folder" if node == "model.load" else "found a named pipe; copy what it gives into a file"
    with pytest.raises((NodeError, WorkflowError), match=message):
        run_node(tmp_path, node, pipe)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/tty0", "/dev/stdin"])
def test_a_device_as_the_path_of_a_node_is_an_error(tmp_path: Path, device: str) -> None:
    if not Path(device).exists() or Path(device).is_file():
        pytest.skip(f"this machine has no {device}")
    with pytest.raises(NodeError, match=r"expected a regular file|found a (character device|named pipe|socket)"):
        run_node(tmp_path, "tensor.load", device)


def test_a_socket_and_a_link_to_a_pipe_are_refused_too(tmp_path: Path, pipe: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.npy"))
        with pytest.raises(NodeError, match="found a socket"):
            run_node(tmp_path, "tensor.load", (tmp_path / "s.npy"))
    (tmp_path / "link.npy").symlink_to(pipe)
    with pytest.raises(NodeError, match="found a named pipe"):
        run_node(tmp_path, "tensor.load", (tmp_path / "link.npy"))


def test_a_pipe_as_a_workflow_is_an_error(pipe: Path) -> None:
    with pytest.raises(WorkflowError, match="no-file: cannot read the workflow: expected a regular file"):
        build(pipe, REGISTRY)


def test_a_pipe_as_a_used_workflow_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "used.yaml")
    (tmp_path / "w.yaml").write_text("guidegraph: 1\nnodes: {n: {use: ./used.yaml}}\noutputs: {x: n}\n")
    with pytest.raises(WorkflowError, match=r"cannot use './used.yaml': .*found a named pipe"):
        build(tmp_path / "w.yaml", REGISTRY)


def test_a_pipe_as_a_picture_with_a_recipe_is_refused(pipe: Path) -> None:
    from guidegraph.runs.recipe import is_picture, read_recipe

    assert not is_picture(pipe)
    with pytest.raises(WorkflowError, match="found a named pipe"):
        read_recipe(pipe)


def test_a_pipe_as_the_table_of_a_sweep_is_a_problem(pipe: Path) -> None:
    problems: list[Any] = []
    assert parse_table(pipe, problems) is None
    assert "found a named pipe" in problems[0].message


def test_a_pipe_in_a_folder_of_data_is_named(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "data").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "data" / "a.png")
    os.mkfifo(tmp_path / "data" / "b.png")
    with pytest.raises(NodeError, match=r"b\.png.*named pipe"):
        run_node(tmp_path, "data.folder", (tmp_path / "data"))


def test_pipes_in_the_folder_of_a_model_are_named(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text(
        '{"format": 1, "parts": {"schedule": {"kind": "table", "weights": "schedule.safetensors"}}}'
    )
    os.mkfifo(model / "schedule.safetensors")
    with pytest.raises(WorkflowError, match=r"missing-part: .*schedule\.safetensors' is refused.*named pipe"):
        run_node(tmp_path, "model.load", model)


def test_a_pipe_as_a_training_state_or_cached_value_does_not_block(tmp_path: Path) -> None:
    from guidegraph.graph.execution.cache import DiskCache
    from guidegraph.graph.training.checkpoint import STATE_FILE, read_state

    os.mkfifo(tmp_path / STATE_FILE)
    with pytest.raises(OSError, match="found a named pipe"):
        read_state(tmp_path, "key")
    (tmp_path / "ab").mkdir()
    os.mkfifo(tmp_path / "ab" / "abc.safetensors")
    assert DiskCache(tmp_path).get("abc", "cpu") is None


def test_digests_do_not_block_on_pipes(tmp_path: Path, pipe: Path) -> None:
    assert path_digest(pipe).startswith("!")
    (tmp_path / "a").write_text("a")
    assert path_digest(tmp_path) == path_digest(tmp_path)


def test_a_header_that_declares_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    data = BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<f4", "fortran_order": False, "shape": (20_000, 20_000)})
    (tmp_path / "huge.npy").write_bytes(data.getvalue())
    with pytest.raises(NodeError, match=r"declares \(20000, 20000\) of float32, 1600000000 bytes, and holds 0"):
        run_node(tmp_path, "tensor.load", (tmp_path / "huge.npy"))


def test_a_packed_array_of_many_elements_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    data = BytesIO()
    shape = (1_000_000, 1_000)
    np.lib.format.write_array_header_1_0(data, {"descr": "|i1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data.getvalue() + b"\0" * 1000)
    with pytest.raises(NodeError, match=r"1,000,000,000 elements; the limit is 500,000,000.*--limit elements="):
        run_node(tmp_path, "tensor.load", (tmp_path / "huge.npz"))


class TestResolver:
    """The functions of graph/trust/file_checks.py."""

    def test_bytes_are_limited(self, tmp_path: Path) -> None:
        from guidegraph.graph.trust.file_checks import read_regular
        from guidegraph.graph.trust.limits import LimitExceeded, Limits, enforce_limits

        (tmp_path / "a").write_bytes(b"12345")
        with (
            enforce_limits(Limits(text_bytes=4)),
            pytest.raises(LimitExceeded, match=r"has 5 bytes; .* --limit text_bytes=5"),
        ):
            read_regular(tmp_path / "a")
        with enforce_limits(Limits(text_bytes=5)):
            assert read_regular(tmp_path / "a") == b"12345"

    @pytest.mark.parametrize("name", ["link", "../outside/a", "folder/../../outside/a", "linked/a"])
    def test_links_and_dots_cannot_leave_a_root(self, tmp_path: Path, name: str) -> None:
        from guidegraph.graph.trust.file_checks import RefusedFile, check_path, open_regular, restrict_reads

        root, outside = tmp_path / "root", tmp_path / "outside"
        (root / "folder").mkdir(parents=True)
        outside.mkdir()
        (outside / "a").write_text("secret")
        (root / "link").symlink_to(outside / "a")
        (root / "linked").symlink_to(outside)
        for check in (check_path, open_regular):
            with restrict_reads([root]), pytest.raises(RefusedFile, match="it lies outside of what may be read"):
                check(root / name)

    def test_files_in_a_root_are_opened(self, tmp_path: Path) -> None:
        from guidegraph.graph.trust.file_checks import RefusedFile, check_path, read_regular, restrict_reads

        (tmp_path / "real").mkdir()
        (tmp_path / "root").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "a").write_text("a")
        (tmp_path / "real" / "b").symlink_to("a")
        with restrict_reads([tmp_path / "other", tmp_path / "root"]):
            for name in ("a", "b"):
                assert read_regular(tmp_path / "root" / name) == b"a"
            check_path(tmp_path / "root" / "new" / "file")
        with restrict_reads([]), pytest.raises(RefusedFile, match="it lies outside of what may be read"):
            read_regular(tmp_path / "root" / "a")

    def test_a_file_that_is_swapped_for_another_while_it_is_opened_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from guidegraph.graph.trust.file_checks import RefusedFile, open_regular

        (tmp_path / "a").write_text("a")
        os.mkfifo(tmp_path / "pipe")
        opened = os.open

        def swap(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            os.replace(tmp_path / "pipe", tmp_path / "a")
            return opened(path, flags, *arguments, **options)

        monkeypatch.setattr(os, "open", swap)
        with pytest.raises(RefusedFile, match="found a named pipe"):
            open_regular(tmp_path / "a")
