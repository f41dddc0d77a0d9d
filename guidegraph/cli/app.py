"""The commands: their arguments and help. What they do is in the modules beside this one, imported when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidegraph.cli.options import (
    Chosen,
    Device,
    Dtype,
    Events,
    File,
    Json,
    NodeTraceback,
    NoPlugins,
    Only,
    Output,
    Passes,
    Plugins,
    Settings,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_before_command = Chosen()


def examples(*lines: str) -> str:
    """The end of a command's help. The control character keeps its lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  guidegraph {line}" for line in lines)


def _show_version(wanted: bool) -> None:
    if wanted:
        import guidegraph

        typer.echo(f"guidegraph {guidegraph.__version__}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        'run workflows/text_to_image.yaml --set prompt="a tiger on grass"',
        "validate workflows/*.yaml",
        "nodes guidance.cfg",
    )
)
def root(
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run typed graphs of diffusion nodes, written as YAML workflows.

    Exit codes: 0 done, 1 a node failed, 2 the workflow or its arguments are wrong, 130 cancelled.
    """
    global _before_command
    _before_command = Chosen(tuple(plugin or ()), not no_plugins)


@app.command(
    epilog=examples(
        'run draw.yaml --set prompt="a tiger on grass" --set seed=7',
        "run draw.yaml --out pictures --only image --device cuda --dtype bfloat16",
        "run draw.yaml --device cuda --memory-budget 6GB",
        "run runs/20260131-120000-draw/image.png --set scale=2",
        "run draw.yaml --cache ~/.cache/guidegraph --json",
    )
)
def run(
    workflow: File,
    set: Settings = None,
    only: Only = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go.", show_default="runs/<time>-<name>")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    cache: Annotated[
        str, typer.Option(metavar="DIR|off", help="A folder that keeps values, so that only what changed is computed.")
    ] = "off",
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="How much of the models' weights may be on the device at once, such as 6GB or 800MB."
        ),
    ] = None,
    passes: Passes = "all",
    json: Events = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print a line for each node, on stderr.")] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    traceback: NodeTraceback = False,
    devices: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Share a training's batches among N processes, a device each."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, metavar="M", help="The same on M machines.")] = 1,
    node_rank: Annotated[int, typer.Option(min=0, metavar="I", help="Which of the machines this is, from 0.")] = 0,
    rendezvous: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The first machine, where the others find it.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, metavar="K", help="How often to go on from the checkpoint when a process is killed.")
    ] = 3,
) -> None:
    """Run a workflow and write its outputs: pictures to PNG, tensors to safetensors, the rest to JSON.

    Each file is written as soon as its output is ready. Beside them run.json says what was run: workflow,
    parameters, seeds, digests, versions, timings. Every PNG carries its workflow and parameters: a picture
    given in place of a workflow is made again, with its whole batch.
    """
    from guidegraph.cli.launch import Processes
    from guidegraph.cli.run import Arguments, run_command

    given = Arguments(
        workflow,
        set or [],
        only,
        out,
        device,
        dtype,
        cache,
        memory_budget,
        passes,
        json,
        quiet,
        verbose,
        _chosen(plugin, no_plugins),
        Processes(devices, nodes, node_rank, rendezvous, restarts),
    )
    run_command(given)


@app.command(
    epilog=examples(
        "sweep draw.yaml --grid scale=1,2,4 --seeds 0:64",
        "sweep draw.yaml --grid steps=10,30 --from prompts.csv --set scale=3 --out runs/steps",
        "sweep draw.yaml --grid scale=1,2,4 --seeds 0:64 --ray local --workers 4",
    )
)
def sweep(
    workflow: File,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V,V,…", help="The values of a parameter; all combinations of several are run."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="FIRST:END", help="The values of the parameter seed: 0:64, or 1,5,9.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE.csv", help="Rows of values; its first line names the parameters."),
    ] = None,
    set: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the files go; a sweep there is continued.",
            show_default="runs/<time>-<name>-sweep",
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="Run on Ray: one started here, or a cluster.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many cells run at once on Ray.", show_default="one a core"),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    json: Events = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Run a workflow for each cell of a grid of parameters: one folder of runs, one table, one contact sheet.

    A cell that is done is not run again while nothing that it depends on has changed: a sweep that was broken off goes
    on with what is missing. A cell that fails is reported, and the rest goes on; the exit code is 1 then.
    --ray needs pip install "guidegraph[ray]".
    """
    from guidegraph.cli.sweep import Arguments, sweep_command

    given = Arguments(
        workflow,
        grid or [],
        seeds,
        table,
        set or [],
        out,
        ray,
        workers,
        device,
        dtype,
        json,
        _chosen(plugin, no_plugins),
    )
    sweep_command(given)


@app.command(epilog=examples("validate draw.yaml", "validate workflows/*.yaml --plugin my_nodes"))
def validate(
    workflows: Annotated[list[Path], typer.Argument(metavar="WORKFLOW...", show_default=False, help="Workflows.")],
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Check workflows without running them, and print every error of each."""
    from guidegraph.cli.inspect import validate_command

    validate_command(workflows, _chosen(plugin, no_plugins))


@app.command(epilog=examples("plan draw.yaml", "plan draw.yaml --set scale=1 --json", "plan draw.yaml --passes none"))
def plan(
    workflow: File,
    set: Settings = None,
    only: Only = None,
    passes: Passes = "all",
    json: Json = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Show the passes and the flat plan that a run would follow."""
    from guidegraph.cli.inspect import plan_command

    plan_command(workflow, set or [], only, passes, json, _chosen(plugin, no_plugins))


@app.command(
    epilog=examples(
        "export draw.yaml -o bundle",
        "export draw.yaml -o bundle --set steps=20 --check",
        "export draw.yaml -o bundle --only image --no-reference",
        "export draw.yaml -o bundle --precision fp16 --check",
        "export draw.yaml -o denoiser --only denoiser",
        "export draw.yaml -o draw.onnx --single-file --check",
    )
)
def export(
    workflow: File,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The folder to write; a bundle there is replaced.")
    ],
    single_file: Annotated[
        bool,
        typer.Option("--single-file", help="Write the whole workflow as one ONNX graph, BUNDLE being its FILE.onnx."),
    ] = False,
    set: Settings = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTPUT",
            help="Export this output and what it needs; or, alone, one node or the node of a model port: denoiser.",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PART=]PRECISION",
            help="fp32, fp16, bf16 or int8 for the parts in loops, or for the part that is named: decode=fp16.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare each part with torch too, and print how far they are apart.")
    ] = False,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="Leave out the example's outputs, and the run that compares them.")
    ] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    traceback: NodeTraceback = False,
) -> None:
    """Write a workflow as a bundle of ONNX graphs, which guidegraph-run runs with no torch installed.

    What --set gives is the example that is traced, and the bundle's defaults. Parameters that the graphs can take
    stay inputs of the bundle; the others are fixed, and the end of the output says why. Nothing is written where a
    part of the workflow cannot be exported. What was written is run once on the example, and compared with the
    engine. --precision casts the steps of loops alone: text encoders and decoders stay fp32 unless they are named.
    With --single-file it is one ONNX graph, loops inside, that any onnxruntime runs, also in Node and in a browser;
    beside FILE.onnx are FILE.json, which says what its inputs are, and FILE.bin with an example of each.
    Needs pip install "guidegraph[export]".
    """
    from guidegraph.cli.export import Arguments, export_command

    given = Arguments(
        workflow, output, set or [], only, check, not no_reference, precision or [], _chosen(plugin, no_plugins)
    )
    if single_file:
        from guidegraph.cli.export_single import single_command

        single_command(given)
    else:
        export_command(given)


@app.command(epilog=examples("draw draw.yaml -o graph.svg"))
def draw(workflow: File, output: Output = None, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """Draw a workflow as SVG, with the bodies of its loops as boxes."""
    from guidegraph.cli.inspect import draw_command

    draw_command(workflow, output, _chosen(plugin, no_plugins))


@app.command(epilog=examples("report runs/20260131-120000-draw", "report runs/sweep --x steps --by sampler"))
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="What run or sweep wrote, or a folder of several."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page.", show_default="DIR/report.html")
    ] = None,
    x: Annotated[
        str | None, typer.Option(metavar="NAME", help="What curves are over: a parameter, an output or a column.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A parameter or column that tells lines apart; others tell plots apart."),
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write one HTML page of a run, a sweep, or several beside each other.

    It has the pictures, curves with intervals, tables, parameters, graph, time by node, versions and failures.
    The page holds all that it shows: open it in a browser, or send it by mail. Needs pip install "guidegraph[plot]".
    """
    from guidegraph.cli.report import report_command

    report_command(folder, output, x, by or [], _chosen(plugin, no_plugins))


@app.command(epilog=examples("nodes", "nodes guidance.cfg", "nodes scheduler.ddim --json", "nodes --markdown"))
def nodes(
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One node, or a namespace.", show_default=False)
    ] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """List the nodes, or show the ports, settings and outputs of one."""
    from guidegraph.cli.nodes import nodes_command

    nodes_command(id, json, markdown, _chosen(plugin, no_plugins))


@app.command(epilog=examples("plugins", "plugins --plugin my_nodes", "plugins --json"))
def plugins(json: Json = False, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """List the plugins: what each brings, and why one could not be loaded.

    The exit code is 0 also where plugins failed: --json gives the state of each.
    """
    from guidegraph.cli.listing import plugins_command

    plugins_command(app, json, _chosen(plugin, no_plugins))


@app.command(
    "new-plugin",
    epilog=examples("new-plugin soft", "new-plugin soft -o ~/work/soft"),
)
def new_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Its namespace: node ids begin with it.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="The folder to write.", show_default="guidegraph-NAME"),
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write a package with a guidance node, a workflow that draws with it, and tests: a start for a plugin of your own.

    It installs with pip, passes its tests and draws a picture as it is.
    """
    from guidegraph.cli.new_plugin import new_plugin_command

    new_plugin_command(name, output, _chosen(plugin, no_plugins))


@app.command(epilog=examples("schema -o guidegraph.schema.json"))
def schema(output: Output = None, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """Print the JSON Schema of workflows with the nodes that are installed, for an editor."""
    from guidegraph.cli.listing import schema_command

    schema_command(output, _chosen(plugin, no_plugins))


def _chosen(modules: list[str] | None, left_out: bool) -> Chosen:
    """The plugins that are asked for before the command and after it."""
    before = _before_command
    return Chosen(tuple(dict.fromkeys([*before.modules, *(modules or ())])), before.installed and not left_out)
