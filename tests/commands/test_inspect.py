"""Commands that run nothing: validate, plan, draw, nodes, plugins, schema, help."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from guidegraph.commands.nodes import COMMAND
from guidegraph.graph.hardware import policy
from tests.commands.command import ROOT, TOYS, Command, process
from tests.commands.test_run import DRAW, LOOP

WRONG = """
guidegraph: 1
nodes:
  image: {use: toy.pictur}
  add: {use: toy.add, in: {a: imag}}
outputs: {image: image}
"""

NO_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was imported")

sys.meta_path.insert(0, Block())
from guidegraph.commands import main
for arguments in {commands}:
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)
print("all done")
"""


def test_validate_prints_every_error_of_every_file(cli: Command) -> None:
    good = cli.workflow("good.yaml", DRAW)
    wrong = [cli.workflow(f"wrong{i}.yaml", WRONG) for i in range(2)]
    result = cli("validate", wrong[0], good, wrong[1])
    assert result.code == 2
    assert result.out == f"{good}: ok\n"
    for path in wrong:
        lines = [line for line in result.err.splitlines() if line.startswith(f"{path}:")]
        assert [line.removeprefix(f"{path}:").partition(":")[0] for line in lines] == ["4", "5"]
    assert "toy.picture" in result.err


def test_validate_runs_nothing(cli: Command) -> None:
    assert cli("validate", cli.workflow("draw.yaml", DRAW)).out.endswith("draw.yaml: ok\n")
    assert not Path("runs").exists()


def test_plan_shows_passes_and_steps(cli: Command) -> None:
    workflow = cli.workflow("loop.yaml", LOOP % [1, 2])
    text = cli("plan", workflow, "--set", "seconds=0.5").out
    for part in ("prune", "hoist", "nodes.sample: for t in count\n", "toy.sleep(x=carry.x, seconds=0.5)", "before ="):
        assert part in text
    plan = json.loads(cli("plan", workflow, "--json", "--passes", "prune").out)
    assert [row["name"] for row in plan["passes"] if row["applied"]] == ["prune"]
    (loop,) = [row for row in plan["steps"] if row["node"] == "loop"]
    assert loop["carry"] == {"x": "start"}
    assert [row["path"] for row in loop["body"]] == ["nodes.sample.body.step"]


def test_plan_shows_a_preview_after_the_body(cli: Command) -> None:
    workflow = ROOT / "workflows" / "own" / "lora_classes.yaml"
    lines = cli("plan", workflow, "--set", "preview=40").out.splitlines()
    start = lines.index("     as a preview, every 40 iterations:")
    assert "nodes.fit.preview/drawn/prompts = text.prompts(captions=captions" in lines[start + 1]


def test_plan_drops_steps_that_no_requested_output_needs(cli: Command) -> None:
    plan = json.loads(cli("plan", cli.workflow("draw.yaml", DRAW), "--json", "--only", "table").out)
    assert [row["path"] for row in plan["steps"]] == ["nodes.table"]


def test_plan_says_what_an_emulated_dtype_costs(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "is_x86", lambda: True)
    monkeypatch.setattr(policy, "computes_fp16", lambda device: False)
    workflow = cli.workflow("draw.yaml", DRAW)
    lines = cli("plan", workflow, "--dtype", "float16").out.splitlines()
    assert lines[2] == "computes on cpu in float16"
    assert lines[3].startswith("  warning: float16 is only emulated on this processor: a step takes ")
    assert cli("plan", workflow).out.splitlines()[2:4] == ["computes on cpu in float32", ""]
    assert json.loads(cli("plan", workflow, "--json").out)["computes"] == {"device": "cpu", "dtype": "float32"}
    assert "--dtype: unknown-dtype: there is no dtype 'half'" in cli("plan", workflow, "--dtype", "half").err


def test_draw_writes_svg(cli: Command) -> None:
    workflow = cli.workflow("loop.yaml", LOOP % [1])
    assert cli("draw", workflow, "-o", "graph.svg").code == 0
    assert Path("graph.svg").read_text().lstrip().startswith("<svg")
    assert "<svg" in cli("draw", workflow).out


def test_nodes_lists_one_line_per_node(cli: Command) -> None:
    lines = cli("nodes").out.splitlines()
    assert any(line.startswith("toy.add") and line.rstrip().endswith("a + b.") for line in lines)


@pytest.mark.parametrize("command", [["nodes", "scheduler.edm", "--json"], ["nodes", "--json"], ["schema"]])
def test_a_setting_that_is_infinite_by_default_is_in_valid_json(cli: Command, command: list[str]) -> None:
    text = cli(*command).out

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert "s_max" in text
    json.loads(text, parse_constant=refuse)


def test_an_infinite_default_is_shown_as_yaml_has_it(cli: Command) -> None:
    row = json.loads(cli("nodes", "scheduler.edm", "--json").out)
    assert {setting["name"]: setting.get("default") for setting in row["settings"]}["s_max"] == ".inf"


def test_nodes_shows_the_details_of_one_node(cli: Command) -> None:
    text = cli("nodes", "toy.picture").out
    for part in ("Plain pictures", "seed", "int", "≥ 1", "one value for all of them", "Image", "version 1", "toys==0"):
        assert part in text
    row = json.loads(cli("nodes", "toy.divide", "--json").out)
    assert [p["name"] for p in row["ports"]] == ["a", "b"]
    assert row["outputs"] == [{"name": "out", "type": "float"}]


@pytest.mark.parametrize(
    ("id", "file", "function"),
    [
        ("guidance.cfg", "nodes/guidance/guidance.py", "classifier_free_guidance"),
        ("scheduler.ddim", "runtime/guidegraph_runtime/samplers/ddim.py", "ddim"),
        ("scheduler.dpmpp_2m", "runtime/guidegraph_runtime/samplers/dpm_solver.py", "dpmpp_2m"),
        ("label.cycle", "runtime/guidegraph_runtime/operations/text.py", "cycle"),
    ],
)
def test_nodes_leads_to_the_lines_that_compute(cli: Command, id: str, file: str, function: str) -> None:
    place, line = cli("nodes", id).out.splitlines()[-1].rsplit(":", 1)
    assert place == str(ROOT / file)
    lines = (ROOT / file).read_text().splitlines()[int(line) - 1 :]
    assert next(text for text in lines if text.startswith("def ")).startswith(f"def {function}(")


def test_nodes_in_markdown(cli: Command) -> None:
    text = cli("nodes", "toy", "--markdown").out
    assert "### toy.add" in text
    assert "| shade | `float \\| None` | null | one value for all of them |" in text


def test_the_page_of_all_nodes_is_current() -> None:
    page = process(["nodes", "--markdown", "--no-plugins"], ROOT)
    assert page.returncode == 0, page.stderr
    text = (ROOT / "docs" / "reference" / "nodes.md").read_text(encoding="utf-8")
    assert text == page.stdout, f"docs/reference/nodes.md differs from the nodes; regenerate it: {COMMAND}"


def test_index_links_of_the_nodes_page_resolve_to_headings() -> None:
    text = (ROOT / "docs" / "reference" / "nodes.md").read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w-]", "", line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(links) == len(set(links)) > 100
    assert set(links) <= headings
    assert {"metricfid", "datascenes", "diffuserstext"} <= headings  # of our packages too
    assert "apg" not in headings


@pytest.mark.parametrize(
    ("disabled", "id", "expected"),
    [
        ("lab", "metric.fid", "'metric.fid' is not available"),
        ("lab", "loss.mze", "did you mean 'loss."),
        ("lab", "data.folder", "the plugin 'data' could not be loaded: disabled by"),
        ("scenes", "data.foldr", "did you mean 'data.folder'?"),
    ],
)
def test_an_unknown_id_is_explained_by_what_is_there_and_what_is_missing(
    cli: Command, disabled: str, id: str, expected: str
) -> None:
    workflow = cli.workflow("w.yaml", f"guidegraph: 1\nnodes: {{a: {{use: {id}}}}}\noutputs: {{a: a}}\n")
    result = process(["validate", workflow], cli.folder, env={"GUIDEGRAPH_DISABLE_PLUGINS": disabled})
    assert result.returncode == 2
    assert expected in result.stderr
    listed = process(["nodes", id], cli.folder, env={"GUIDEGRAPH_DISABLE_PLUGINS": disabled})
    assert "disabled by GUIDEGRAPH_DISABLE_PLUGINS" in listed.stderr


def test_a_similar_node_is_suggested_for_an_unknown_one(cli: Command) -> None:
    result = cli("nodes", "toy.pictur")
    assert result.code == 2
    assert "did you mean 'toy.picture'?" in result.err


def test_plugins_shows_why_a_plugin_failed(cli: Command) -> None:
    cli.workflow("bad_plugin.py", "import no_such_module")
    result = cli("plugins", "--plugin", "bad_plugin.py")
    assert result.code == 0
    for part in (
        "bad_plugin.py",
        "failed",
        "No module named 'no_such_module'",
        "Traceback (most recent call last)",
        "toy.add",
    ):
        assert part in result.out
    states = {row["name"]: row["state"] for row in json.loads(cli("plugins", "--json").out)}
    assert states["guidegraph"] == states[TOYS] == "ok"


def test_schema_has_the_plugins_nodes(cli: Command) -> None:
    assert cli("schema", "-o", "s.json").code == 0
    assert "toy.add" in Path("s.json").read_text()
    assert json.loads(cli("schema").out)["title"] == "guidegraph workflow"


def test_a_plugin_adds_a_command(cli: Command) -> None:
    assert cli("hello", "--name", "tiger").code == 2  # --plugin belongs before a command that has no such option
    result = process(["--plugin", TOYS, "hello", "--name", "tiger"], cli.folder)
    assert (result.returncode, result.stdout) == (0, "hello tiger\n")
    assert "hello" in process(["--plugin", TOYS, "--help"], cli.folder).stdout


@pytest.mark.parametrize("command", ["run", "validate", "plan", "draw", "nodes", "plugins", "schema"])
def test_help_has_examples(cli: Command, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"  guidegraph {command}" in result.out


def test_commands_that_run_nothing_do_not_import_torch(cli: Command) -> None:
    workflow = str(cli.workflow("loop.yaml", LOOP % [1]))
    commands = [
        ["--help"],
        ["run", "--help"],
        ["validate", workflow, "--plugin", TOYS],
        ["plan", workflow, "--plugin", TOYS],
        ["draw", workflow, "--plugin", TOYS, "-o", "g.svg"],
        ["set", workflow, "params.count", "2", "--plugin", TOYS],
        ["nodes", "--plugin", TOYS],
        ["nodes", "guidance.cfg"],
        ["nodes", "--json"],
        ["plugins", "--plugin", TOYS],
        ["schema", "-o", "s.json"],
    ]
    result = process([], cli.folder, python=["-c", NO_TORCH.format(commands=commands)])
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("all done\n")


IMPORTED = """
import sys
at_start = set(sys.modules)  # some packages, such as cuda-bindings, are imported by their .pth file
from guidegraph.commands import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code
tops = {name.partition(".")[0] for name in sys.modules.keys() - at_start} - sys.stdlib_module_names
print(*sorted(top for top in tops if not top.startswith("_")), f"\\n{len(sys.modules)}", sep=" ")
"""
QUICK_TO_IMPORT = """
annotated_doc annotated_types click colorama cython_runtime guidegraph guidegraph_diffusers
guidegraph_families guidegraph_lab guidegraph_page guidegraph_runtime guidegraph_scenes numpy packaging PIL
pluggy pydantic pydantic_core shellingham toys typer typing_extensions typing_inspection yaml
"""
"""The packages that commands which run nothing import beside the standard library."""


@pytest.mark.parametrize("command", [["validate"], ["draw", "-o", "g.svg"]])
def test_commands_that_run_nothing_import_few_packages(cli: Command, command: list[str]) -> None:
    workflow = cli.workflow("draw.yaml", DRAW)
    result = process([*command, workflow, "--plugin", TOYS], cli.folder, python=["-c", IMPORTED])
    assert result.returncode == 0, result.stderr
    *_, tops, count = result.stdout.splitlines()
    assert set(tops.split()) - set(QUICK_TO_IMPORT.split()) == set()
    assert int(count) < 1200  # 876 when this was written


def test_the_declarations_of_the_commands_import_few_packages(cli: Command) -> None:
    result = process(["--version"], cli.folder, python=["-c", IMPORTED])
    assert result.returncode == 0, result.stderr
    *_, tops, count = result.stdout.splitlines()
    assert {"pydantic", "numpy", "networkx", "yaml", "rich"}.isdisjoint(tops.split())
    assert int(count) < 330  # 310 with the commands of two packages


def test_validate_reports_outputs_that_run_could_not_write(cli: Command) -> None:
    text = "guidegraph: 1\nnodes: {m: {use: toy.model}}\noutputs: {model: m}\n"
    flow = cli.workflow("flow.yaml", text)
    result = cli("validate", flow)
    assert result.code == 2
    assert "flow.yaml:3:18: output-type: output 'model' is of type Denoiser" in result.err
    block = cli.workflow("block.yaml", text.replace("nodes:", "params: {x: {type: Image}}\nnodes:"))
    assert cli("validate", block).code == 0, "a workflow with a required picture is for use in other workflows"
