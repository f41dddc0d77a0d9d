"""Plugins in files that use a helper in eight ways, as a file for ``--plugin`` and as an installed package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PLUGIN = """
from pathlib import Path
from guidegraph import hookimpl, node
{top}

@node("ways.value")
def value() -> float:
    "A number that the helper decides."
    {inner}
    return float({result})

@hookimpl
def guidegraph_nodes():
    return [value]
"""
WORKFLOW = "guidegraph: 1\nnodes: {a: {use: ways.value}}\noutputs: {a: a}\n"


@dataclass(frozen=True)
class Way:
    """How the plugin uses its helper. helper: the helper's text, with ``N`` for a number that decides the result."""

    helper: str
    top: str = ""
    inner: str = "pass"
    result: str = "K"
    file: str = "helper.py"


WAYS = {
    "a function": Way("def double(x):\n    return x * N\n", "from {helper} import double", result="double(1)"),
    "a module": Way("K = N\n", "import {helper} as used", result="used.K"),
    "a number": Way("K = N\n", "from {helper} import K"),
    "a dictionary": Way("K = {'k': N}\n", "from {helper} import K", result="K['k']"),
    "an instance": Way(
        "class Table:\n    def __init__(self, k):\n        self.k = k\n\nTABLE = Table(N)\n",
        "from {helper} import TABLE",
        result="TABLE.k",
    ),
    "a partial": Way(
        "from functools import partial\n\ndouble = partial(pow, N)\n", "from {helper} import double", result="double(1)"
    ),
    "an import in the function": Way("K = N\n", inner="from {helper} import K"),
    "a data file": Way("N", result='Path(__file__).with_name("number.txt").read_text()', file="number.txt"),
}


def write_file_plugin(folder: Path, way: Way, number: int) -> Path:
    """Write the plugin as one file with its helper beside it. Returns the plugin's file."""
    fields = {"top": way.top, "inner": way.inner, "result": way.result}
    text = PLUGIN.format(**{name: value.replace("{helper}", "ways_helper") for name, value in fields.items()})
    path = folder / "ways_plugin.py"
    path.write_text(text)
    helper = way.file.replace("helper", "ways_helper")
    (folder / helper).write_text(way.helper.replace("N", str(number)))
    return path


def write_package_plugin(folder: Path, way: Way, number: int) -> None:
    """Write the plugin as a package with an entry point, which ``PYTHONPATH=folder`` installs."""
    package, metadata = folder / "ways_package", folder / "ways_package-1.0.dist-info"
    for path in (package, metadata):
        path.mkdir(exist_ok=True)
    fields = {"top": way.top, "inner": way.inner, "result": way.result}
    text = PLUGIN.format(**{name: value.replace("{helper}", "ways_package.helper") for name, value in fields.items()})
    (package / "__init__.py").write_text(text)
    (package / way.file).write_text(way.helper.replace("N", str(number)))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ways-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[guidegraph]\nways = ways_package\n")
