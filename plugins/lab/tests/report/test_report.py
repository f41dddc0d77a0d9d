"""The page of a run, a sweep and several results, parsed without a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guidegraph_lab.report.pictures import MOST, _encode
from guidegraph_runtime.pictures.png import write_png
from plugins.lab.tests.report.folders import HOSTILE, WORKFLOW, run_folder, sweep_folder
from tests.commands.command import Command

VOID = {"meta", "link", "img"}
ADDRESS = re.compile(r"https?://[^\s\"'<]+")


class Page(HTMLParser):
    """Parses a page into elements; fails on an end tag without a start tag."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes_of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def titles(self) -> list[str]:
        return [
            attributes["aria-label"] or "" for attributes in self.attributes_of("svg") if "aria-label" in attributes
        ]


def make_report(cli: Command, folder: Path, *more: str) -> Page:
    result = cli("report", folder, *more)
    assert (result.code, result.err) == (0, "")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def headings(folder: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", (folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_of_a_run_has_pictures_curves_values_graph_and_times(cli: Command) -> None:
    folder = run_folder(cli.folder / "out")
    page = make_report(cli, folder)
    assert headings(folder) == [
        "Pictures",
        "Curves",
        "Values",
        "Tables",
        "Parameters",
        "Graph",
        "Time by node",
        "Other files",
        "Versions and machine",
        "This page again",
    ]
    assert len(page.attributes_of("img")) == 2
    assert "12.346" in page.text
    assert "sample.step toy.add 3 0.88 73.3" in page.text
    assert "guidegraph report" in page.text
    assert "latent.safetensors" in page.text


def test_the_page_of_a_sweep_has_curves_a_contact_sheet_and_failures(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out")
    page = make_report(cli, folder)
    assert headings(folder)[:5] == ["Failed cells", "Curves", "Matrices", "Contact sheet", "Cells"]
    assert "30 cells over scale (5) × kind (2) × seed (3)" in page.text
    assert f"nodes.sample.step (toy.add): {HOSTILE} is not a number" in page.text
    assert "Mean over up to 3 seeds, with its 95 % interval (Student's t)." in page.text
    labels = [attributes["alt"] or "" for attributes in page.attributes_of("img")]
    assert len(labels) == len(set(labels)) == 29
    assert "image: scale = 1.5, kind = apg, seed = 2" in [" ".join(label.split()) for label in labels]
    assert "kind = plain" in page.text


@pytest.mark.parametrize(("setting", "name"), [("onnx", "onnxruntime"), ("compile", "torch.compile")])
def test_the_page_of_an_accelerated_run_names_the_accelerator(cli: Command, setting: str, name: str) -> None:
    page = make_report(cli, run_folder(cli.folder / "out", accelerate=setting))
    assert f"Precision float32 Accelerator {name}" in page.text
    assert f"accelerate {setting}" in page.text
    assert "Accelerator" not in make_report(cli, run_folder(cli.folder / "plain", accelerate=None)).text


def test_the_page_of_an_accelerated_sweep_names_the_accelerator(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=1, scales=(1.0,))
    assert "Accelerator" not in make_report(cli, folder).text
    plan = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**plan, "accelerate": "onnx"}))
    assert "Accelerator onnxruntime" in make_report(cli, folder).text


def test_runs_beside_each_other_are_told_apart_by_their_accelerator(cli: Command) -> None:
    folder = cli.folder / "out"
    run_folder(folder / "plain")
    run_folder(folder / "fast", accelerate="onnx")
    text = make_report(cli, folder).text
    assert "run workflow status seconds accelerator" in text
    assert "fast draw done 1.2 onnxruntime" in text


def test_the_page_of_an_interrupted_sweep_counts_the_missing_cells(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=1, scales=(1.0, 2.0))
    plan = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**plan, "cells": 7}))
    assert "3 of 7 cells have not run yet." in make_report(cli, folder).text


def test_several_runs_share_a_page_and_equal_graphs_are_drawn_once(cli: Command) -> None:
    folder = cli.folder / "out"
    for i in range(3):
        run_folder(folder / f"run-{i}", parameters={"scale": i, "seed": 0})
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    (folder / "other").mkdir()
    page = make_report(cli, folder)
    assert "3 results beside each other" in page.text
    assert "run workflow status seconds scale fid.value" in page.text
    assert "run-2 draw done 1.2 2 12.346" in page.text
    assert "broken is left out: its record is not valid JSON" in page.text
    assert len([a for a in page.attributes_of("svg") if a.get("aria-label") == "draw"]) == 1
    assert page.text.count("The same as the one above") == 2


@pytest.mark.parametrize("make", [run_folder, sweep_folder], ids=["run", "sweep"])
def test_the_page_is_self_contained_and_has_no_scripts(cli: Command, make: Any) -> None:
    folder = make(cli.folder / "out")
    page = make_report(cli, folder)
    assert {"script", "iframe", "object", "form", "base"}.isdisjoint(name for name, _ in page.elements)
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href"):
            address = attributes.get(key) or ""
            assert address.startswith(("data:", "#")) or not address, (name, address)
        if name == "img":
            head, _, data = (attributes["src"] or "").partition(",")
            assert head == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
                picture.load()
                assert picture.info == {}
            assert attributes["alt"]
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert ADDRESS.findall(html) == []
    assert not re.search(r"url\((?!#)|@import", html)
    assert HOSTILE not in html
    assert HOSTILE in page.text
    assert WORKFLOW.splitlines()[0] in page.text


def test_ids_in_the_page_are_unique_and_links_resolve(cli: Command) -> None:
    folder = cli.folder / "out"
    run_folder(folder / "first")
    sweep_folder(folder / "second")
    page = make_report(cli, folder)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for _, a in page.elements if (a.get("href") or "").startswith("#")}
    assert targets <= set(ids)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_the_same_folder_gives_the_same_page(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=1, scales=(1.0, 2.0))
    make_report(cli, folder)
    before = (folder / "report.html").read_bytes()
    make_report(cli, folder)
    assert (folder / "report.html").read_bytes() == before


def test_a_large_sweep_shows_the_first_pictures_of_each_cell(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=21)
    page = make_report(cli, folder)
    assert len(page.attributes_of("img")) == MOST
    assert "9 of 209 pictures are left out" in page.text
    assert "10 more rows are left out here" in page.text


def test_curves_follow_the_options(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=2, scales=(1.0, 2.0))
    page = make_report(cli, folder, "--x", "accuracy", "--by", "scale")
    assert "fid: fid over accuracy" in page.text
    assert "Along a line kind varies." in page.text
    assert "--x accuracy --by scale --plugin" in page.text
    result = cli("report", folder, "--x", "scal", "--by", "nothing")
    assert result.code == 2
    assert "--x: unknown-column: no column 'scal'; did you mean 'scale'?" in result.err
    assert "--by: unknown-column: no column 'nothing'; columns: scale, kind, seed, fid, accuracy, class" in result.err
    assert (
        "No line over what --x names has two points" in make_report(cli, folder, "--x", "scale", "--by", "scale").text
    )


def test_equal_rows_are_one_point(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=1, scales=(1.0, 2.0))
    lines = (folder / "table.csv").read_text().splitlines()
    (folder / "table.csv").write_text("\n".join([*lines, lines[1]]))
    assert "Mean over" not in make_report(cli, folder).text


def test_a_running_sweep_is_refused(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=1, scales=(1.0, 2.0))
    (folder / "table.csv").unlink()
    result = cli("report", folder)
    assert result.code == 2
    assert "table.csv is missing (a sweep writes it every minute, and at its end)" in result.err


@pytest.mark.slow
def test_a_page_of_photographs_is_small_enough_for_mail(cli: Command) -> None:
    folder = sweep_folder(cli.folder / "out", seeds=1, scales=(1.0,))
    noise = np.kron(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    for path in folder.glob("cells/*/image.png"):
        write_png(path, noise, {})
    page = make_report(cli, folder)
    assert [(a["src"] or "")[:23] for a in page.attributes_of("img")] == ["data:image/jpeg;base64,"] * 2
    assert (folder / "report.html").stat().st_size < 2 << 20
    many = cli.folder / "many"
    for i in range(17):
        write_png(run_folder(many / f"run-{i}") / "image-0000.png", noise[:256, :256], {})
    page = make_report(cli, many)
    assert len(page.attributes_of("img")) == 17 * 3
    assert max(int(a["width"] or 0) for a in page.attributes_of("img")) == 192


def test_a_picture_of_noise_is_embedded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 800, 3), dtype=np.uint8)
    data = _encode(Image.fromarray(noise))[1]
    decoded = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    assert np.abs(decoded - noise).mean() < 10


def test_a_file_name_that_is_not_utf8_is_accepted(cli: Command) -> None:
    assert r"a\udcffb" in make_report(cli, run_folder(cli.folder / "out", parameters={"path": "a\udcffb"})).text


def test_long_texts_are_cut(cli: Command) -> None:
    folder = run_folder(cli.folder / "out", parameters={"prompt": "word " * 100_000})
    assert "496000 more characters" in make_report(cli, folder).text


def test_the_output_option_and_the_command_that_recreates_the_page(cli: Command) -> None:
    folder = run_folder(cli.folder / "a run")
    assert cli("report", folder, "-o", "pages/one.html").code == 0
    page = Page((cli.folder / "pages" / "one.html").read_text(encoding="utf-8"))
    assert f"guidegraph report '{folder}' -o pages/one.html --plugin" in page.text
    assert not (folder / "report.html").exists()
    assert [path.name for path in (cli.folder / "pages").iterdir()] == ["one.html"]


def test_the_page_notes_missing_and_damaged_files(cli: Command) -> None:
    folder = run_folder(cli.folder / "out")
    (folder / "image-0000.png").unlink()
    (folder / "image-0001.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (folder / "fid.json").write_text('{"value": ')
    page = make_report(cli, folder)
    assert page.attributes_of("img") == []
    assert "The picture image-0000.png is missing." in page.text
    assert "The picture image-0001.png (image 1) cannot be shown" in page.text
    assert "The output fid.json is not valid JSON" in page.text


def test_a_graph_that_cannot_be_drawn_is_a_note_with_the_workflow_beside_it(cli: Command) -> None:
    workflow = {"file": "draw.yaml", "name": "draw", "text": WORKFLOW.replace("toy.add", "gone.add"), "sources": {}}
    page = make_report(cli, run_folder(cli.folder / "out", workflow=workflow))
    assert "The graph cannot be drawn with the plugins that are installed here: draw.yaml:" in page.text
    assert "gone.add" in page.text


def test_no_file_outside_the_folder_is_read(cli: Command) -> None:
    (cli.folder / "secret.json").write_text('"a secret"')
    outputs = {"words": {"type": "Any", "files": ["../secret.json"]}}
    page = make_report(cli, run_folder(cli.folder / "out", outputs=outputs))
    assert "a secret" not in page.text
    assert "The output ../secret.json lies outside of the folder." in page.text


def test_a_failed_run_says_why(cli: Command) -> None:
    page = make_report(
        cli, run_folder(cli.folder / "out", status="failed", error=f"a node failed: {HOSTILE}", timings={})
    )
    assert f"a node failed: {HOSTILE}" in page.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "nothing-to-report: neither this folder nor one in it has a run.json or sweep.json"),
        ({"run.json": "{"}, "bad-record: run.json or a file that it needs is not valid JSON"),
        ({"run.json": "[]"}, "bad-record: run.json or a file that it needs is not a JSON object"),
        ({"run.json": "{}"}, "bad-record: run.json or a file that it needs is not the record of a run"),
        ({"sweep.json": "{}"}, "bad-record: sweep.json or a file that it needs cannot be used: table.csv is missing"),
        ({"sweep.json": "{}", "table.csv": "a,b\n1\n"}, "table.csv is not a table"),
        ({"sweep.json": "{}", "table.csv": "a,b\n1,2\n"}, "the columns of table.csv are 'cell'"),
        ({"sub/run.json": "{"}, "that can be read (sub is left out: its record is not valid JSON"),
        ({"run.json": "\ud800"}, "bad-record: run.json or a file that it needs cannot be read"),
    ],
)
def test_a_folder_without_a_result_is_an_error(cli: Command, files: dict[str, str], message: str) -> None:
    folder = cli.folder / "out"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    result = cli("report", folder)
    assert result.code == 2
    assert result.err.startswith(f"{folder}:1:1: ")
    assert message in result.err
    assert not (folder / "report.html").exists()


def test_a_missing_folder_is_an_error(cli: Command) -> None:
    assert cli("report", "nowhere").code == 2


@pytest.mark.parametrize("value", [None, "text", 10**400, {"a": [HOSTILE]}, {"nodes.image": 10**400}])
def test_records_with_strange_fields_still_give_a_page(cli: Command, value: Any) -> None:
    fields = ("outputs", "timings", "loop_timings", "versions", "origins", "nodes", "seeds", "seconds", "error")
    for field in fields:
        run_folder(cli.folder / "out" / field, **{field: value})
    page = make_report(cli, cli.folder / "out")
    assert [attributes["id"] for attributes in page.attributes_of("article")] == [f"r{i}" for i in range(len(fields))]


def test_a_run_of_this_engine_gives_a_page(cli: Command) -> None:
    assert cli("run", cli.workflow("draw.yaml", WORKFLOW), "--out", "out").code == 0
    page = make_report(cli, cli.folder / "out")
    assert len(page.attributes_of("img")) == 2
    assert "sample.body.step toy.add 3" in page.text
