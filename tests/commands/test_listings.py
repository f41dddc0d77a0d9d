"""Installed plugins are imported only where they are needed; what they contribute is kept on disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands.command import process
from tests.paths import ROOT

PLUGIN = """
import os
from guidegraph import hookimpl, node

with open(os.environ["IMPORTS"], "a") as imports:
    imports.write("lazy ")

@node("lazy.twice")
def twice(x: float = 1.0, *, by: float = 2.0) -> float:
    "Twice x."
    return by * x

@hookimpl
def guidegraph_nodes():
    return [twice]
"""
COMMANDS = """
@hookimpl
def guidegraph_commands(app):
    @app.command("greet")
    def greet():
        "Say hello."
        print("hello")
"""
WORKFLOW = "guidegraph: 1\nnodes:\n  x: {{use: {node}}}\noutputs: {{x: x}}\n"


class Site:
    """A folder with one installed plugin, which notes each import, and another folder for the listings."""

    def __init__(self, folder: Path):
        self.folder, self.imports, self.listings = folder, folder / "imports", folder / "listings"
        self.root = ROOT
        metadata = folder / "site" / "guidegraph_lazy-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: guidegraph-lazy\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[guidegraph]\nlazy = guidegraph_lazy\n")
        self.write(PLUGIN)

    def write(self, code: str) -> None:
        (self.folder / "site" / "guidegraph_lazy.py").write_text(code)

    def workflow(self, node: str) -> Path:
        path = self.folder / f"{node}.yaml"
        path.write_text(WORKFLOW.format(node=node))
        return path

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command; ``imports`` then has a word for each import of the plugin in it."""
        self.imports.write_text("")
        path = os.pathsep.join(map(str, (self.root, self.root / "runtime", self.folder / "site")))
        own = {"PYTHONPATH": path, "IMPORTS": str(self.imports), "GUIDEGRAPH_LISTINGS": str(self.listings)}
        return process(arguments, self.folder, env=own | variables)

    def imported(self) -> bool:
        return self.imports.read_text() != ""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("command", [["--help"], ["nodes"], ["nodes", "lazy.twice", "--json"], ["schema"]])
def test_a_listing_is_made_once(site: Site, command: list[str]) -> None:
    first = site.run(*command)
    assert first.returncode == 0
    assert site.imported()
    second = site.run(*command)
    assert not site.imported()
    assert second.stdout == first.stdout


def test_a_listing_follows_the_plugins_source(site: Site) -> None:
    site.run("nodes")
    site.write(PLUGIN.replace("Twice x.", "Two times x."))
    assert "Two times x." in site.run("nodes").stdout
    assert site.imported()


def test_a_listing_follows_a_new_file_of_a_package(site: Site) -> None:
    package = site.folder / "site" / "guidegraph_lazy"
    package.mkdir()
    (package / "__init__.py").write_text(PLUGIN)
    (site.folder / "site" / "guidegraph_lazy.py").unlink()
    for _ in range(2):  # the first import writes bytecode into the package
        site.run("nodes")
    site.run("nodes")
    assert not site.imported()
    (package / "more.py").write_text("")
    site.run("nodes")
    assert site.imported()


def test_a_listing_follows_new_built_in_nodes(site: Site, tmp_path: Path) -> None:
    site.root = tmp_path / "checkout"
    for name in ("guidegraph", "graph", "nodes", "plugins", "runtime"):
        shutil.copytree(ROOT / name, site.root / name, ignore=shutil.ignore_patterns("__pycache__", "gallery"))
    site.run("nodes")
    site.run("nodes")
    assert not site.imported()
    node = (
        "from guidegraph.graph.node import node\n\n\n@node('tensor.new_here')\ndef new_here() -> int:\n    return 1\n"
    )
    (site.root / "nodes" / "tensor_new_here.py").write_text(node)
    assert "tensor.new_here" in site.run("nodes").stdout


def test_a_listing_is_that_of_the_plugin_on_the_path(site: Site, tmp_path: Path) -> None:
    site.run("nodes")
    other = Site(tmp_path / "other")
    other.write(PLUGIN.replace("Twice x.", "Two times x."))
    other.listings = site.listings
    assert "Two times x." in other.run("nodes").stdout
    assert "Twice x." in site.run("nodes").stdout


def test_a_listing_follows_installations_and_what_is_left_out(site: Site) -> None:
    site.run("nodes")
    (site.folder / "site" / "another_package.py").write_text("")
    site.run("nodes")
    assert site.imported()
    assert "lazy.twice" not in site.run("nodes", GUIDEGRAPH_DISABLE_PLUGINS="lazy").stdout


def test_listings_can_be_turned_off(site: Site) -> None:
    for _ in range(2):
        site.run("nodes", GUIDEGRAPH_LISTINGS="off")
        assert site.imported()
    assert not site.listings.exists()


def test_old_listings_are_removed_and_no_other_file(site: Site) -> None:
    site.run("nodes")
    (listing,) = site.listings.iterdir()
    old, own = site.listings / f"schema-{'0' * 16}.json", site.listings / "experiment-2024.json"
    for path in (old, own):
        path.write_text("{}")
        os.utime(path, (0, 0))
    listing.unlink()
    site.run("nodes")
    assert sorted(site.listings.iterdir()) == sorted([listing, own])


def test_a_damaged_listing_is_made_again(site: Site) -> None:
    first = site.run("nodes").stdout
    (listing,) = site.listings.iterdir()
    sound = listing.read_text()
    for damage in (b"", b"{}\n[]", b"\xff\xfe", b"null\nnull"):
        listing.write_bytes(damage)
        assert site.run("nodes").stdout == first
        assert listing.read_text() == sound, damage


def test_a_changed_listing_is_not_believed(site: Site) -> None:
    site.run("nodes")
    (listing,) = site.listings.iterdir()
    listing.write_text(listing.read_text().replace("Twice x.", "Thrice x."))
    assert "Twice x." in site.run("nodes").stdout


def test_a_plugin_that_fails_is_imported_each_time(site: Site) -> None:
    site.write(PLUGIN + "\nraise RuntimeError('broken')\n")
    assert site.run("nodes").returncode == 0
    assert not site.listings.exists()
    missing = site.run("nodes", "lazy.twice")
    assert missing.returncode == 2
    assert "the plugin 'lazy' did not load" in missing.stderr


def test_commands_of_a_plugin_are_listed(site: Site) -> None:
    site.write(PLUGIN + COMMANDS)
    for _ in range(2):
        assert "Say hello." in site.run("--help").stdout
        assert site.imported()
    assert site.run("greet").stdout == "hello\n"


def test_validate_imports_a_plugin_that_the_workflow_names(site: Site) -> None:
    own = site.run("validate", ROOT / "workflows/class_cfg.yaml")
    assert own.returncode == 0, own.stderr
    assert not site.imported()
    named = site.run("validate", site.workflow("lazy.twice"))
    assert named.returncode == 0, named.stderr
    assert site.imported()


def test_the_error_of_an_unknown_node_knows_all_plugins(site: Site) -> None:
    result = site.run("validate", site.workflow("lasy.twice"))
    assert result.returncode == 2
    assert "did you mean 'lazy.twice'?" in result.stderr


def test_the_command_plugins_imports_all(site: Site) -> None:
    rows = json.loads(site.run("plugins", "--json").stdout)
    assert [row["state"] for row in rows if row["name"] == "lazy"] == ["ok"]
