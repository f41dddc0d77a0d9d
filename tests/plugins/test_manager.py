"""The plugin loader: good plugins work; bad ones are reported with a reason and leave no trace."""

from __future__ import annotations

import importlib.metadata
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from guidegraph.graph.events import RunFinished
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.plugins.contribution import HOOKS, LazyMapping
from guidegraph.plugins.entry_points import NAMESPACES
from guidegraph.plugins.manager import PluginManager, PluginStatus, default_registry

NODE = """
from guidegraph import hookimpl, node

@node("{id}")
def twice(x: float, *, by: float = 2.0) -> float:
    "Twice x."
    return by * x
"""
HOOK = """
@hookimpl
def guidegraph_nodes():
    return [twice]
"""
GOOD = NODE.format(id="good.twice") + HOOK


class Installed:
    """Simulates entry points of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[importlib.metadata.EntryPoint] = []
        self.modules: list[str] = []

    def add(
        self, name: str, code: str, *, entry: str = "", version: str = "1.2", attribute: str = "", requires: str = ""
    ) -> None:
        module = f"gg_test_{name}"
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        self.modules.append(module)
        point = importlib.metadata.EntryPoint(entry or name, module + attribute, "guidegraph")
        vars(point)["dist"] = SimpleNamespace(
            name=f"guidegraph-{name}", version=version, requires=requires and [requires]
        )
        self.entries.append(point)

    def declare(self, namespace: str, plugin: str) -> None:
        """Another namespace of a plugin that was added."""
        point = importlib.metadata.EntryPoint(namespace, plugin, "guidegraph_namespaces")
        vars(point)["dist"] = next(vars(entry)["dist"] for entry in self.entries if entry.name == plugin)
        self.entries.append(point)

    def find(self, group: str) -> list[importlib.metadata.EntryPoint]:
        return [entry for entry in self.entries if entry.group == group]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("GUIDEGRAPH_DISABLE_PLUGINS", raising=False)
    actual = Installed(tmp_path)
    monkeypatch.setattr(importlib.metadata, "entry_points", actual.find)
    yield actual
    for name in actual.modules:
        sys.modules.pop(name, None)


def replace_value(entry: importlib.metadata.EntryPoint, value: str) -> importlib.metadata.EntryPoint:
    """The entry point of the same distribution with another value."""
    point = importlib.metadata.EntryPoint(entry.name, value, entry.group)
    vars(point)["dist"] = vars(entry)["dist"]
    return point


def status(manager: PluginManager, name: str) -> PluginStatus:
    return next(s for s in manager.statuses if s.name == name)


def test_the_hooks_are_those_of_the_design() -> None:
    names = ("nodes", "types", "outputs", "condition_fields", "families", "commands", "observer", "preview")
    assert set(HOOKS) == {f"guidegraph_{name}" for name in names}


def test_built_in_types_and_nodes_come_through_the_same_hooks(installed: Installed) -> None:
    manager = PluginManager()
    assert [s.name for s in manager.statuses] == ["guidegraph"]
    assert manager.statuses[0].ok
    assert {"Tensor", "Image", "Denoiser", "Condition"} <= set(manager.registry.types)
    host = f"guidegraph=={manager.registry.versions['guidegraph']}"
    assert all(spec.distribution == host for spec in manager.registry.nodes.values())


def test_a_good_plugin_adds_its_nodes_with_its_distribution(installed: Installed) -> None:
    installed.add("good", GOOD)
    registry = default_registry()
    assert registry.nodes["good.twice"].distribution == "guidegraph-good==1.2"
    assert registry.versions["guidegraph-good"] == "1.2"
    assert "good" not in registry.failed


def test_an_entry_point_may_name_an_object(installed: Installed) -> None:
    code = NODE.format(id="thing.twice") + "\nclass Plugin:\n    @hookimpl\n    def guidegraph_nodes(self):\n"
    installed.add("thing", code + "        return [twice]\n\nplugin = Plugin()\n", attribute=":plugin")
    assert "thing.twice" in default_registry().nodes


BAD = {
    "missing": ("import a_module_that_is_not_there\n" + GOOD, "No module named 'a_module_that_is_not_there'"),
    "syntax": ("def broken(:\n", "SyntaxError"),
    "leaves": ("import sys\nsys.exit(3)\n", "SystemExit"),
    "unknown": (NODE.format(id="unknown.twice") + HOOK.replace("_nodes", "_node"), "guidegraph_node"),
    "argument": (NODE.format(id="argument.twice") + HOOK.replace("()", "(registry)"), "registry"),
    "unmarked": (NODE.format(id="unmarked.twice") + HOOK.replace("@hookimpl", ""), "guidegraph_nodes is not marked"),
    "nothing": (NODE.format(id="nothing.twice"), "no hook"),
    "foreign": (NODE.format(id="guidance.twice") + HOOK, "'guidance.twice' does not begin with 'foreign.'"),
    "double": (NODE.format(id="double.twice") + HOOK.replace("[twice]", "[twice, twice]"), "two nodes"),
    "plain": (NODE.format(id="plain.twice") + HOOK.replace("[twice]", "[len]"), "len is not a node"),
    "single": (NODE.format(id="single.twice") + HOOK.replace("[twice]", "twice"), "guidegraph_nodes returned"),
    "raises": (NODE.format(id="raises.twice") + HOOK.replace("return [twice]", "return [1 / 0]"), "ZeroDivisionError"),
    "signature": (NODE.format(id="signature.twice").replace("x: float", "x") + HOOK, "needs a type annotation"),
    "bad_id": (NODE.format(id="twice") + HOOK, "must be 'namespace.name'"),
    "types": ("from guidegraph import hookimpl\nclass Image: ...\n" + HOOK.replace("_nodes", "_types").replace(
        "twice", "Image"), "port type 'Image' exists already"),
    "no_class": ("from guidegraph import hookimpl\n" + HOOK.replace("_nodes", "_types").replace("twice", "3"), "class"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "line"), [("signature", 4), ("bad_id", 4), ("syntax", 1)])
def test_the_fix_for_a_mistake_in_the_code_names_its_line(installed: Installed, name: str, line: int) -> None:
    code, _ = BAD[name]
    installed.add(name, code)
    fix = status(PluginManager(), name).fix
    assert f"gg_test_{name}.py:{line}" in fix
    assert "install" not in fix


@pytest.mark.parametrize("name", BAD)
def test_a_bad_plugin_is_named_with_its_reason_and_leaves_nothing(installed: Installed, name: str) -> None:
    code, reason = BAD[name]
    before = default_registry()
    installed.add(name, code)
    manager = PluginManager()
    plugin = status(manager, name)
    assert plugin.state == "failed"
    assert reason in plugin.reason
    assert plugin.fix
    assert (plugin.distribution, plugin.version) == (f"guidegraph-{name}", "1.2")
    registry = manager.registry
    assert reason in registry.failed[name]
    assert (registry.nodes, registry.types) == (before.nodes, before.types)


def test_the_traceback_shows_the_plugins_own_line(installed: Installed) -> None:
    installed.add("raises", BAD["raises"][0])
    plugin = status(PluginManager(), "raises")
    assert "return [1 / 0]" in plugin.traceback
    line = next(i for i, text in enumerate(BAD["raises"][0].splitlines(), 1) if "1 / 0" in text)
    assert plugin.fix.startswith("repair the hook at ")
    assert f"gg_test_raises.py:{line}; it must return a list of" in plugin.fix


def test_the_fix_names_the_plugins_own_line_if_a_library_raised_the_error(installed: Installed) -> None:
    installed.add("reads", "import json\n" + GOOD.replace("return [twice]", "return json.loads('{')"))
    code = "import json\n" + GOOD + "json.loads('{')\n"
    installed.add("early", code)
    manager = PluginManager()
    assert "gg_test_reads.py:12; it must return" in status(manager, "reads").fix
    assert f"gg_test_early.py:{len(code.splitlines())}, or leave it out" in status(manager, "early").fix


SEVERAL = """
from guidegraph import hookimpl, node


@node("soft.twice")
def twice(x: float) -> float:
    "Twice x."
    return 2 * x


@node("softness.of")
def softness(x: float) -> float:
    "One minus x."
    return 1 - x


@hookimpl
def guidegraph_nodes():
    return [twice, softness]
"""


def test_a_plugin_has_nodes_in_each_namespace_that_it_declares(installed: Installed) -> None:
    installed.add("soft", SEVERAL)
    installed.declare("softness", "soft")
    registry = PluginManager(lazy=True).registry
    assert "gg_test_soft" not in sys.modules
    assert registry.nodes["softness.of"].function(x=0.25) == 0.75
    assert registry.nodes["soft.twice"].distribution == "guidegraph-soft==1.2"


def test_a_namespace_that_is_not_declared_is_an_error(installed: Installed) -> None:
    installed.add("soft", SEVERAL)
    failed = status(PluginManager(), "soft")
    assert "the node id 'softness.of' does not begin with 'soft.'" in failed.reason
    assert "declare 'softness' in guidegraph_namespaces" in failed.fix


OWNERS = {"guidance": "guidegraph==", "metric": "guidegraph-lab", "good": "guidegraph-good==1.2"}


@pytest.mark.parametrize(("namespace", "owner"), OWNERS.items(), ids=OWNERS)
def test_a_namespace_of_another_distribution_cannot_be_declared(
    installed: Installed, namespace: str, owner: str
) -> None:
    installed.add("good", GOOD)
    installed.add("soft", SEVERAL.replace("softness.of", f"{namespace}.softness"))
    installed.declare(namespace, "soft")
    manager = PluginManager()
    assert status(manager, "soft").reason.startswith(f"the namespace '{namespace}' belongs to {owner}")
    assert "good.twice" in manager.registry.nodes


def test_of_two_plugins_with_one_namespace_the_first_has_it_whichever_is_looked_up(installed: Installed) -> None:
    for name in ("acme", "yak"):
        installed.add(name, SEVERAL.replace("soft.twice", f"{name}.twice").replace("softness", "zed"))
        installed.declare("zed", name)
    registry = PluginManager(lazy=True).registry
    assert "yak.twice" not in registry.nodes
    assert registry.nodes["zed.of"].distribution == "guidegraph-acme==1.2"
    assert "the namespace 'zed' belongs to guidegraph-acme" in registry.failed["yak"]


def test_a_namespace_that_is_declared_for_no_plugin_is_named(installed: Installed) -> None:
    installed.add("soft", SEVERAL)
    installed.declare("softness", "soft")
    installed.entries[-1] = replace_value(installed.entries[-1], "sofft")
    reasons = [failed.reason for failed in PluginManager().failures]
    assert "the namespace 'softness' is declared for 'sofft', which is no plugin of it" in reasons


@pytest.mark.parametrize("name", ["scenes", "guidegraph_lab"])
def test_a_file_called_like_our_packages_takes_none_of_their_namespaces(
    installed: Installed, tmp_path: Path, name: str
) -> None:
    (tmp_path / f"{name}.py").write_text(NODE.format(id="guidance.cfg") + HOOK, encoding="utf-8")
    present = sys.modules.pop(name, None)
    try:
        manager = PluginManager((str(tmp_path / f"{name}.py"),))
    finally:
        sys.modules.pop(name, None)
        if present is not None:
            sys.modules[name] = present
    assert "the namespace 'guidance' belongs to guidegraph==" in manager.failures[0].reason
    assert manager.registry.nodes["guidance.cfg"].distribution.startswith("guidegraph==")


def test_an_entry_point_called_like_our_packages_is_refused(installed: Installed) -> None:
    installed.add("acme", GOOD.replace("good.twice", "lab.twice"), entry="lab")
    manager = PluginManager()
    assert "the namespace 'lab' belongs to guidegraph-lab" in status(manager, "lab").reason
    assert manager.registry.failed["metric"].startswith("it is in the package guidegraph-lab")
    assert "guidegraph-lab" in manager.registry.failed["data"]
    assert "guidegraph-scenes" in manager.registry.failed["data"]


def test_a_failed_plugin_is_named_for_the_nodes_of_each_of_its_namespaces(installed: Installed) -> None:
    installed.add("soft", "1 / 0")
    installed.declare("softness", "soft")
    failed = PluginManager().registry.failed
    assert "ZeroDivisionError" in failed["softness"]
    assert failed["softness"] == failed["soft"]


def test_a_node_of_a_package_that_is_not_installed_names_it(installed: Installed) -> None:
    registry = PluginManager(lazy=True).registry
    assert registry.failed["metric"].startswith("it is in the package guidegraph-lab: pip install")
    assert registry.failed["scene_eval"].startswith("it is in the package guidegraph-scenes: pip install")


def test_the_packages_declare_the_namespaces_that_they_are_known_for() -> None:
    actual: dict[str, set[str]] = {}
    for entry in importlib.metadata.entry_points(group="guidegraph_namespaces"):
        actual.setdefault(entry.value, set()).add(entry.name)
    assert actual == {package: {*names} for package, names in NAMESPACES.items()}


def test_all_bad_plugins_at_once_leave_the_good_one_working(installed: Installed) -> None:
    for name, (code, _) in BAD.items():
        installed.add(name, code)
    installed.add("good", GOOD)
    manager = PluginManager()
    assert {s.name for s in manager.statuses if s.ok} == {"guidegraph", "good"}
    missing = {name for names in NAMESPACES.values() for name in names}  # of our packages, which the test hides
    assert set(manager.registry.failed) - missing == set(BAD)
    assert "good.twice" in manager.registry.nodes


def test_a_plugin_for_another_version_of_guidegraph_is_not_imported(installed: Installed) -> None:
    installed.add("good", GOOD, requires="guidegraph>=0.1")
    installed.add("future", "raise RuntimeError", requires="Guidegraph>=99; python_version>'3'")
    manager = PluginManager()
    assert status(manager, "good").ok
    assert status(manager, "future").reason.startswith("needs guidegraph >=99, and ")


def test_versions_are_found_by_the_name_that_pip_uses(installed: Installed) -> None:
    installed.add("Some_Thing", GOOD, entry="good")
    assert default_registry().versions["guidegraph-some-thing"] == "1.2"


def test_a_namespace_belongs_to_the_first_that_takes_it(installed: Installed) -> None:
    installed.add("good", GOOD)
    installed.add("later", GOOD, entry="good")
    manager = PluginManager()
    assert manager.registry.nodes["good.twice"].distribution == "guidegraph-good==1.2"
    assert [s.state for s in manager.statuses if s.name == "good"] == ["ok", "failed"]
    assert "belongs to guidegraph-good==1.2" in manager.registry.failed["good"]


def test_a_plugin_cannot_take_a_built_in_namespace(installed: Installed) -> None:
    installed.add("late", NODE.format(id="guidegraph.twice") + HOOK, entry="guidegraph")
    assert "belongs to guidegraph==" in default_registry().failed["guidegraph"]


def test_unreadable_metadata_affects_only_its_plugin(installed: Installed) -> None:
    class Broken:
        @property
        def name(self) -> str:
            raise KeyError("Name")

    installed.add("good", GOOD)
    vars(installed.entries[0])["dist"] = Broken()
    assert default_registry().nodes["good.twice"].distribution == "gg_test_good==0"


TYPED = """
from guidegraph import hookimpl, node

class Foo: ...

@node("{name}.make")
def make() -> Foo:
    "A Foo."
    return Foo()

@hookimpl
def guidegraph_nodes():
    return [make]

@hookimpl
def guidegraph_types():
    return [Foo]
"""


@pytest.mark.parametrize("order", [("aa", "bb"), ("bb", "aa"), ("bb",)])
def test_which_of_two_types_is_taken_does_not_depend_on_who_asks_first(
    installed: Installed, order: tuple[str, ...]
) -> None:
    installed.add("aa", TYPED.format(name="aa"))
    installed.add("bb", TYPED.format(name="bb"))
    nodes = PluginManager(lazy=True).registry.nodes
    for name in order:
        assert (f"{name}.make" in nodes) == (name == "aa")
    assert "bb.make" not in default_registry().nodes


def test_a_plugin_is_imported_when_it_is_looked_up(installed: Installed) -> None:
    for name in ("first", "second"):
        installed.add(name, NODE.format(id=f"{name}.twice") + HOOK)
    registry = PluginManager(lazy=True).registry
    assert "second.twice" in registry.nodes
    assert "gg_test_second" in sys.modules
    assert "gg_test_first" not in sys.modules


def test_a_node_is_found_while_another_thread_imports_its_plugin(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "gg_test_gate", SimpleNamespace(entered=entered, leave=leave))
    wait = "import gg_test_gate; gg_test_gate.entered.set(); gg_test_gate.leave.wait(60)\n"
    installed.add("slow", wait + NODE.format(id="slow.twice") + HOOK)
    manager = PluginManager(lazy=True)
    nodes = manager.registry.nodes
    with ThreadPoolExecutor() as threads:
        loaded = threads.submit(manager.load_third_party)
        assert entered.wait(60)
        is_known = threads.submit(lambda: "slow.twice" in nodes)
        wait_for([is_known], timeout=0.1)
        leave.set()
        loaded.result()
        assert is_known.result()


def test_an_entry_that_another_thread_puts_back_is_found() -> None:
    class Values(dict[str, int]):
        """Values that another thread takes out after each look at them."""

        def __contains__(self, key: object) -> bool:
            return self.pop(str(key), None) is not None

    assert LazyMapping(Values(a=1), lambda key: None, lambda: None)["a"] == 1


def test_plugins_are_disabled_by_the_environment(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.add("good", GOOD)
    installed.add("boom", "raise RuntimeError('imported')")
    monkeypatch.setenv("GUIDEGRAPH_DISABLE_PLUGINS", "boom, good")
    manager = PluginManager()
    assert {s.name: s.state for s in manager.statuses} == {"guidegraph": "ok", "good": "disabled", "boom": "disabled"}
    assert "gg_test_boom" not in sys.modules
    assert "GUIDEGRAPH_DISABLE_PLUGINS" in manager.registry.failed["good"]
    assert "good.twice" in default_registry(disable=()).nodes


def test_installed_plugins_can_be_left_out_altogether(installed: Installed) -> None:
    installed.add("good", GOOD)
    assert "good.twice" not in default_registry(entry_points=False).nodes


def test_a_module_on_the_command_line_may_use_any_free_namespace(installed: Installed) -> None:
    (installed.folder / "gg_test_mine.py").write_text(NODE.format(id="free.twice") + HOOK, encoding="utf-8")
    installed.modules.append("gg_test_mine")
    assert "free.twice" in default_registry(["gg_test_mine"]).nodes


def test_a_module_on_the_command_line_may_be_a_file_in_the_current_directory(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "gg_test_file.py").write_text(NODE.format(id="free.twice") + HOOK, encoding="utf-8")
    installed.modules.append("gg_test_file")
    monkeypatch.chdir(folder)
    for _ in range(2):  # a second load finds the module that is imported already
        assert "free.twice" in default_registry(["./gg_test_file.py"]).nodes


def test_a_module_given_twice_or_installed_too_counts_once(installed: Installed) -> None:
    installed.add("good", GOOD)
    manager = PluginManager(["gg_test_good", "gg_test_good"])
    assert [s.name for s in manager.statuses] == ["guidegraph", "good"]


@pytest.mark.parametrize(
    ("module", "reason", "fix"),
    [
        ("gg_test_absent", "No module named", "install what it needs; --plugin takes"),
        ("gg_test_absent.py", "no Python file", "name a file that exists; --plugin takes"),
    ],
)
def test_a_module_that_does_not_load_is_reported(installed: Installed, module: str, reason: str, fix: str) -> None:
    plugin = status(PluginManager([module]), module)
    assert plugin.state == "failed"
    assert reason in plugin.reason
    assert plugin.fix.startswith(fix)


def test_a_file_that_fails_is_to_be_repaired_or_left_out_of_the_command_line(
    installed: Installed, tmp_path: Path
) -> None:
    path = str(tmp_path / "gg_test_raises.py")
    Path(path).write_text("raise ValueError('mine')", encoding="utf-8")
    assert status(PluginManager([path]), path).fix == f"repair it at {path}:1, or leave out --plugin {path}"


def test_the_second_of_two_files_of_one_name_is_to_be_renamed(installed: Installed, tmp_path: Path) -> None:
    paths = [str(tmp_path / folder / "gg_test_same.py") for folder in "ab"]
    for path in map(Path, paths):
        path.parent.mkdir()
        path.write_text(NODE.format(id=f"{path.parent.name}.twice") + HOOK, encoding="utf-8")
    installed.modules.append("gg_test_same")
    second = status(PluginManager(paths), paths[1])
    assert second.reason == "cannot be imported: a module called 'gg_test_same' is imported already"
    assert second.fix == "rename gg_test_same.py"


def test_a_module_cannot_take_an_existing_namespace(installed: Installed) -> None:
    installed.add("good", GOOD)
    (installed.folder / "gg_test_mine.py").write_text(NODE.format(id="good.other") + HOOK, encoding="utf-8")
    installed.modules.append("gg_test_mine")
    manager = PluginManager(["gg_test_mine"])
    assert "good.other" not in manager.registry.nodes
    assert "'good' belongs to guidegraph-good==1.2" in status(manager, "gg_test_mine").reason


COMMAND = """
from guidegraph import hookimpl

@hookimpl
def guidegraph_commands(app):
    @app.command()
    def {name}() -> None: ...
    {then}
"""


def command_names(app: typer.Typer) -> list[str]:
    return [c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands]


def test_plugins_add_commands_and_a_failing_one_adds_none(installed: Installed) -> None:
    installed.add("fine", COMMAND.format(name="hello", then=""))
    installed.add("fails", COMMAND.format(name="halfway", then="raise RuntimeError('no')"))
    installed.add("steals", COMMAND.format(name="run", then=""))
    app = typer.Typer()
    app.command("run")(lambda: None)
    manager = PluginManager()
    for _ in range(2):  # a second time, nothing is left to add
        manager.add_commands(app)
    assert command_names(app) == ["run", "hello"]
    assert "RuntimeError: no" in status(manager, "fails").reason
    assert "the command 'run' exists already" in status(manager, "steals").reason
    assert status(manager, "fine").ok


OBSERVER = """
from guidegraph import hookimpl

seen = []

@hookimpl
def guidegraph_observer(run):
    {body}
"""


def test_observers_of_plugins_and_none_where_they_fail(installed: Installed) -> None:
    installed.add("watch", OBSERVER.format(body="return seen.append"))
    installed.add("quiet", OBSERVER.format(body="return None"))
    installed.add("fails", OBSERVER.format(body="raise RuntimeError('no')"))
    installed.add("wrong", OBSERVER.format(body="return 3"))
    manager = PluginManager()
    graph: Any = None
    observers = manager.observers(graph, {}, RunConfig())
    assert len(observers) == 1
    observers[0](RunFinished("done", 0.0))
    assert sys.modules["gg_test_watch"].seen == [RunFinished("done", 0.0)]
    assert "RuntimeError: no" in status(manager, "fails").reason
    assert "returned 3" in status(manager, "wrong").reason
    assert status(manager, "quiet").ok


def test_parameters_are_copied_for_observers_alone(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Any] = []
    monkeypatch.setattr("guidegraph.plugins.hookspecs.copy_parameter", lambda params: copied.append(params) or params)
    graph: Any = None
    assert PluginManager().observers(graph, {"size": 1}, RunConfig()) == []
    assert not copied
    installed.add("watch", OBSERVER.format(body="return seen.append"))
    assert len(PluginManager().observers(graph, {"size": 1}, RunConfig())) == 1
    assert copied == [{"size": 1}]


def test_loading_plugins_imports_no_torch() -> None:
    import subprocess

    code = "import sys; from guidegraph.plugins.manager import default_registry as d; d(entry_points=False)"
    subprocess.run([sys.executable, "-c", code + "; sys.exit('torch' in sys.modules)"], check=True, timeout=60)


def digest_of(tmp_path: Path) -> str:
    path = tmp_path / "flow.yaml"
    path.write_text("guidegraph: 1\nnodes: {n: {use: good.twice, with: {x: 1.5}}}\noutputs: {n: n}\n")
    graph = build(path, default_registry())
    digests = Digests("cpu float32")
    digests.add(graph.ops)
    return digests["n"]


def test_versions_of_the_plugin_and_of_the_node_are_in_the_cache_key(installed: Installed, tmp_path: Path) -> None:
    installed.add("good", GOOD)
    first = digest_of(tmp_path)
    assert digest_of(tmp_path) == first
    vars(installed.entries[0])["dist"].version = "1.3"
    later = digest_of(tmp_path)
    assert later != first
    module = sys.modules["gg_test_good"]
    module.twice.__guidegraph__ = replace(module.twice.__guidegraph__, version="2")
    assert digest_of(tmp_path) not in (first, later)


def test_a_file_without_hooks_contributes_the_nodes_that_it_defines(tmp_path: Path) -> None:
    path = tmp_path / "gg_plain_nodes.py"
    path.write_text("""from guidegraph import node, predict


@node("plain.half")
def half(x: float) -> float:
    \"\"\"Half of x.\"\"\"
    return x / 2


def other() -> None: ...
""")
    manager = PluginManager([str(path)], entry_points=False)
    assert status(manager, str(path)).nodes == ("plain.half",)
    empty = tmp_path / "gg_no_nodes.py"
    empty.write_text("from guidegraph import node\n")
    assert "implements no hook" in status(PluginManager([str(empty)], entry_points=False), str(empty)).reason
