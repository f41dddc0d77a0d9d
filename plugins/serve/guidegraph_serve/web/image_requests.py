"""Requests and answers of ``POST /v1/images/generations`` and ``/edits``, in the dialect of OpenAI's clients."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.inputs import parse_input
from guidegraph_serve.jobs import DrawRequest, Job, RequestRefused
from guidegraph_serve.shelf import ShelfEntry
from guidegraph_serve.uploads import SENT_TYPES, check_picture, decode_files, read_openai_mask
from guidegraph_serve.web.bodies import DEADLINE, NODES, PRIORITY, BodyField, read_json_text

COUNT_INPUT = "batch"
"""The input that ``n`` sets, in bundles that have it."""
SIZE_INPUTS = ("width", "height")
"""The inputs that ``size`` sets."""
SEED_INPUT = "seed"
"""The input that differs between the runs for ``n`` pictures of a bundle without that one."""
MAX_PARTIALS = 3
SAME = {"output_format": ("png",), "response_format": ("b64_json",)}
OPTIONS_OF_OTHERS = tuple(
    BodyField(name, (str,), "a text", "auto", limits={"enum": ["auto", *SAME.get(name, ())]})
    for name in ("response_format", "background", "moderation", "output_format", "quality", "style")
)
"""Fields that OpenAI's own models have: "auto" is accepted, and so is what this server does anyway."""
COMPRESSION = BodyField("output_compression", (int,), "a whole number", 100, limits={"const": 100})
"""A number that OpenAI's own models take, of which this server has one."""
USERS = tuple(BodyField(name, (str,), "a text", help="ignored") for name in ("safety_identifier", "user"))
COUNT = BodyField("n", (int,), "a whole number", help="the number of pictures", limits={"minimum": 1})
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
SIZE = BodyField(
    "size",
    (str,),
    "WIDTHxHEIGHT or auto",
    "auto",
    "sets the parameters width and height, where a bundle has them",
    {"pattern": f"^(auto|{_SIZE.pattern})$"},
)
STREAM = BodyField("stream", (bool,), "true or false", False, "true: the answer is a stream of events")
PARTIALS = BodyField(
    "partial_images",
    (int,),
    "a whole number",
    0,
    "how many pictures of the unfinished sample a stream has",
    {"minimum": 0, "maximum": MAX_PARTIALS},
)
IMAGE_FIELDS = (NODES, PRIORITY, DEADLINE, COUNT, SIZE, *USERS, STREAM, PARTIALS, *OPTIONS_OF_OTHERS, COMPRESSION)
TEXTS = ("model", "prompt", *(field.name for field in IMAGE_FIELDS if field.kinds == (str,)))
"""Fields whose value is a text, even if it reads as JSON."""


@dataclass(frozen=True)
class ImageRequest:
    """A request for pictures. first: its first run. count: how many pictures of one or more runs; 0 for all of one.

    streams: whether the answer is a stream of events.
    """

    first: DrawRequest
    count: int = 0
    streams: bool = False

    def list_further(self, entry: ShelfEntry, samples: int) -> list[DrawRequest]:
        """The runs after the first one, each of which draws ``samples`` pictures."""
        params, inputs = self.first.params, entry.manifest.inputs
        return [
            replace(
                self.first,
                params={**params, SEED_INPUT: params.get(SEED_INPUT, inputs[SEED_INPUT].default) + drawn},
                partials=0,
            )
            for drawn in range(samples, self.count, samples)
        ]


def read_image_request(entry: ShelfEntry, body: dict[str, Any], most: int) -> ImageRequest:
    """The request for pictures of a bundle that a body without its ``model`` describes. Raises ``RequestRefused``.

    A field that is an input of the bundle sets that input. Else ``n`` sets the batch, or for a bundle without
    that input the number of runs, with a seed for each; ``size`` sets the inputs width and height. ``user`` and
    ``safety_identifier`` are ignored, as is everything that asks for what the server does in any case. A field that
    sets an input to another value than the request does is refused. most: the largest number of pictures from several
    runs.
    """
    if find_image_output(entry) is None:
        raise RequestRefused(f"'{entry.name}' draws no picture: use /v1/workflows/{entry.name}", "model")
    inputs = entry.manifest.inputs
    params = {name: body.pop(name) for name in [*body] if name in inputs and body[name] is not None}
    nodes, priority, deadline = NODES.take(body), PRIORITY.take(body), DEADLINE.take(body)
    count = COUNT.take(body)
    if count is not None and count < 1:
        raise RequestRefused(f"expected n of at least 1, found {count}", "n")
    _add(params, "n", {} if count is None or COUNT_INPUT not in inputs else {COUNT_INPUT: count})
    _add(params, "size", _read_size(entry, SIZE.take(body)))
    for field in USERS:
        field.take(body)
    streams = STREAM.take(body)
    partials = _read_partials(body, streams)
    for field in OPTIONS_OF_OTHERS:
        if (value := field.take(body)) not in field.limits["enum"]:
            expected = " or ".join(map(repr, field.limits["enum"]))
            raise RequestRefused(f"'{field.name}': expected {expected}, found {value!r:.80}", field.name)
    if (number := COMPRESSION.take(body)) != COMPRESSION.default:
        message = f"'{COMPRESSION.name}': expected {COMPRESSION.default}, found {number}"
        raise RequestRefused(message, COMPRESSION.name)
    params |= {name: value for name, value in body.items() if value is not None}  # unknown ones are refused by name
    runs = 0 if count is None or COUNT_INPUT in inputs else _check_runs(entry, params, count, most)
    params = decode_files(inputs, params)
    return ImageRequest(DrawRequest(entry.name, params, nodes, priority, deadline, partials=partials), runs, streams)


def _read_partials(body: dict[str, Any], streams: bool) -> int:
    count: int = PARTIALS.take(body)
    if not 0 <= count <= MAX_PARTIALS:
        message = f"'partial_images': expected 0 to {MAX_PARTIALS}, found {count}"
        raise RequestRefused(message, "partial_images")
    if count and not streams:
        raise RequestRefused("'partial_images': expected 'stream': true with them", "partial_images")
    return count


def read_form_fields(entry: ShelfEntry, body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a form, whose values are texts, by the types of the bundle's inputs; others are JSON or texts."""
    inputs = entry.manifest.inputs

    def read(name: str, value: Any) -> Any:
        if not isinstance(value, str) or (name in inputs and inputs[name].type in SENT_TYPES):
            return value
        if name not in inputs:
            return value if name in TEXTS else read_json_text(value)
        try:
            return parse_input(name, inputs[name], value, entry.name)
        except BundleError as error:
            raise RequestRefused(error.message, name, error.code) from None

    return {
        name: [read(name, item) for item in value] if isinstance(value, list) else read(name, value)
        for name, value in body.items()
    }


def name_edited_inputs(entry: ShelfEntry, body: dict[str, Any]) -> dict[str, Any]:
    """The body of an edit with the names of the bundle's inputs for ``image`` and ``mask``. Raises ``RequestRefused``.

    Each is the input of that name, or else the only one of that type. A mask is converted from OpenAI's form, so the
    limits of pixels should be in force.
    """
    renamed = dict(body)
    if renamed.get("image") is None:
        raise RequestRefused("expected a picture in 'image'", "image")
    for field in ("image", "mask"):
        value = renamed.pop(field, None)
        if value is None:
            continue
        name = find_file_input(entry, field)
        takes_many = entry.manifest.inputs[name].many
        if isinstance(value, list) and not takes_many:
            if len(value) != 1:
                raise RequestRefused(f"'{field}': '{entry.name}' takes one picture, found {len(value)}", field)
            value = value[0]
        value = decode_files(entry.manifest.inputs, {name: value})[name]
        if field == "mask" and isinstance(value, bytes):
            check_picture(field, value)
            value = read_openai_mask(value)
        _add(renamed, field, {name: value})
    return renamed


def find_file_input(entry: ShelfEntry, kind: str) -> str:
    """The input that a field of an edit sets. Raises ``RequestRefused`` if there is none, or a choice."""
    names = [name for name, spec in entry.manifest.inputs.items() if spec.type == kind]
    if kind in names or len(names) == 1:
        return kind if kind in names else names[0]
    reason = f"has the inputs {', '.join(names)}: name one of them" if names else "has no input of that type"
    raise RequestRefused(f"'{kind}': '{entry.name}' {reason}", kind)


def _add(params: dict[str, Any], field: str, values: Mapping[str, Any]) -> None:
    """Add the inputs that a field sets. Raises ``RequestRefused`` if one has another value already."""
    for name, value in values.items():
        if params.setdefault(name, value) != value:
            reason = f"sets '{name}' to {value!r:.80}, and the request has {params[name]!r:.80}"
            message = f"'{field}' {reason}: leave one of them out"
            raise RequestRefused(message, field)


def _check_runs(entry: ShelfEntry, params: dict[str, Any], count: int, most: int) -> int:
    """The number of pictures. Raises ``RequestRefused`` if the bundle has no seed, or for too many."""
    if count == 1:
        return 1
    spec = entry.manifest.inputs.get(SEED_INPUT)
    if spec is None or spec.type != "int":
        message = (
            f"expected n = 1: '{entry.name}' has neither an input '{COUNT_INPUT}' nor '{SEED_INPUT}'; found {count}"
        )
        raise RequestRefused(message, "n")
    seed = params.get(SEED_INPUT, spec.default)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise RequestRefused(f"expected one whole number as the seed of the first of {count} pictures", SEED_INPUT)
    if count > most:
        raise RequestRefused(f"it draws {count} pictures, and this server allows {most}", "n", "over-limit")
    return count


def _read_size(entry: ShelfEntry, size: str) -> dict[str, int]:
    if size == "auto":
        return {}
    match = _SIZE.fullmatch(size)
    if match is None:
        raise RequestRefused(f"'size': expected WIDTHxHEIGHT or auto, found {size!r:.80}", "size")
    if not {*SIZE_INPUTS} <= entry.manifest.inputs.keys():
        raise RequestRefused(f"'size': '{entry.name}' has no inputs width and height: leave it out", "size")
    return {name: int(side) for name, side in zip(SIZE_INPUTS, match.groups(), strict=True)}


def find_image_output(entry: ShelfEntry) -> str | None:
    """The first output of a bundle that is a picture; None without one."""
    return next((name for name, output in entry.manifest.outputs.items() if output.type == "image"), None)


def describe_pictures(entry: ShelfEntry, jobs: Sequence[Job], count: int = 0) -> list[dict[str, Any]]:
    """The pictures of jobs that are done, each in base64; count: how many, or 0 for all."""
    output = find_image_output(entry)
    assert output is not None
    pictures = [picture for job in jobs for picture in job.outputs[output]["data"]]
    return pictures[:count] if count else pictures


def answer_images(entry: ShelfEntry, jobs: Sequence[Job], count: int = 0) -> dict[str, Any]:
    """The answer to a request whose jobs are done; count: the pictures that it has, or 0 for all."""
    texts = list(dict.fromkeys(text for job in jobs for text in job.warnings))
    answer = {"created": int(jobs[0].created), "data": describe_pictures(entry, jobs, count)}
    return answer | ({"warnings": texts} if texts else {})
