"""An option of a run is one field of ``RunConfig``: the commands, the resume command, records and Python follow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from guidegraph.graph import run_config
from tests.commands.command import ROOT, environment

NEW_FIELD = '    patience: int = setting("How long to wait.", 3, "SECONDS", least=0)\n'
FOLLOWS = """
import inspect, sys, types
from pathlib import Path
import guidegraph.graph

text = Path(sys.argv[1]).read_text()
changed = types.ModuleType("guidegraph.graph.run_config")
sys.modules["guidegraph.graph.run_config"] = guidegraph.graph.run_config = changed
exec(compile(text, sys.argv[1], "exec"), vars(changed))

import guidegraph
from guidegraph_page.command import open as open_page
from guidegraph.commands.run import run
from guidegraph.commands.shared.run_settings import _list_options
from guidegraph.commands.shared.open_workflow import WorkflowRequest
from guidegraph.commands.shared.run_settings import RunSettings
from guidegraph_lab.sweep.command import sweep
from guidegraph.graph.trust.policy import Grants
from guidegraph.plugins.entry_points import PluginSelection

for function in (run, sweep, open_page, guidegraph.load_workflow, guidegraph.Workflow):
    assert inspect.signature(function).parameters["patience"].default == 3, function
settings = RunSettings({"patience": 5})
config = settings.parse(problems := [])
assert (config.patience, problems) == (5, [])
assert config.to_json()["patience"] == 5
request = WorkflowRequest(Path("draw.yaml"), [], PluginSelection(), Grants())
assert [*_list_options(request, settings, [])] == ["--patience", "5"]
assert [*_list_options(request, RunSettings({}), [])] == []
"""


def test_a_new_option_is_one_line(tmp_path: Path) -> None:
    text = Path(run_config.__file__).read_text(encoding="utf-8")
    place = text.index("    def __post_init__")
    changed = tmp_path / "run_config.py"
    changed.write_text(f"{text[:place].rstrip()}\n{NEW_FIELD}\n{text[place:]}", encoding="utf-8")
    command = [sys.executable, "-c", FOLLOWS, str(changed)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
