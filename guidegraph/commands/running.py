"""The commands that run or export workflows: their arguments and help. The modules that implement them are imported
when a command is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidegraph.commands.shared.options import (
    AllowCode,
    AllowRead,
    AllowWrite,
    Device,
    Dtype,
    Events,
    File,
    LimitSettings,
    NodeTraceback,
    NoPlugins,
    Only,
    Passes,
    Plugins,
    Settings,
    make_grants,
)
from guidegraph.commands.shared.root import app, examples, select_plugins


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
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
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
    limit: LimitSettings = None,
) -> None:
    """Run a workflow and write its outputs: pictures to PNG, tensors to safetensors, the rest to JSON.

    Each file is written as soon as its output is ready. Beside them run.json says what was run: workflow,
    parameters, seeds, digests, versions, timings. Every PNG carries its workflow and parameters: a picture
    given in place of a workflow is made again, with its whole batch.
    """
    from guidegraph.commands.launch import Processes
    from guidegraph.commands.run import RunArguments, run_command
    from guidegraph.commands.shared.source import apply_limits

    arguments = RunArguments(
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
        select_plugins(plugin, no_plugins),
        Processes(devices, nodes, node_rank, rendezvous, restarts),
        make_grants(allow_read, allow_write, allow_code),
    )
    with apply_limits(limit):
        run_command(arguments)


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
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
    limit: LimitSettings = None,
) -> None:
    """Run a workflow for each cell of a grid of parameters: one folder of runs, one table, one contact sheet.

    A cell that is done is not run again while nothing that it depends on has changed: a sweep that was broken off goes
    on with what is missing. A cell that fails is reported, and the rest goes on; the exit code is 1 then.
    --ray needs pip install "guidegraph[ray]".
    """
    from guidegraph.commands.shared.source import apply_limits
    from guidegraph.commands.sweep import SweepArguments, sweep_command

    arguments = SweepArguments(
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
        select_plugins(plugin, no_plugins),
        make_grants(allow_read, allow_write, allow_code),
    )
    with apply_limits(limit):
        sweep_command(arguments)


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
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
    limit: LimitSettings = None,
) -> None:
    """Write a workflow as a bundle of ONNX graphs, which guidegraph-run runs with no torch installed.

    What --set gives is the example that is traced, and the bundle's defaults. Parameters that the graphs can take
    stay inputs of the bundle; the others are fixed, and the end of the output says why. Nothing is written where a
    part of the workflow cannot be exported. What was written is run once on the example, and compared with the
    engine. --precision casts the steps of loops alone: text encoders and decoders stay fp32 unless they are named.
    With --single-file it is one ONNX graph, loops inside, that any onnxruntime runs, also in Node and in a browser;
    beside FILE.onnx are FILE.json, which says what its inputs are, and FILE.bin with an example of each.
    """
    from guidegraph.commands.export import ExportArguments, export_command
    from guidegraph.commands.shared.source import apply_limits

    arguments = ExportArguments(
        workflow,
        output,
        set or [],
        only,
        check,
        not no_reference,
        precision or [],
        select_plugins(plugin, no_plugins),
        make_grants(allow_read, allow_write, allow_code),
    )
    with apply_limits(limit):
        if single_file:
            from guidegraph.commands.export_single_file import single_command

            single_command(arguments)
        else:
            export_command(arguments)
