"""The digest of a node changes with whatever its code is made of, and with nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guidegraph.graph.planning import digest, source_files
from guidegraph.graph.planning.plan import compile_plan
from guidegraph.graph.resolution.load import build
from guidegraph.plugins.manager import PluginManager
from tests.graph.planning.plugin_ways import WAYS, WORKFLOW, write_file_plugin, write_package_plugin
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def _as_in_new_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    forget_modules(before)


def forget_modules(before: set[str]) -> None:
    """Make the next import read the files again, as a new process does."""
    for name in set(sys.modules) - before:
        if name.startswith(("ways_", "trial_", "lib_")):
            del sys.modules[name]
    importlib.invalidate_caches()
    digest._digest_code.cache_clear()
    digest._library_digest.cache_clear()
    source_files._list_records.cache_clear()


def digest_module(name: str) -> str:
    forget_modules(set())
    importlib.import_module(name)
    return digest.source_digest(name)


@pytest.mark.parametrize("layout", ["file", "package"])
@pytest.mark.parametrize("way", WAYS)
def test_a_changed_helper_changes_the_digest(tmp_path: Path, way: str, layout: str) -> None:
    (tmp_path / "draw.yaml").write_text(WORKFLOW)
    write: Callable[..., object] = write_file_plugin if layout == "file" else write_package_plugin
    plugin = str(tmp_path / "ways_plugin.py") if layout == "file" else "ways_package"

    def read_digest(number: int) -> str:
        forget_modules(set())
        write(tmp_path, WAYS[way], number)
        registry = PluginManager([plugin], entry_points=False).registry
        return compile_plan(build(tmp_path / "draw.yaml", registry), {}).digests["a"]

    first = read_digest(2)
    assert not first.startswith(digest.FRESH)
    assert read_digest(33) != first
    assert read_digest(2) == first


def test_a_module_in_folders_without_init_is_found_before_they_are_imported(tmp_path: Path) -> None:
    """Python's own finder raises KeyError there: the inner folder's path depends on the outer one in sys.modules."""
    folder = tmp_path / "lib_outer" / "inner" / "innermost"
    folder.mkdir(parents=True)
    (tmp_path / "ways_user.py").write_text("def late():\n    from lib_outer.inner.innermost import used\n")

    def read_digest(text: str) -> str:
        (folder / "used.py").write_text(text)
        return digest_module("ways_user")

    assert read_digest("K = 1\n") != read_digest("K = 2\n")


IMPORTS = {
    "from {m} import K as K{i}": "K{i}",
    "import {m} as m{i}": "m{i}.K",
    "from {m} import table as table{i}": "table{i}['k']",
    "from {m} import get as get{i}": "get{i}()",
    "def late{i}():\n    from {m} import K\n    return K": "late{i}()",
    "import importlib\nm{i} = importlib.import_module('{m}')": "m{i}.K",
    "try:\n    from {m} import whole as whole{i}\nexcept ImportError:\n    raise": "whole{i}.k",
}
MODULE = """{imports}

K = {terms}
table = {{"k": K}}


def get():
    return K


class whole:
    k = K
"""


class RandomPlugin:
    """Five modules, each of which imports some of the later ones in random ways. texts: with ``N`` for a number."""

    def __init__(self, chance: random.Random) -> None:
        self.package = chance.random() < 0.4
        stem = "trial_package." if self.package else "trial_"
        self.names = [f"{stem}{letter}" for letter in "abcde"]
        self.numbers = [chance.randrange(10, 99) for _ in self.names]
        self.texts, self.uses = [], []
        for position in range(5):
            used = [i for i in range(position + 1, 5) if chance.random() < 0.45]
            lines = [chance.choice(list(IMPORTS)) for _ in used]
            imports = [line.format(m=self.names[i], i=i) for line, i in zip(lines, used, strict=True)]
            terms = ["N", *(IMPORTS[line].format(i=i) for line, i in zip(lines, used, strict=True))]
            self.texts.append(MODULE.format(imports="\n".join(imports), terms=" + ".join(terms)))
            self.uses.append(used)

    def reach(self) -> set[int]:
        """The modules that the first one is made of."""
        reached, waiting = set[int](), [0]
        while waiting:
            position = waiting.pop()
            reached.add(position)
            waiting += self.uses[position]
        return reached

    def write(self, folder: Path) -> None:
        for name, text, number in zip(self.names, self.texts, self.numbers, strict=True):
            path = folder / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("N", str(number)))
        if self.package:
            (folder / "trial_package" / "__init__.py").write_text("")


def test_a_change_in_five_files_that_import_each_other_is_never_stale(tmp_path: Path) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        plugin = RandomPlugin(chance)
        folder = tmp_path / str(seed)
        folder.mkdir()
        sys.path.insert(0, str(folder))
        results = []
        changed = chance.randrange(5)
        for add in (0, 100):
            plugin.numbers[changed] += add
            plugin.write(folder)
            actual = digest_module(plugin.names[0])
            results.append((sys.modules[plugin.names[0]].K, actual))
        sys.path.remove(str(folder))
        (value, before), (new_value, after) = results
        assert (new_value != value) == (changed in plugin.reach())
        assert (before != after) == (new_value != value or plugin.package), f"seed {seed}"


def test_what_is_not_used_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "trial_plugin.py").write_text("import json\nK = 1\n")
    before = digest_module("trial_plugin")
    (tmp_path / "trial_other.py").write_text("K = 1\n")
    (tmp_path / "notes.txt").write_text("of something else")
    assert digest_module("trial_plugin") == before


@pytest.mark.parametrize(
    "text",
    [
        "open('table.json')",
        "open(Path(__file__).with_suffix('.csv'))",
        "open(f'{size}_table.npy')",
        "list(Path(__file__).parent.glob('*_table.npy'))",
        "open(Path(__file__).parent / 'tables' / 'deep.txt')",
        "runpy.run_path('script.py')",
    ],
)
def test_files_that_a_single_file_names_beside_it_count(tmp_path: Path, text: str) -> None:
    files = ("table.json", "trial_plugin.csv", "12_table.npy", "tables/deep.txt", "script.py")
    (tmp_path / "tables").mkdir()
    for name in files:
        (tmp_path / name).write_text("first")
    (tmp_path / "trial_plugin.py").write_text(f"def read(size):\n    return {text}\n")
    before = digest_module("trial_plugin")
    for name in files:
        (tmp_path / name).write_text("the second")
    importlib.import_module("trial_plugin")
    assert digest.source_digest("trial_plugin") != before  # in the same process
    assert digest_module("trial_plugin") != before


def test_a_library_counts_by_its_version_and_its_list_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    (installed / "lib_used").mkdir(parents=True)
    monkeypatch.syspath_prepend(installed)
    (installed / "lib_used" / "__init__.py").write_text("K = 1\n")

    def install(version: str, checksum: str, folder_name: str = "here") -> str:
        for old in installed.glob("*.dist-info"):
            (old / "RECORD").unlink()
            old.rmdir()
        metadata = installed / f"Library_of_used-{version}.dist-info"
        metadata.mkdir()
        lines = [f"lib_used/__init__.py,sha256={checksum},6", f"../../bin/used,sha256={folder_name},9"]
        (metadata / "RECORD").write_text("\n".join([*lines, f"{metadata.name}/INSTALLER,sha256={folder_name},4"]))
        return digest_module("trial_plugin")

    (tmp_path / "trial_plugin.py").write_text("def read():\n    import lib_used\n    return lib_used.K\n")
    results = [install("1.0", "a"), install("1.1", "a"), install("1.1", "b"), install("1.0", "a", "there")]
    assert len(set(results)) == 3
    assert results[0] == results[3]


def test_the_module_that_makes_a_node_of_another_modules_function_counts(tmp_path: Path) -> None:
    (tmp_path / "draw.yaml").write_text(WORKFLOW)
    (tmp_path / "ways_factory.py").write_text(
        "from guidegraph import node\ndef make(k):\n    def value() -> float:\n        return k\n"
        "    return node('ways.value')(value)\n"
    )
    text = "from guidegraph import hookimpl\nfrom ways_factory import make\nvalue = make({})\n"
    text += "@hookimpl\ndef guidegraph_nodes():\n    return [value]\n"
    digests = set()
    for number in (2.0, 33.0):
        forget_modules(set())
        (tmp_path / "ways_plugin.py").write_text(text.format(number))
        registry = PluginManager(["ways_plugin"], entry_points=False).registry
        digests.add(compile_plan(build(tmp_path / "draw.yaml", registry), {}).digests["a"])
    assert len(digests) == 2


def test_a_plugin_counts_with_the_built_in_nodes_that_it_imports(tmp_path: Path) -> None:
    (tmp_path / "trial_plugin.py").write_text("from guidegraph import Prediction\n")
    importlib.import_module("trial_plugin")
    code = source_files.find_source_files("trial_plugin").code
    assert "guidegraph.nodes/types.py" in code


IMPORTED_FOR_OTHER_THINGS = {
    "annotated_types": "annotations of ports",
    "torch": "counts in every digest",
    "yaml": "templates and settings, which are text",
    "guidegraph": "the nodes count as a whole",
    "guidegraph_runtime": "counts in every digest",
}


def test_the_libraries_of_the_built_in_nodes_are_counted() -> None:
    imported: set[str] = set()
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        names, _ = source_files._read_source(str(path), with_strings=False)
        imported |= {name.partition(".")[0] for name in names if not name.startswith(".")}
    libraries = {name for name in imported if name not in sys.stdlib_module_names and importlib.util.find_spec(name)}
    assert libraries - set(IMPORTED_FOR_OTHER_THINGS) <= set(digest.LIBRARIES)


def test_a_module_that_a_function_imports_from_a_loaded_folder_counts(tmp_path: Path) -> None:
    """The folder has no `__init__.py`, and the module is not loaded when the digest is made."""
    (tmp_path / "lib_lab").mkdir()
    (tmp_path / "lib_lab" / "base.py").write_text("")
    (tmp_path / "ways_lab.py").write_text(
        "import lib_lab.base\ndef f():\n    from lib_lab.sub import K\n    return K\n"
    )
    digests = []
    for number in (1, 99, 1):
        (tmp_path / "lib_lab" / "sub.py").write_text(f"K = {number}\n")
        digests.append(digest_module("ways_lab"))
    assert digests[0] == digests[2] != digests[1]


def test_the_folder_that_runs_are_written_to_is_no_data_of_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "ways_runs.py").write_text('FOLDER = "runs"\n')
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "run.json").write_text("{}")
    before = digest_module("ways_runs")
    (tmp_path / "runs" / "first" / "image.png").write_text("x")
    assert digest_module("ways_runs") == before
