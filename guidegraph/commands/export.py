"""``export``: a workflow as a bundle of ONNX graphs, or as a single one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidegraph.commands.shared import options
from guidegraph.commands.shared.plugins import load_package
from guidegraph.commands.shared.root import app, examples, select_plugins


@app.command(
    epilog=examples(
        "export draw.yaml -o bundle",
        "export draw.yaml -o bundle --set steps=20 --check",
        "export draw.yaml -o bundle --only image --no-reference",
        "export draw.yaml -o bundle --precision fp16 --check",
        "export draw.yaml -o denoiser --only denoiser",
        "export draw.yaml -o draw.onnx --single-file --check",
        "export draw.yaml -o site --page --onnxruntime-web node_modules/onnxruntime-web",
    )
)
def export(
    workflow: options.File,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            parser=options.user_path,
            metavar="BUNDLE",
            help="The folder to write; a bundle in its place is replaced.",
        ),
    ],
    single_file: Annotated[
        bool,
        typer.Option("--single-file", help="Write the whole workflow as one ONNX graph, BUNDLE being its FILE.onnx."),
    ] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Write a page that draws in a browser, with the bundle in BUNDLE/bundle.")
    ] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            parser=options.user_path,
            metavar="FOLDER",
            help="The npm package onnxruntime-web, whose files --page copies.",
        ),
    ] = None,
    set: options.Settings = None,
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
        bool, typer.Option("--check", help="Compare each part with torch too, and print the differences.")
    ] = False,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="Leave out the example's outputs, and the run that compares them.")
    ] = False,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    traceback: options.NodeTraceback = False,
    allow_read: options.AllowRead = None,
    allow_write: options.AllowWrite = None,
    allow_code: options.AllowCode = None,
    limit: options.LimitSettings = None,
) -> None:
    """Write a workflow as a bundle of ONNX graphs, which guidegraph-run runs without torch.

    The values of --set are the example that is traced, and the bundle's defaults. Parameters that the graphs can take
    stay inputs of the bundle; the others are fixed, and the end of the output gives the reasons. If a part of the
    workflow cannot be exported, nothing is written. The finished bundle runs once on the example, and the outputs are
    compared with the engine's. --precision casts only the steps of loops: text encoders and decoders stay fp32 unless
    they are named. --single-file writes one ONNX graph, loops included, that any onnxruntime runs, also in Node and in
    a browser, with FILE.json, which describes its inputs, and FILE.bin, which has an example of each.
    --page writes a folder for any web server: a page that draws in the reader's browser with onnxruntime-web.
    """
    from guidegraph.commands.exports.bundle import export_bundle
    from guidegraph.commands.exports.single_file import export_single_file
    from guidegraph.commands.exports.steps import ExportArguments
    from guidegraph.commands.shared.open_workflow import WorkflowRequest, name_picture
    from guidegraph.commands.shared.run_settings import apply_limits

    grants = options.make_grants(allow_read, allow_write, allow_code)
    request = WorkflowRequest(workflow, set or [], select_plugins(plugin, no_plugins), grants)
    arguments = ExportArguments(request, output, only, check, not no_reference, precision or [])
    with apply_limits(limit), name_picture(workflow):
        if page or onnxruntime_web is not None:
            load_package("browser", "--page").export_page(arguments, page, onnxruntime_web, single_file)
        else:
            (export_single_file if single_file else export_bundle)(arguments)
