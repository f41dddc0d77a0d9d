"""The policy for workflows run from Python: the same as on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from guidegraph import Grants, Policy, WorkflowError, load_workflow
from guidegraph.graph.trust.effects import list_effects

READ = """
guidegraph: 1
params: {path: {type: Path, default: cat.png}}
nodes: {a: {use: image.load, in: {path: params.path}}}
outputs: {a: a}
"""
SAVE = """
guidegraph: 1
params: {path: {type: Path, default: "pkg:scenes"}}
nodes:
  m: {use: model.pixels}
  s: {use: model.save, in: {autoencoder: m, path: params.path}}
outputs: {path: s}
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    Image.new("RGB", (3, 3)).save(tmp_path / "cat.png")
    (tmp_path / "read.yaml").write_text(READ)
    return tmp_path / "read.yaml"


def test_a_strangers_workflow_is_read_but_not_the_files_it_names(workflow: Path) -> None:
    stranger = load_workflow(workflow, policy=Policy(stranger=True))
    with pytest.raises(WorkflowError, match="forbidden-read") as caught:
        stranger.run()
    assert f"--allow-read {workflow.with_name('cat.png')}" in str(caught.value)
    with pytest.raises(WorkflowError, match="forbidden-read"):
        stranger.plan({})
    assert load_workflow(workflow).run()["a"].shape == (1, 3, 3, 3)


def test_a_forbidden_file_is_reported_at_the_setting_that_names_it(workflow: Path) -> None:
    workflow.write_text(READ.replace("in: {path: params.path}", "with: {\n  path: cat.png\n}"))
    with pytest.raises(WorkflowError, match=r"read.yaml:5:3: forbidden-read"):
        load_workflow(workflow, policy=Policy(stranger=True)).run()


def test_allowed_files_and_files_from_parameters_are_read(workflow: Path) -> None:
    allowed = Policy(stranger=True, grants=Grants(read=(workflow.parent,)))
    assert load_workflow(workflow, policy=allowed).run()["a"].shape == (1, 3, 3, 3)
    from_parameters = Policy(stranger=True, user_params=frozenset({"path"}))
    assert load_workflow(workflow, policy=from_parameters).run()["a"].shape == (1, 3, 3, 3)


def test_shipped_files_are_never_written(tmp_path: Path) -> None:
    (tmp_path / "save.yaml").write_text(SAVE)
    workflow = load_workflow(tmp_path / "save.yaml")
    with pytest.raises(WorkflowError, match="read-only"):
        workflow.run()
    workflow.run(path=tmp_path / "model")
    assert (tmp_path / "model" / "model.json").is_file()


def test_effects_are_listed_before_the_run(tmp_path: Path, workflow: Path) -> None:
    (tmp_path / "save.yaml").write_text(SAVE)
    save = load_workflow(tmp_path / "save.yaml")
    effects = [(e.kind, e.path, e.node, e.param) for e in list_effects(save.graph.ops, save.bind({}))]
    assert [(kind, node, param) for kind, _, node, param in effects] == [("write", "nodes.s", "path")]
    read = load_workflow(workflow)
    (effect,) = list_effects(read.graph.ops, read.bind({}))
    assert (effect.kind, effect.path) == ("read", workflow.with_name("cat.png"))


def test_a_dtype_is_one_of_four(workflow: Path) -> None:
    with pytest.raises(ValueError, match="there is no dtype 'load'"):
        load_workflow(workflow, dtype="load")


def test_shipped_files_are_recognised_in_an_editable_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install can be a tree of folders whose files are links into the checkout."""
    from guidegraph.graph import paths
    from guidegraph.graph.trust.policy import is_shipped

    checkout, tree = tmp_path / "checkout", tmp_path / "tree"
    links = {
        "guidegraph/__init__.py": "guidegraph/__init__.py",
        "guidegraph/workflows/models/a.json": "workflows/models/a.json",
    }
    for link, file in links.items():
        for path in (checkout / file, tree / link):
            path.parent.mkdir(parents=True, exist_ok=True)
        (checkout / file).write_text("")
        (tree / link).symlink_to(checkout / file)
    monkeypatch.setattr(paths, "_find_package_file", lambda: str(tree / "guidegraph" / "__init__.py"))
    for root in (checkout, tree / "guidegraph"):
        assert is_shipped(root / "workflows" / "models" / "a.json")
        assert is_shipped(root / "workflows" / "models" / "new")
    assert not is_shipped(tmp_path / "workflows" / "models" / "a.json")
