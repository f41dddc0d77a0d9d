"""The command ``guidegraph-serve``: serve bundles over HTTP, without torch."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from guidegraph_runtime.command import (
    PROVIDERS,
    CommandParser,
    end_process,
    end_with_code,
    parse_threads,
    read_limits,
    show_version,
)
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.limits import enforce_limits
from guidegraph_runtime.machine.memory import parse_size
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.jobs import LEVELS, ServeOptions, parse_count, parse_pixels, parse_seconds

T = TypeVar("T")
DEFAULTS = ServeOptions()
TOKEN = "GUIDEGRAPH_TOKEN"
"""The environment variable of the token, which other users of the machine do not see."""
VARIABLES = "GUIDEGRAPH_SERVE_"
_LINK = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""What Kubernetes sets for services whose names begin with guidegraph-serve; their ``_PORT`` is ``tcp://…``."""
_EXAMPLES = """\
examples:
  guidegraph-serve scenes
  guidegraph-serve scenes portraits=bundles/portraits-v2 --memory 8GB --batch 16
  GUIDEGRAPH_TOKEN=… guidegraph-serve scenes --host 0.0.0.0 --port 8080

Each option may be a variable of the environment instead: GUIDEGRAPH_SERVE_MAX_STEPS=50 is --max-steps 50.
Those that may be repeated, and GUIDEGRAPH_SERVE_BUNDLES, have spaces between their values.

exit codes: 0 drained after SIGTERM, SIGHUP or Ctrl-C, 1 the server failed, 2 the arguments or a bundle are wrong,
130 ended by a second signal
"""


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A type of an argument, from a function that raises ``ValueError``."""

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


_count, _pixels, _seconds = _argument(parse_count), _argument(parse_pixels), _argument(parse_seconds)
_size = _argument(parse_size)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and exit with 0 (drained), 1 (failed), 2 (wrong arguments, a bad bundle) or 130 (ended)."""
    end_with_code("guidegraph-serve", lambda: _command(arguments))


def process() -> NoReturn:
    """Run ``main`` and end the process at once."""
    end_process(main)


def _read_variables(parser: argparse.ArgumentParser) -> list[str]:
    """The arguments that the environment's variables stand for. An unknown variable or a wrong value is an error."""
    defaults = vars(parser.parse_args([]))
    names = {VARIABLES + name.upper(): name for name in defaults if name != "token"}
    arguments: list[str] = []
    for variable, text in os.environ.items():
        if not variable.startswith(VARIABLES) or _LINK.fullmatch(variable) or text.startswith("tcp://"):
            continue
        if variable == f"{VARIABLES}TOKEN":
            parser.error(f"{variable}: the variable of the token is {TOKEN}")
        if variable not in names:
            parser.error(f"{variable}: no option has this variable; {suggest_name(variable, names)}")
        name = names[variable]
        if name == "bundles":
            continue
        values = text.split() if isinstance(defaults[name], list) else [text]
        settings = [f"--{name.replace('_', '-')}={value}" for value in values]
        try:
            _parser(exit_on_error=False).parse_args(settings)
        except argparse.ArgumentError as error:
            parser.error(f"{variable}: {error.message}")
        arguments += settings
    return arguments


def _parser(exit_on_error: bool = True) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="guidegraph-serve",
        description="Serve bundles of guidegraph export over HTTP; unlike requests share the calls of a step.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=exit_on_error,
    )
    add = parser.add_argument
    add("bundles", metavar="BUNDLE", nargs="*", default=[], help="the folder of a bundle, or NAME=FOLDER")
    add("--host", default="127.0.0.1", help="the address to listen on; one of other machines needs a token")
    add("--port", type=_port, default=8000, help="the port; 0 for any free one")
    add("--token", help=f"what requests must show as 'Authorization: Bearer TOKEN'; better: the variable {TOKEN}")
    add("--allow-origin", metavar="ORIGIN", type=_origin, action="append", default=[], help="admit the pages of a site")
    limits = (
        ("--batch", "N", _count, DEFAULTS.batch, "the most samples in one step, and of one request"),
        ("--queue", "N", _count, DEFAULTS.queue, "the most requests that have not ended; then 429"),
        ("--max-steps", "N", _count, DEFAULTS.steps, "the most steps of a request"),
        ("--max-seconds", "S", _seconds, DEFAULTS.seconds, "from a request's arrival to its end"),
        ("--max-body", "SIZE", _size, DEFAULTS.body_bytes, "of a request, such as 1MB"),
        ("--max-upload", "SIZE", _size, DEFAULTS.upload_bytes, "of a request with pictures"),
        ("--max-pixels", "N", _pixels, DEFAULTS.pixels, "of a picture, sent or drawn: 2048x2048"),
        ("--run-memory", "SIZE", _size, DEFAULTS.run_memory, "for the values of a bundle's open runs"),
        ("--memory", "SIZE", _size, None, "for the files of open bundles; by default all stay open"),
    )
    for name, metavar, parse, default, help in limits:
        add(name, metavar=metavar, type=parse, default=default, help=help)
    add("--provider", choices=PROVIDERS, default="auto", help="where to compute; auto takes the best one available")
    add("--threads", metavar="N", type=parse_threads, default=0, help="threads per operator; 0 is one per core")
    add("--limit", metavar="NAME=VALUE", action="append", default=[], help="change a limit of all runs: trips=20M")
    add("--log-level", choices=LEVELS, default="info", help="the least level of the lines of the log")
    add("--version", action="version", version=f"guidegraph-serve {show_version()}")
    return parser


def _command(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    own = sys.argv[1:] if arguments is None else [*arguments]
    parser.parse_args(own)  # first, since --help and --version need no variables
    options = parser.parse_args([*_read_variables(parser), *own])
    options.bundles = options.bundles or os.environ.get(f"{VARIABLES}BUNDLES", "").split()
    if not options.bundles:
        parser.error(f"expected the folder of a bundle, as an argument or in {VARIABLES}BUNDLES")
    token = read_token(options.token, options.host)
    folders = read_folders(options.bundles)
    from guidegraph_serve.web.answers import ServeAccess
    from guidegraph_serve.web.server import serve

    settings = SessionSettings.on(options.provider, intra_threads=options.threads)
    limits = ServeOptions(
        batch=options.batch,
        run_memory=options.run_memory,
        queue=options.queue,
        steps=options.max_steps,
        seconds=options.max_seconds,
        body_bytes=options.max_body,
        upload_bytes=options.max_upload,
        pixels=options.max_pixels,
        bundle_memory=options.memory,
    )
    with enforce_limits(read_limits(options.limit)):
        access = ServeAccess(token, tuple(options.allow_origin))
        return serve(folders, settings, limits, access, options.host, options.port, options.log_level)


def read_token(token: str | None, host: str) -> str | None:
    """The token of the option or the environment. Raises ``BundleError`` where one is needed and absent."""
    from guidegraph_serve.web.answers import is_loopback

    source = TOKEN if token is None else "--token"
    token = os.environ.get(TOKEN) if token is None else token
    if token is not None and (not token.strip() or not token.isascii() or not token.isprintable()):
        raise BundleError(source, "bad-token", "expected printable ASCII characters")
    if token is None and not is_loopback(host):
        message = f"other machines reach '{host}': set {TOKEN}, or listen on 127.0.0.1"
        raise BundleError("--host", "needs-token", message)
    return None if token is None else token.strip()


def read_folders(bundles: Sequence[str]) -> dict[str, Path]:
    """The folders of bundles by name: NAME of ``NAME=FOLDER``, or the folder's own. Raises ``BundleError``."""
    folders: dict[str, Path] = {}
    for text in bundles:
        name, equals, folder = text.partition("=")
        path = Path(folder) if equals else Path(text)
        name = name if equals else path.resolve().name
        if name in folders:
            raise BundleError(text, "name-taken", f"two bundles have the name '{name}': write NAME=FOLDER for one")
        if not name or "/" in name or not name.isprintable():
            raise BundleError(text, "bad-name", "expected NAME=FOLDER with a name of printable characters and no '/'")
        folders[name] = path
    return folders


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, found {text!r}")
    return int(text)


def _origin(text: str) -> str:
    """A site as browsers write it in the header ``Origin``."""
    match = re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a site without a path, such as https://a.org, found {text!r}")
    return match[0]
