"""The command ``guidegraph-run``: run a bundle and write its outputs, without torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from guidegraph_runtime.command import (
    DONE,
    FAILED,
    PROVIDERS,
    CommandParser,
    end_process,
    end_with_code,
    parse_folder,
    parse_threads,
    read_limits,
    show_version,
)
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import enforce_limits
from guidegraph_runtime.machine.termination import end_on_sigterm
from guidegraph_runtime.printing import print_json, print_line

_EXAMPLES = """\
examples:
  guidegraph-run scenes --describe
  guidegraph-run scenes --set prompt="a tiger on grass" --set steps=20 --set batch=4 --out pictures
  guidegraph-run scenes --node scheduler.use=scheduler.heun --node noise.shape=[4,24,24]
  guidegraph-run bundle --set prompt="a fox" --lora style.safetensors:0.8
  guidegraph-run scenes --verify --provider cpu --threads 1

exit codes: 0 done, 1 the run failed, 2 the arguments or the bundle are wrong, 130 cancelled
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and exit with 0, 1 (the run failed), 2 (wrong arguments, a bad bundle) or 130 (cancelled)."""
    end_with_code("guidegraph-run", lambda: _command(_parser().parse_args(arguments)))


def process() -> NoReturn:
    """Run ``main`` and end the process at once."""
    end_process(main)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="guidegraph-run",
        description="Run a bundle of guidegraph export: pictures to PNG, tensors to safetensors, numbers to JSON.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="the folder of a bundle")
    add("--set", metavar="K=V", action="append", default=[], help="an input's value; a list as JSON: [1, 2]")
    add(
        "--node",
        metavar="NODE.SETTING=V",
        action="append",
        default=[],
        help="change a setting of a node (see --describe)",
    )
    add("--lora", metavar="FILE[:STRENGTH]", action="append", default=[], help="add a LoRA to the weights")
    add("--only", metavar="OUTPUT", action="append", help="compute only this output")
    add("--out", metavar="DIR", type=parse_folder, help="where the files go; by default runs/<time>-<name>")
    add("--provider", choices=PROVIDERS, default="auto", help="where to compute; auto takes the best one available")
    add(
        "--threads",
        metavar="N",
        type=parse_threads,
        default=0,
        help="threads per operator; 0, the default, is one per core",
    )
    add("--cuda-graph", action="store_true", help="on a GPU, record the kernels of each part once and replay them")
    add("--limit", metavar="NAME=VALUE", action="append", default=[], help="change a limit: call_seconds=2h, trips=off")
    add("--json", action="store_true", help="print each event as a line of JSON, and nothing else")
    add("--quiet", "-q", action="store_true", help="print nothing but errors")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--verify", action="store_true", help="repeat the run that the bundle carries, and compare")
    modes.add_argument("--describe", action="store_true", help="show inputs, nodes, outputs and parts; run nothing")
    add("--version", action="version", version=f"guidegraph-run {show_version()}")
    return parser


_RUN_OPTIONS = ("set", "node", "lora", "only", "out")
_UNUSED = {"verify": _RUN_OPTIONS, "describe": (*_RUN_OPTIONS, "json", "quiet")}
"""By mode, the options that it does not use."""


def _command(options: argparse.Namespace) -> int:
    mode = next((mode for mode in _UNUSED if getattr(options, mode)), None)
    unused = [f"--{name}" for name in _UNUSED.get(mode or "", ()) if getattr(options, name)]
    if unused:
        does = "repeats the run that the bundle carries" if mode == "verify" else "runs nothing, and prints text"
        message = f"expected no {', no '.join(unused)}: --{mode} {does}; leave out one or the other"
        raise BundleError(f"--{mode}", "bad-arguments", message)
    # SIGTERM ends a run like Ctrl-C: written files stay complete, and run.json records the cancellation.
    with end_on_sigterm(), enforce_limits(read_limits(options.limit)):
        from guidegraph_runtime.running.bundle import Bundle
        from guidegraph_runtime.sessions.sessions import SessionSettings

        # Describing a bundle needs no GPU.
        provider = "cpu" if options.describe else options.provider
        cuda_graph = options.cuda_graph and not options.describe
        settings = SessionSettings.on(provider, intra_threads=options.threads, cuda_graph=cuda_graph)
        bundle = Bundle(options.bundle, settings)
        if options.describe:
            from guidegraph_runtime.running.describe import describe_bundle

            print_line(describe_bundle(bundle.manifest, bundle.digest, bundle.offers()))
            return DONE
        if options.verify:
            return _verify(bundle, options)
        _run(bundle, options)
        return DONE


def _verify(bundle: Any, options: argparse.Namespace) -> int:
    from guidegraph_runtime.running.measure_costs import replay

    differences = replay(bundle)
    if options.json:
        for difference in differences:
            print_json({"event": "compared", **vars(difference), "fits": difference.fits})
    elif not options.quiet:
        print_line(
            f"{options.bundle}: {len(bundle.manifest.files)} files are as bundle.json says, sha256 {bundle.digest}"
        )
        for difference in differences:
            print_line(f"{difference.name}: {'ok' if difference.fits else 'differs'}, {difference.text}")
    return DONE if all(difference.fits for difference in differences) else FAILED


def _run(bundle: Any, options: argparse.Namespace) -> None:
    from guidegraph_runtime.run_command import run
    from guidegraph_runtime.running.inputs import parse_input

    inputs, params = bundle.manifest.inputs, {}
    for name, text in _pairs("--set", "K=V", options.set).items():
        params[name] = parse_input(name, inputs[name], text, bundle.where) if name in inputs else text
    nodes: dict[str, Any] = {}
    for name, text in _pairs("--node", "NODE.SETTING=V", options.node).items():
        try:
            nodes[name] = json.loads(text)
        except (ValueError, RecursionError):
            nodes[name] = text  # a name, such as scheduler.heun
    run(bundle, params, nodes, options.only, options.out, lora=options.lora, as_json=options.json, quiet=options.quiet)


def _pairs(option: str, form: str, settings: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip() or ("." in form and "." not in name):
            raise BundleError(option, "bad-setting", f"'{setting}' is not {form}")
        pairs[name.strip()] = value
    return pairs
