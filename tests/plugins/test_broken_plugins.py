"""All kinds of broken plugins, installed at once beside a good one, through the command line.

Each is a module and a real ``dist-info`` folder, which importlib.metadata finds on ``sys.path``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from guidegraph.plugins.entry_points import PACKAGES
from tests.commands.command import environment
from tests.plugins.test_manager import BAD, COMMAND, GOOD, HOOK, NODE, OBSERVER


@dataclass(frozen=True)
class Bad:
    """A broken plugin of the namespace ``name``, and the expected reason."""

    name: str
    reason: str
    code: str = ""
    entry: str = ""
    value: str = ""
    metadata: bytes = b""
    workflow: bool = True

    @property
    def module(self) -> str:
        return f"gg_bad_{self.name}"


def node(name: str, hook: str = HOOK, before: str = "") -> str:
    return before + NODE.format(id=f"{name}.twice") + hook


NEEDS = b"Requires-Dist: "
ODD = "class Odd(BaseException): ...\n"
KINDS = [
    *(Bad(name, reason, code) for name, (code, reason) in BAD.items()),
    Bad(
        "future", "needs guidegraph >=99, and ", "raise RuntimeError('imported')", metadata=NEEDS + b"guidegraph>=99\n"
    ),
    Bad(
        "nonsense",
        "its metadata asks for 'guide graph ! 1', which is not a requirement",
        metadata=NEEDS + b"guide graph ! 1\n",
    ),
    Bad("absent", "module 'gg_bad_absent' has no attribute 'plugin'", node("absent"), value="gg_bad_absent:plugin"),
    Bad("nowhere", "No module named 'gg_nowhere'", value="gg_nowhere"),
    Bad("no_value", "the entry point's value 'no module' names no module", value="no module"),
    Bad("no_name", "the entry point's name 'no-name' is not an identifier", node("no_name"), entry="no-name"),
    Bad("garbled", "its metadata cannot be read: UnicodeDecodeError", metadata=b"Summary: \xff\xfe\n"),
    Bad("odd", "cannot be imported: Odd: at import", ODD + "raise Odd('at import')"),
    Bad("odd_hook", "Odd: in a hook", node("odd_hook", HOOK.replace("return [twice]", "raise Odd('in a hook')"), ODD)),
    Bad(
        "odd_commands",
        "Odd: in commands",
        ODD + COMMAND.format(name="odd", then="raise Odd('in commands')"),
        workflow=False,
    ),
    Bad("later", "the namespace 'good' belongs to guidegraph-good==1.2", node("good"), entry="good", workflow=False),
    Bad("ours", "the namespace 'scheduler' belongs to guidegraph==", node("scheduler"), entry="scheduler"),
    Bad("steals", "the command 'run' exists already", COMMAND.format(name="run", then=""), workflow=False),
]
WATCHES = OBSERVER.format(body="return lambda event: 1 / 0")
SHOUTS = ODD + OBSERVER.format(
    body="""def shout(event):
        print("the observer speaks")
        raise Odd("no")
    return shout"""
)


class Site:
    """A folder like site-packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, module: str, code: str, entry_points: str, metadata: bytes | None = b"") -> None:
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        info = self.folder / f"guidegraph_{name}-1.2.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(entry_points)
        if metadata is not None:
            text = f"Metadata-Version: 2.1\nName: guidegraph-{name}\nVersion: 1.2\n"
            (info / "METADATA").write_bytes(text.encode() + metadata)

    def guidegraph(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((environment()["PYTHONPATH"], str(self.folder)))
        return subprocess.run(
            [sys.executable, "-m", "guidegraph", *map(str, arguments)],
            cwd=self.folder,
            env=environment(PYTHONPATH=path, **env),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def workflow(self, name: str, id: str, requires: str = "") -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(
            f"guidegraph: 1\n{requires}nodes: {{two: {{use: {id}, with: {{x: 1.5}}}}}}\noutputs: {{two: two}}\n"
        )
        return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site_folder = Site(tmp_path_factory.mktemp("site"))
    for bad in KINDS:
        entry = f"[guidegraph]\n{bad.entry or bad.name} = {bad.value or bad.module}\n"
        site_folder.add(bad.name, bad.module, bad.code, entry, bad.metadata)
    site_folder.add("good", "gg_good", GOOD, "[guidegraph]\ngood = gg_good\n")
    site_folder.add("bare", "gg_bare", node("bare"), "[guidegraph]\nbare = gg_bare\n", metadata=None)
    site_folder.add(
        "chatty", "gg_chatty", "print('hello from chatty')\n" + node("chatty"), "[guidegraph]\nchatty = gg_chatty\n"
    )
    site_folder.add("watches", "gg_watches", WATCHES, "[guidegraph]\nwatches = gg_watches\n")
    site_folder.add("shouts", "gg_shouts", SHOUTS, "[guidegraph]\nshouts = gg_shouts\n")
    return site_folder


def test_each_is_named_with_its_reason_and_fix_and_the_good_ones_work(site: Site) -> None:
    result = site.guidegraph("plugins", "--json")
    assert result.returncode == 0, result.stderr
    rows = {row["distribution"]: row for row in json.loads(result.stdout) if row["name"] not in PACKAGES}
    for bad in KINDS:
        row = rows.pop(f"guidegraph-{bad.name}")
        assert (row["name"], row["version"], row["state"]) == (bad.entry or bad.name, "1.2", "failed")
        assert bad.reason in row["reason"]
        assert row["fix"]
    assert {name: row["state"] for name, row in rows.items()} == dict.fromkeys(
        ("guidegraph", *(f"guidegraph-{name}" for name in ("good", "bare", "chatty", "watches", "shouts"))), "ok"
    )
    assert rows["guidegraph-bare"]["version"] == "1.2"
    assert "hello from chatty" in result.stderr


@pytest.fixture(scope="module")
def printed_list(site: Site) -> subprocess.CompletedProcess[str]:
    """The list for a person, where the environment leaves out a plugin that does not exist."""
    return site.guidegraph("plugins", GUIDEGRAPH_DISABLE_PLUGINS="goood")


def test_the_printed_list_has_reasons_and_fixes(printed_list: subprocess.CompletedProcess[str]) -> None:
    text = printed_list.stdout
    blocks = {block.partition("  ")[2].partition(" ")[0]: block for block in text.split("\n\n")}
    for bad in KINDS:
        assert bad.reason in blocks[f"guidegraph-{bad.name}"]
        assert "\n  to do: " in blocks[f"guidegraph-{bad.name}"]
    assert "Traceback (most recent call last)" in blocks["guidegraph-raises"]
    assert re.search(r"to do: repair the plugin at .*odd_hook\.py:12, or leave", blocks["guidegraph-odd_hook"])
    assert re.search(r"\n  1 node: good\.twice\n?", blocks["guidegraph-good"])


def test_a_workflow_of_the_good_one_runs_and_a_failing_observer_is_left_out(site: Site) -> None:
    workflow = site.workflow("good", "good.twice", 'requires: {guidegraph-good: ">=1", guidegraph-bare: "==1.2"}\n')
    result = site.guidegraph("run", workflow, "--out", "out")
    assert result.returncode == 0, result.stderr
    assert json.loads((site.folder / "out" / "two.json").read_text()) == 3.0
    watches, shouts = sorted(line for line in result.stderr.splitlines() if line.startswith("warning: "))
    assert "guidegraph_observer.<locals>.<lambda> failed and is left out: ZeroDivisionError" in watches
    assert "guidegraph_observer.<locals>.shout failed and is left out: Odd: no" in shouts
    assert "the observer speaks" in result.stderr
    assert "the observer speaks" not in result.stdout
    record = json.loads((site.folder / "out" / "run.json").read_text())
    assert record["node_versions"] == {"good.twice": {"version": "1", "distribution": "guidegraph-good==1.2"}}
    assert record["versions"]["guidegraph-good"] == "1.2"


def test_a_workflow_that_needs_a_broken_one_says_which_and_why(site: Site) -> None:
    needed = [bad for bad in KINDS if bad.workflow]
    names = {bad.name: bad.entry or bad.name for bad in needed}
    workflows = [site.workflow(f"bad_{bad.name}", f"{names[bad.name].replace('-', '_')}.doubled") for bad in needed]
    result = site.guidegraph("validate", *workflows)
    assert result.returncode == 2
    lines = dict(
        line.split(":", 1) for line in result.stderr.splitlines() if line.count("bad_") and ": unknown-node" in line
    )
    for bad, workflow in zip(needed, workflows, strict=True):
        if bad.name == "no_name":  # no id can begin with its namespace
            continue
        assert f"'{names[bad.name]}' could not be loaded: " in lines[str(workflow)]
        assert bad.reason in lines[str(workflow)]
        assert f"guidegraph-{bad.name} 1.2" in lines[str(workflow)]


def test_a_required_plugin_that_is_broken_is_named(site: Site) -> None:
    text = "requires: {guidegraph-future: '>=1'}\n"
    result = site.guidegraph("run", site.workflow("requires", "good.twice", text))
    assert result.returncode == 2
    assert "missing-plugin: the plugin 'guidegraph-future' is not available: needs guidegraph >=99" in result.stderr


def test_plugins_are_left_out_by_the_option_and_by_the_environment(site: Site) -> None:
    workflow = site.workflow("good", "good.twice")
    result = site.guidegraph("--no-plugins", "validate", workflow)
    assert result.returncode == 2
    assert "'good' could not be loaded: installed plugins are left out (--no-plugins)" in result.stderr
    rows = json.loads(site.guidegraph("plugins", "--no-plugins", "--json").stdout)
    assert {row["name"] for row in rows if row["state"] == "ok"} <= {"guidegraph", *PACKAGES}
    others = [row for row in rows if row["name"] not in ("guidegraph", *PACKAGES)]
    assert {row["state"] for row in others} <= {"disabled", "failed"}
    result = site.guidegraph("validate", workflow, GUIDEGRAPH_DISABLE_PLUGINS="other,good")
    assert result.returncode == 2
    assert "disabled by GUIDEGRAPH_DISABLE_PLUGINS" in result.stderr


def test_an_unknown_name_in_the_environment_is_reported_with_the_list(
    printed_list: subprocess.CompletedProcess[str],
) -> None:
    assert "warning: GUIDEGRAPH_DISABLE_PLUGINS names 'goood'; did you mean 'good'?" in printed_list.stderr


def test_a_module_is_used_where_the_installed_plugins_are_left_out(site: Site) -> None:
    workflow = site.workflow("good", "good.twice")
    result = site.guidegraph("validate", workflow, "--no-plugins", "--plugin", "gg_good")
    assert result.returncode == 0, result.stderr


def test_unreadable_entry_points_are_named(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.add("torn", "gg_torn", node("torn"), "[guidegraph]\ntorn\n")
    result = site.guidegraph("plugins")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: the entry points of guidegraph-torn 1.2 cannot be read (")
    assert result.stderr.endswith("install it again: pip install --force-reinstall guidegraph-torn\n")
