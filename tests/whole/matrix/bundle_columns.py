"""What a person does with an exported workflow: run it without torch, serve it, draw in a browser, or call one graph.

All columns but the single file's share one export of each workflow.
"""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from guidegraph_runtime import Bundle, BundleError, SessionSettings, inputs_of, read_description
from guidegraph_serve.jobs import ServeOptions
from guidegraph_serve.service import Service
from guidegraph_serve.web.answers import ServeAccess
from guidegraph_serve.web.routes import ServeRoutes
from tests.browser import browser, why_unavailable
from tests.paths import ROOT
from tests.static_server import serve_files
from tests.whole.matrix.bench import LOADED, Bench, Printed, to_arrays, to_pixels
from tests.whole.matrix.cell import (
    TOLERANCE,
    Cell,
    Column,
    absent,
    find_difference,
    find_table_difference,
    list_differences,
    refused,
    right,
    wrong,
)

CPU = SessionSettings.on("cpu", intra_threads=1)
TRACED = "part "
"""How the lines begin that ``export`` prints after the tracing of a part, which is heavy work."""
SECONDS = 240.0
LEVELS = 2
"""The documented difference of a picture's pixels."""


def export_once(bench: Bench) -> tuple[Path, str]:
    """The bundle of a workflow, which is kept, and the words of a refusal; "" if there is none.

    Raises ``AssertionError`` for an export that fails after heavy work.
    """
    folder = bench.folder / "bundle"
    if (folder / "bundle.json").is_file():
        return folder, ""
    printed = bench.command("export", bench.file, "-o", folder, *bench.options())
    if printed.code == 2 and not any(line.startswith(TRACED) for line in printed.out.splitlines()):
        return folder, printed.err.strip()
    assert printed.code != 2, f"refused after heavy work: {printed.err.strip()}"
    printed.check()
    return folder, ""


def export(bench: Bench) -> Cell:
    """The bundle agrees with the engine, and every parameter that is not a network's stays an input."""
    folder, refusal = export_once(bench)
    if refusal:
        return refused(refusal)
    manifest = Bundle(folder, CPU).manifest
    free = [name for name in bench.workflow.graph.params if name not in LOADED]
    fixed = {name: manifest.fixed.get(name, "is missing") for name in free if name not in manifest.inputs}
    if fixed:
        return refused("; ".join(f"fixed {name}: {reason}" for name, reason in fixed.items()))
    return right(f"{len(free)} inputs")


def run_headless(bench: Bench) -> Cell:
    """The bundle has the engine's outputs with each input changed."""
    folder, refusal = export_once(bench)
    if refusal:
        return refused(refusal)
    bundle = Bundle(folder, CPU)
    inputs = {name: value for name, value in bench.changes.items() if name in bundle.manifest.inputs}
    settings = {name: value for name, value in bench.settings.items() if name in bundle.manifest.inputs}
    differences = {}
    for change in ({}, *({name: value} for name, value in inputs.items())):
        try:
            outputs = bundle.run_with({**settings, **change})
        except BundleError as error:
            differences[", ".join(change)] = str(error)
            continue
        found = to_arrays(outputs)
        differences[", ".join(change) or "unchanged"] = find_difference(found, bench.engine(**change), bench.kinds)
    difference = list_differences(differences)
    return wrong(difference) if difference else right(", ".join(inputs))


def serve(bench: Bench) -> Cell:
    """The server has the engine's outputs with each input changed; pictures are sent with the request."""
    from starlette.testclient import TestClient

    folder, refusal = export_once(bench)
    if refusal:
        return refused(refusal)
    service = Service({"it": folder}, CPU, ServeOptions())
    service.start()
    differences = {}
    try:
        app = ServeRoutes(service, lambda: "").make_app(ServeAccess())
        with TestClient(app, base_url="http://127.0.0.1:8000") as client:
            inputs = Bundle(folder, CPU).manifest.inputs
            settings = {name: value for name, value in bench.settings.items() if name in inputs}
            changes = {name: value for name, value in bench.changes.items() if name in inputs}
            for change in ({}, *({name: value} for name, value in changes.items())):
                params = {name: _to_json(value) for name, value in {**settings, **change}.items()}
                answer = client.post("/v1/workflows/it", json={"params": params})
                found = (
                    _find_served_difference(bench, answer.json()["outputs"], bench.engine(**change))
                    if answer.status_code == 200
                    else answer.text
                )
                differences[", ".join(change) or "unchanged"] = found
    finally:
        service.stop()
    difference = list_differences(differences)
    return wrong(difference) if difference else right(", ".join(changes))


def _to_json(value: Any) -> Any:
    """A value as a request has it: a picture as a data URL."""
    if not isinstance(value, Path):
        return value
    kind = mimetypes.guess_type(value.name)[0]
    return f"data:{kind};base64,{base64.b64encode(value.read_bytes()).decode()}"


def _find_served_difference(bench: Bench, outputs: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    for name, value in expected.items():
        if bench.kinds[name] == "image":
            files = [io.BytesIO(base64.b64decode(entry["b64_json"])) for entry in outputs[name]["data"]]
            found = np.stack([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files])
            pixels = to_pixels(value)
            if found.shape != pixels.shape:
                return f"{name} has shape {found.shape} in place of {pixels.shape}"
            if (largest := np.abs(found - pixels).max()) > LEVELS:
                return f"{name} differs by {largest} levels of 255"
        elif isinstance(value, dict) and (text := find_table_difference(outputs[name]["value"], value, TOLERANCE)):
            return f"{name}: {text}"
    return ""


def write_single_file(bench: Bench) -> Cell:
    """One ONNX graph has the engine's outputs with each input changed, but for those that it says to leave out."""
    folder = bench.folder / "single"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    refusal, only = "", [*bench.kinds]
    printed = _export_single_file(bench, folder)
    if printed.code == 2 and "(--only)" in printed.err and len(only) > 1:
        refusal, only = printed.err, only[:1]
        printed = _export_single_file(bench, folder, "--only", only[0])
    if printed.code == 2:
        is_late = any(line.startswith(TRACED) for line in printed.out.splitlines())
        return wrong(f"refused after heavy work: {printed.err}") if is_late else refused(printed.err)
    printed.check()
    if difference := _find_single_difference(bench, folder, only):
        return wrong(difference)
    recipe = read_description(folder / "whole.json").recipe
    fixed = [f"fixed {n}: {recipe.fixed.get(n, 'is missing')}" for n in bench.changes if n not in recipe.inputs]
    return refused("; ".join(fixed) or refusal) if refusal or fixed else right(", ".join(bench.changes))


def _export_single_file(bench: Bench, folder: Path, *options: str) -> Printed:
    return bench.command("export", bench.file, "-o", folder / "whole.onnx", "--single-file", *bench.options(), *options)


def _find_single_difference(bench: Bench, folder: Path, only: list[str]) -> str:
    """How the outputs of one graph differ from the engine's, for each change of an input; "" if they do not."""
    params = read_description(folder / "whole.json").recipe.inputs
    session = onnxruntime.InferenceSession(folder / "whole.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    settings = {name: value for name, value in bench.settings.items() if name in params}
    differences = {}
    for change in ({}, *({name: value} for name, value in bench.changes.items() if name in params)):
        label = ", ".join(change) or "unchanged"
        try:
            inputs = inputs_of(folder / "whole.json", **{**settings, **change})
        except (BundleError, ValueError) as error:
            differences[label] = str(error)
            continue
        outputs = dict(zip(names, session.run(None, inputs), strict=True))
        found = {name: outputs.get(f"{name}.result", outputs.get(name)) for name in only}
        expected = {name: bench.engine(**change)[name] for name in only}
        differences[label] = find_difference(found, expected, bench.kinds)
    return list_differences(differences)


def draw_in_browser(bench: Bench) -> Cell:
    """The page of ``export --page`` draws the engine's picture in Chromium, also with other values in its form."""
    from guidegraph_browser.support import PageError, find_onnxruntime_web
    from guidegraph_browser.write_page import BUNDLE, write_page

    folder, refusal = export_once(bench)
    if refusal:
        return refused(refusal)
    if "image" not in bench.kinds.values():
        return absent("it draws no picture")
    if reason := why_unavailable():
        return wrong(reason)
    site = bench.folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(folder, site / BUNDLE)
    try:
        write_page(site, find_onnxruntime_web(Path(bench.onnxruntime_web)))
    except PageError:
        return _judge_page_refusal(bench)
    inputs = json.loads((site / "page.json").read_text(encoding="utf-8"))["inputs"]
    changed = {
        name: value for name, value in bench.changes.items() if name in inputs and name not in ("batch", "steps")
    }
    differences = {}
    profile = bench.folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    with serve_files(site) as address, browser(profile) as opened:
        opened.driver.get(f"{address}/")
        _wait_for_status(opened, "ready")
        for change in ({}, changed):
            for name, value in change.items():
                _fill_in(opened, name, value)
            opened.driver.find_element("id", "draw").click()
            status = _wait_for_status(opened, "drawn in", fails=True)
            label = ", ".join(change) or "unchanged"
            expected = bench.engine(**change)
            differences[label] = _find_drawn_difference(bench, opened, expected) if status == "" else status
    difference = list_differences(differences)
    return wrong(difference) if difference else right(", ".join(changed))


def _judge_page_refusal(bench: Bench) -> Cell:
    """The cell of a workflow that cannot be a page: ``export --page`` must say so before it traces anything."""
    site = bench.folder / "refused-site"
    options = ("--page", "--onnxruntime-web", bench.onnxruntime_web)
    printed = bench.command("export", bench.file, "-o", site, *options, *bench.options())
    assert printed.code == 2, f"the page was refused after the export, and not by the command (exit {printed.code})"
    traced = sum(line.startswith(TRACED) for line in printed.out.splitlines())
    if traced:
        return wrong(f"refused after {traced} parts were traced: {printed.err}")
    return refused(printed.err)


def _wait_for_status(opened: Any, start: str, fails: bool = False) -> str:
    """Wait until the page's status begins with a text. Returns "", or with ``fails`` the status of a failed run."""
    from selenium.webdriver.support.wait import WebDriverWait

    script = "[document.getElementById('status').textContent, document.getElementById('status').className]"

    def read_end(_: Any) -> str | None:
        text, kind = opened.evaluate(script)
        return "" if text.startswith(start) else f"the page says: {text}" if fails and kind == "failed" else None

    wait = WebDriverWait(opened.driver, SECONDS, poll_frequency=0.05)
    ended: str = wait.until(lambda driver: (read_end(driver),) if read_end(driver) is not None else None)[0]
    return ended


def _fill_in(opened: Any, name: str, value: Any) -> None:
    """Fill in a field of the page's form: a file by its path, a list with an entry on each line, or else a text."""
    element = opened.driver.find_element("id", f"input-{name}")
    if element.get_attribute("type") == "file":
        element.send_keys(str(value))
        return
    entries = value if isinstance(value, list) else [value]
    text = "\n".join(", ".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in entries)
    script = (
        "const field = document.getElementById('input-' + arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true})); field.dispatchEvent(new Event('change'))"
    )
    opened.driver.execute_script(script, name, text)


def _find_drawn_difference(bench: Bench, opened: Any, expected: Mapping[str, Any]) -> str:
    """How the pictures on the page differ from the engine's; "" if they do not."""
    script = "[...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL('image/png').split(',')[1])"
    files = [io.BytesIO(base64.b64decode(text)) for text in opened.evaluate(script)]
    found = [np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files]
    pixels = [picture for name, kind in bench.kinds.items() if kind == "image" for picture in to_pixels(expected[name])]
    if [picture.shape for picture in found] != [picture.shape for picture in pixels]:
        return f"the page shows pictures of {[picture.shape for picture in found]}"
    largest = max(int(np.abs(a - b).max()) for a, b in zip(found, pixels, strict=True))
    return f"differs by {largest} levels of 255" if largest > LEVELS else ""


def install_onnxruntime_web(folder: Path) -> str:
    """The npm package onnxruntime-web of the version that the tests lock, installed into a folder."""
    source = ROOT / "plugins" / "browser" / "tests" / "export" / "npm"
    package = folder / "node_modules" / "onnxruntime-web"
    if not package.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    return str(package)


COLUMNS = [
    Column("export", "exported, every parameter an input", export),
    Column("headless", "the bundle with each input changed", run_headless),
    Column("serve", "served, each input sent over HTTP", serve),
    Column("single-file", "`export --single-file` with each input changed", write_single_file),
    Column("page", "`export --page`, drawn in a browser", draw_in_browser),
]
