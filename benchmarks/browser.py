"""Measure the page of `guidegraph export --page` in headless Chromium, beside its bundle.

    python benchmarks/browser.py --onnxruntime-web node_modules/onnxruntime-web [--runs 3] [--isolated] [--previews]

Exports workflows/text_to_image.yaml as a page, and draws each of three prompts and seeds with the page and with the
bundle in this process, which take turns. One thread each; --isolated sends the headers with which the page may use
several. Prints the median seconds of both, without loading, by the clock and of CPU time (for the page, of all
processes of the browser), and how far the page's pictures are from the engine's. On a busy machine only CPU times mean
something; the load average is printed.

Needs Linux, chromium, chromedriver, selenium, and the npm package onnxruntime-web.
"""

from __future__ import annotations

import argparse
import base64
import functools
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from tests.browser import Browser, browser, why_unavailable  # noqa: E402
from tests.static_server import serve_files  # noqa: E402

WORKFLOW = ROOT / "workflows" / "text_to_image.yaml"
DRAWN: list[dict[str, Any]] = [
    {"prompt": "a cactus on sand under a blue sky", "seed": 7, "steps": 30, "scale": 4.0},
    {"prompt": "a sailboat on water at sunset", "seed": 1234567890123, "steps": 20, "scale": 7.5},
    {"prompt": "an elephant and a pine tree on snow", "seed": 2**64 - 1, "steps": 12, "scale": 2.0},
]
STATUS = "document.getElementById('status').textContent"
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""The headers with which a page may use several threads."""
SAVED = "document.querySelector('canvas').toDataURL('image/png').split(',')[1]"


def wait_for_status(page: Browser, start: str) -> str:
    while not (status := str(page.evaluate(STATUS))).startswith(start):
        if page.evaluate("document.getElementById('status').className") == "failed":
            sys.exit(f"the page says: {status}")
        time.sleep(0.25)
    return status


def cpu_seconds(root: int) -> float:
    """The CPU time so far of a process and its descendants."""
    parents, ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended in between
            fields = file.read_text().rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(fields[1])
            ticks[int(file.parent.name)] = int(fields[11]) + int(fields[12])
    total, members = 0, [root]
    while members:
        member = members.pop()
        total += ticks.get(member, 0)
        members += [pid for pid, parent in parents.items() if parent == member]
    return total / os.sysconf("SC_CLK_TCK")


def draw_on_page(page: Browser, values: dict[str, Any]) -> tuple[float, float, Any]:
    """The seconds by the page's clock, the CPU seconds of the browser, and the pixels that the page saves."""
    import numpy as np
    from PIL import Image

    for name, value in values.items():
        page.driver.execute_script(
            "document.getElementById('input-' + arguments[0]).value = arguments[1]", name, str(value)
        )
    browser_process = page.driver.service.process.pid
    before = cpu_seconds(browser_process)
    page.driver.find_element("id", "draw").click()
    status = wait_for_status(page, "drawn in")
    cpu = cpu_seconds(browser_process) - before
    match = re.search(r"[\d.]+", status)
    assert match is not None
    picture = Image.open(io.BytesIO(base64.b64decode(page.evaluate(SAVED)))).convert("RGB")
    return float(match[0]), cpu, np.asarray(picture).astype(int)


def time_call(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure(page: Browser, site: Path, runs: int) -> None:
    import numpy as np

    from guidegraph import load_workflow
    from guidegraph_runtime import Bundle, SessionSettings, pixels

    bundle, workflow = Bundle(site / "bundle", SessionSettings.on("cpu", intra_threads=1)), load_workflow(WORKFLOW)
    bundle.run(**{**DRAWN[0], "steps": 2})
    draw_on_page(page, {**DRAWN[0], "steps": 2})
    print(f"{'seed':>20} {'steps':>5}   page: s, CPU s   bundle: s, CPU s   furthest value, of how many")
    for values in DRAWN:
        rows: list[tuple[float, ...]] = []
        for _ in range(runs):
            by_clock, by_cpu, picture = draw_on_page(page, values)
            before = time.process_time()
            in_bundle, _ = time_call(functools.partial(bundle.run, **values))
            rows.append((by_clock, by_cpu, in_bundle, time.process_time() - before))
        difference = np.abs(picture - pixels(workflow.run(**values)["image"][0].numpy()))
        page_clock, page_cpu, bundle_clock, bundle_cpu = (median(column) for column in zip(*rows, strict=True))
        print(
            f"{values['seed']:>20} {values['steps']:>5} {page_clock:9.1f} {page_cpu:6.1f} {bundle_clock:11.1f} "
            f"{bundle_cpu:6.1f}   {difference.max()}/255, {np.count_nonzero(difference)} of {difference.size} differ"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxruntime-web", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--isolated", action="store_true", help="let the page use several threads")
    parser.add_argument("--previews", action="store_true", help="leave the page's previews on")
    arguments = parser.parse_args()
    if reason := why_unavailable():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as name:
        site = Path(name, "site")
        options = ["--page", "--onnxruntime-web", str(arguments.onnxruntime_web), "--no-reference", "--no-plugins"]
        command = [sys.executable, "-m", "guidegraph", "export", str(WORKFLOW), "-o", str(site), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with (
            serve_files(site, ISOLATION if arguments.isolated else {}) as address,
            browser(Path(name, "profile")) as page,
        ):
            loading, _ = time_call(lambda: (page.driver.get(address), wait_for_status(page, "ready")))
            if not arguments.previews:
                page.driver.find_element("id", "previews").click()
            print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
            print(f"loaded in {loading:.1f} s; {page.evaluate('document.getElementById(`about`).textContent')}")
            measure(page, site, arguments.runs)


if __name__ == "__main__":
    main()
