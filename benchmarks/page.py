"""Measure the page of `guidegraph open` in headless Chromium: opening, panning, redrawing, and what it costs a run.

    python benchmarks/page.py [--nodes 1000] [--runs 7] [--steps 100] [--only open redraw run]

- open: milliseconds from the navigation until a graph of that many nodes is drawn, and frames a second while it pans.
- redraw: milliseconds from the moment another program has written the file until the page has drawn the change.
- run: seconds of text_to_image.yaml by its own clock, and of the server's CPU, in pairs with the page open and without,
  either first in turn; without a page no previews are made. The ratio is the median over the pairs, with its quartiles
  and its range. The browser's CPU is printed beside it: on few processors, the threads of the run wait for it.

On a busy machine only CPU times mean something; the load average is printed.

Needs chromium, chromedriver, selenium and the extra `ui`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import Browser, browser, why_unavailable  # noqa: E402

DRAWN = """
const done = arguments[arguments.length - 1];
const look = () => document.querySelector(arguments[0]) ? done(PERFORMANCE) : requestAnimationFrame(look);
look();
"""
PAN = """
const done = arguments[0], box = document.querySelector('.scroller'), start = performance.now();
let frames = 0;
function step(now) {
  box.scrollTo(400 * (1 + Math.sin(now / 300)), 300 * (1 + Math.cos(now / 300)));
  frames += 1;
  now - start < 3000 ? requestAnimationFrame(step) : done(frames / (now - start) * 1000);
}
requestAnimationFrame(step);
"""


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, int]]:
    """`guidegraph open` over a folder: its address and its process id."""
    command = [sys.executable, "-m", "guidegraph", "open", ".", "--no-browser", "--no-plugins"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def wait_for(page: Browser, selector: str, clock: str) -> float:
    """The page's clock when an element is there."""
    page.driver.set_script_timeout(120)
    return float(page.driver.execute_async_script(DRAWN.replace("PERFORMANCE", clock), selector))


def measure_open(page: Browser, folder: Path, nodes: int) -> None:
    rows = ["guidegraph: 1", "nodes:", "  n0: {use: noise.gaussian, with: {shape: [4, 8, 8], seed: 1}}"]
    for i in range(1, nodes):
        rows.append(f"  n{i}: {{use: tensor.cat, in: {{tensors: [n{max(i - 25, 0)}, n{max(i - 26, 0)}]}}}}")
    (folder / "large.yaml").write_text("\n".join([*rows, f"outputs: {{last: n{nodes - 1}}}", ""]))
    with serve(folder) as (address, pid):
        for _ in range(3):
            page.driver.get("about:blank")
            before = cpu_seconds(pid)
            page.driver.get(f"{address}#large.yaml")
            drawn = wait_for(page, f'[data-node="nodes.n{nodes - 1}"]', "performance.now()")
            cpu = (cpu_seconds(pid) - before) * 1000
            frames = page.driver.execute_async_script(PAN)
            print(
                f"open: {nodes} nodes drawn after {drawn:,.0f} ms, of which {cpu:.0f} ms are CPU time of the server; "
                f"{frames:.0f} frames a second while panning"
            )


def measure_redraw(page: Browser, folder: Path) -> None:
    with serve(folder) as (address, _):
        page.driver.get(f"{address}#text_to_image.yaml")
        wait_for(page, '[data-node="nodes.image"]', "0")
        text = (folder / "text_to_image.yaml").read_text()
        times = []
        for i in range(10):
            new = text.replace(
                "nodes:\n", f"nodes:\n  extra{i}: {{use: noise.gaussian, with: {{shape: [1, 8, 8]}}}}\n", 1
            )
            time.sleep(0.037 * i)  # at another phase of the server's looks at the file
            (folder / "text_to_image.yaml").write_text(new)
            written = time.time() * 1000
            times.append(wait_for(page, f'[data-node="nodes.extra{i}"]', "Date.now()") - written)
        print(f"redraw: median {median(times):.0f} ms, worst {max(times):.0f} ms of {len(times)}")


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, ended threads included, from its clock in Linux, which counts nanoseconds."""
    return time.clock_gettime((~pid << 3) | 2)


def read_cpu_seconds(root: int) -> dict[int, float]:
    """The CPU time of a process and of all that it has started and that run now, by process id."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    processes, seconds = [root], {}
    for process in processes:
        processes += children.get(process, [])
        with suppress(OSError):  # it has ended
            seconds[process] = cpu_seconds(process)
    return seconds


def run_once(address: str, pid: int, browser_pid: int, seed: int, steps: int) -> tuple[float, float, float]:
    """Seconds of a run that the cache has not: of the server's CPU, by the run's own clock, and of the browser's CPU.

    The run is followed by its folder, since whoever takes the server's events counts as a page.
    """
    before, cpu, browser_cpu = list_runs(address)[:1], cpu_seconds(pid), read_cpu_seconds(browser_pid)
    params = {"seed": str(seed), "steps": str(steps)}
    request(f"{address}api/runs", json.dumps({"name": "text_to_image.yaml", "params": params}).encode())
    while (runs := list_runs(address))[:1] == before or runs[0]["status"] == "running":
        time.sleep(0.25)
    assert runs[0]["status"] == "done", runs[0]["error"]
    cpu = cpu_seconds(pid) - cpu
    browser_total = sum(total - browser_cpu.get(key, 0.0) for key, total in read_cpu_seconds(browser_pid).items())
    return cpu, runs[0]["seconds"], browser_total


def list_runs(address: str) -> list[dict[str, Any]]:
    """The runs in the folder, newest first."""
    with urllib.request.urlopen(f"{address}api/runs") as response:
        rows: list[dict[str, Any]] = json.load(response)
    return rows


def request(address: str, body: bytes) -> Any:
    posted = urllib.request.Request(address, body, {"content-type": "application/json"})
    with urllib.request.urlopen(posted) as response:
        return json.load(response)


def measure_run(page: Browser, folder: Path, runs: int, steps: int) -> None:
    with serve(folder) as (address, pid):
        browser_pid = page.driver.service.process.pid
        run_once(address, pid, browser_pid, 1000, steps)  # loads torch and the model
        pairs: list[dict[bool, tuple[float, float, float]]] = []
        for i in range(runs):
            pairs.append({})
            for is_open in (False, True) if i % 2 else (True, False):
                page.driver.get(f"{address}#text_to_image.yaml" if is_open else "about:blank")
                if is_open:
                    wait_for(page, '[data-node="nodes.image"]', "0")
                time.sleep(1)  # the page has loaded, or the one before is gone
                seed = 2 * i + is_open  # that the cache has not
                pairs[-1][is_open] = run_once(address, pid, browser_pid, seed, steps)
    for name, column in (("CPU", 0), ("its own clock", 1)):
        without, with_page = (median(pair[is_open][column] for pair in pairs) for is_open in (False, True))
        ratios = sorted(pair[True][column] / pair[False][column] for pair in pairs)
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        print(
            f"run: {name} {without:.2f} s without the page, {with_page:.2f} s with it: {middle:.3f}×, "
            f"quartiles {low:.3f} to {high:.3f}, range {ratios[0]:.3f} to {ratios[-1]:.3f} of {len(ratios)} pairs"
        )
    without, with_page = (median(pair[is_open][2] for pair in pairs) for is_open in (False, True))
    print(f"run: CPU of the browser {without:.2f} s without the page, {with_page:.2f} s with it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=("open", "redraw", "run"), default=["open", "redraw", "run"])
    options = parser.parse_args()
    if reason := why_unavailable():
        print(f"skipped: {reason}")
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "site")
        folder.mkdir()
        shutil.copy(ROOT / "workflows" / "text_to_image.yaml", folder)
        with browser(Path(name, "profile")) as page:
            page.set_screen(1600)
            if "open" in options.only:
                measure_open(page, folder, options.nodes)
            if "redraw" in options.only:
                measure_redraw(page, folder)
            if "run" in options.only:
                measure_run(page, folder, options.runs, options.steps)


if __name__ == "__main__":
    main()
