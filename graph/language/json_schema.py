"""The JSON Schema (2020-12) of the workflow language and all installed nodes, for editors.

It covers what can be checked in one file: keys, node ids, port names, settings and literals. Links, types and loops
are checked by ``guidegraph validate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

from guidegraph.graph.language.parameters import list_enums
from guidegraph.graph.node import NodeSpec, Registry
from guidegraph.graph.node_json import format_signature, read_parameter_docs
from guidegraph.graph.port import Port
from guidegraph.graph.training import precision as training_precision
from guidegraph.graph.training.options import OWN_OPTIONS
from guidegraph.graph.types import takes_literal

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = r"^[^\W\d]\w*$"
NAME = r"^(?!(params|carry|loop)$)[^\W\d]\w*$"
LINK = r"^[^\W\d]\w*(\.[^\W\d]\w*)*$"
MAPPING = ["object", "null"]
FILE = r"\.ya?ml$"
SCALARS = ("Any", "bool", "dict", "float", "int", "list", "Path", "str")


def json_schema(registry: Registry) -> Schema:
    """The schema of a workflow that uses the nodes of ``registry``."""
    literals, shared = _literal_schemas(registry.nodes.values())
    nodes = [registry.nodes[id] for id in sorted(registry.nodes)]
    return {
        "$schema": DIALECT,
        "title": "guidegraph workflow",
        "type": "object",
        "required": ["guidegraph", "nodes", "outputs"],
        "properties": {
            "guidegraph": {"const": 1, "description": "The version of the workflow language."},
            "name": {"type": "string"},
            "description": {"type": "string"},
            "requires": {
                "type": MAPPING,
                "description": "Plugin distributions that the workflow needs, with their versions.",
                "additionalProperties": {"type": "string"},
            },
            "params": {
                "type": MAPPING,
                "description": "Values that can be set from outside: a default, or {default, type, help}.",
                "propertyNames": {"pattern": IDENTIFIER},
                "additionalProperties": {"$ref": "#/$defs/parameter"},
            },
            "nodes": {"$ref": "#/$defs/nodes"},
            "outputs": _link_mapping_schema("The results, by name.", minProperties=1),
        },
        "additionalProperties": False,
        "$defs": {
            **_language_schemas(registry, nodes),
            **{f"node:{spec.id}": _node_schema(spec, literals) for spec in nodes},
            **shared,
        },
    }


def _language_schemas(registry: Registry, nodes: list[NodeSpec]) -> dict[str, Schema]:
    types = [*SCALARS, *sorted({*registry.types, *list_enums(registry)})]
    declaration = {
        "properties": {
            "default": {"description": "The default value; without one, the parameter is required."},
            "type": {"type": "string", "description": f"One of {', '.join(types)}, …", "examples": types},
            "help": {"type": "string", "description": "A description for the command line."},
        },
        "additionalProperties": False,
    }
    link = {"type": "string", "pattern": LINK, "description": "node.port, node, params.NAME, carry.NAME or loop.NAME"}
    return {
        "link": link,
        "links": {"type": "array", "items": {"$ref": "#/$defs/link"}},
        "parameter": {"if": {"type": "object"}, "then": declaration},
        "nodes": {
            "type": "object",
            "description": "Nodes by name.",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": {
                "type": "object",
                "if": {"required": ["loop"]},
                "then": {"$ref": "#/$defs/loop"},
                "else": {
                    "if": {"required": ["choose"]},
                    "then": {"$ref": "#/$defs/choice"},
                    "else": {"$ref": "#/$defs/call"},
                },
            },
        },
        "call": _call_schema(nodes),
        "loop": _loop_schema(),
        "choice": _choice_schema(),
        "trained": _train_entry_schema(),
    }


def _call_schema(nodes: list[NodeSpec]) -> Schema:
    use = {
        "type": "string",
        "description": "A node's id, or the relative path of a workflow.",
        "if": {"pattern": FILE},
        "else": {
            "enum": [spec.id for spec in nodes],
            "enumDescriptions": [spec.summary for spec in nodes],
            "markdownEnumDescriptions": [_format_markdown(spec) for spec in nodes],
        },
    }
    return {
        "required": ["use"],
        "properties": {
            "use": use,
            "in": {"type": MAPPING, "description": "Links, by port or setting."},
            "with": {"type": MAPPING, "description": "Literals, by setting or port."},
        },
        "additionalProperties": False,
        "allOf": _dispatch_by_id([spec.id for spec in nodes]),
    }


def _dispatch_by_id(ids: list[str]) -> list[Schema]:
    """Conditions that apply a node's schema to its calls.

    They ask for the namespace first (``image`` of ``image.load``): validators try each condition of a list.
    """
    namespaces: dict[str, list[str]] = {}
    for id in ids:
        namespaces.setdefault(id.partition(".")[0], []).append(id)
    return [
        {
            "if": {"required": ["use"], "properties": {"use": {"enum": members}}},
            "then": {
                "allOf": [
                    {"if": {"properties": {"use": {"const": id}}}, "then": {"$ref": f"#/$defs/node:{id}"}}
                    for id in members
                ]
            },
        }
        for members in namespaces.values()
    ]


def _node_schema(spec: NodeSpec, literals: dict[str, Schema]) -> Schema:
    docs = read_parameter_docs(spec)
    ports = spec.ports.values()
    required = [p.name for p in ports if p.required]
    conditions = [
        {"anyOf": [{"required": [k], "properties": {k: {"required": [n]}}} for k in ("in", "with")]} for n in required
    ]
    link: Schema = {"$ref": "#/$defs/link"}
    link_or_list = {"anyOf": [link, {"$ref": "#/$defs/links"}]}
    links = {
        p.name: (link if p.type.sequence is None else link_or_list) | {"description": _describe_port(p, docs)}
        for p in ports
    }
    values = {
        p.name: literals[f"{spec.id} {p.name}"] | {"description": _describe_port(p, docs)}
        for p in ports
        if takes_literal(p.type)
    }
    schema: Schema = {
        "properties": {
            "use": {"description": spec.summary, "markdownDescription": _format_markdown(spec)},
            "in": {"properties": links, "additionalProperties": False},
            "with": {"properties": values, "additionalProperties": False},
        },
    }
    return schema | ({"allOf": conditions} if conditions else {})


def _describe_port(port: Port, docs: dict[str, str]) -> str:
    default = "required" if port.required else f"default {port.default!r}"
    text = docs.get(port.name, "")
    return f"{port.type}, {default}" + (f": {text}" if text else "")


def _format_markdown(spec: NodeSpec) -> str:
    return f"**{spec.id}** {format_signature(spec)}\n\n{spec.doc}"


def _choice_schema() -> Schema:
    branches = {
        "type": "object",
        "description": "Links by the value of 'when': text, a whole number, true or false.",
        "minProperties": 1,
        "propertyNames": {"not": {"enum": ["when", "otherwise"]}},
        "additionalProperties": {"$ref": "#/$defs/link"},
    }
    choice = {
        "type": "object",
        "description": "Selects one of several branches; only that branch is computed.",
        "required": ["when", "of"],
        "properties": {
            "when": {"$ref": "#/$defs/link"},
            "of": branches,
            "otherwise": {"$ref": "#/$defs/link"},
        },
        "additionalProperties": False,
    }
    return {"required": ["choose"], "properties": {"choose": choice}, "additionalProperties": False}


def _loop_schema() -> Schema:
    return {
        "required": ["loop", "body"],
        "properties": {
            "loop": {
                "type": "object",
                "description": "The values to iterate over, and the name of the item in the body (loop.NAME).",
                "required": ["over", "as"],
                "properties": {
                    "over": {"$ref": "#/$defs/link"},
                    "as": {"type": "string", "pattern": IDENTIFIER, "not": {"const": "index"}},
                },
                "additionalProperties": False,
            },
            "carry": _link_mapping_schema("Values carried from one iteration to the next, with their initial values."),
            "body": {"$ref": "#/$defs/nodes"},
            "next": _link_mapping_schema("The next value of each carry."),
            "collect": _link_mapping_schema("Values stacked over the iterations."),
            **_training_schemas(),
        },
        "additionalProperties": False,
        "dependentSchemas": {
            "carry": {"anyOf": [{"required": ["next"]}, {"required": ["train"]}]},
            **{name: {"required": ["train"]} for name in ("steps", "precision", "checkpoint", "seed", "preview")},
        },
    }


def _training_schemas() -> dict[str, Schema]:
    """The schemas of a loop's training keys."""
    return {
        "train": {
            "type": "array",
            "description": "Carried models to train, each with its loss.",
            "minItems": 1,
            "items": {"$ref": "#/$defs/trained"},
        },
        "steps": {
            "description": "The number of training steps, or a link to it.",
            "anyOf": [{"type": "integer", "minimum": 0}, {"$ref": "#/$defs/link"}],
        },
        "precision": {
            "description": "auto is bf16 if the hardware supports it, else fp32.",
            "enum": list(training_precision.PRECISIONS),
            "default": training_precision.DEFAULT_PRECISION,
        },
        "seed": {"type": "integer", "description": "The seed of torch's generator during training."},
        "checkpoint": {
            "type": "object",
            "description": "The folder and interval of checkpoints, from which training resumes.",
            "required": ["path"],
            "properties": {
                "path": {"type": "string"},
                "every": {"type": "integer", "minimum": 1},
                "check": {"type": "boolean", "description": "False resumes even if the workflow has changed."},
            },
            "additionalProperties": False,
        },
        "preview": {
            "type": "object",
            "description": "A node or workflow that is run regularly on the models trained so far.",
            "required": ["every", "use"],
            "properties": {
                "every": _number_schema("integer", "Steps between previews; 0 for none.", minimum=0),
                "use": {"type": "string"},
                "in": {"type": "object", "additionalProperties": {"$ref": "#/$defs/link"}},
                "with": {"type": "object"},
            },
            "additionalProperties": False,
        },
    }


def _number_schema(kind: str, description: str = "", **limits: float) -> Schema:
    """The schema of a number, or of a link to a parameter."""
    annotations = {"description": description} if description else {}
    return {"anyOf": [{"type": kind, **limits}, {"type": "string", "pattern": r"^params\."}], **annotations}


def _train_entry_schema() -> Schema:
    return {
        "type": "object",
        "required": ["model", "loss"],
        "properties": {
            "model": {"type": "string", "description": "The carry that is trained."},
            "loss": {"$ref": "#/$defs/link"},
            "optimizer": {"enum": [*OWN_OPTIONS]},
            "lr": _number_schema("number", "The learning rate.", exclusiveMinimum=0),
            "ema": _number_schema("number", "Decay of the average.", minimum=0, exclusiveMaximum=1),
            "start": _number_schema("integer", "The step at which training of this model begins.", minimum=0),
            "warmup": _number_schema("integer", "Steps over which the rate grows.", minimum=0),
            "ema_warmup": {
                "type": "boolean",
                "description": "Whether the average adapts faster at first.",
                "default": False,
            },
            "schedule": {
                "enum": ["constant", "cosine", "linear"],
                "description": "The schedule of the learning rate after the warm-up.",
            },
            "clip": _number_schema("number", "The largest norm of the gradient.", exclusiveMinimum=0),
            "betas": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            "weight_decay": _number_schema("number", minimum=0),
            "eps": _number_schema("number", minimum=0),
            "momentum": _number_schema("number", minimum=0),
        },
        "additionalProperties": False,
    }


def _link_mapping_schema(description: str, **more: Any) -> Schema:
    return {
        "type": "object",
        "description": description,
        "propertyNames": {"pattern": IDENTIFIER},
        "additionalProperties": {"$ref": "#/$defs/link"},
        **more,
    }


def _literal_schemas(specs: Iterable[NodeSpec]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """pydantic's schemas of all ports and settings that take literals, by ``id port``, and their shared definitions."""
    from pydantic import TypeAdapter

    schemas_by_port: dict[str, Schema] = {}
    inputs: list[tuple[str, Any, Any]] = []
    for spec in specs:
        for port in spec.ports.values():
            if not takes_literal(port.type):
                continue
            key = f"{spec.id} {port.name}"
            try:
                port.adapter.json_schema()
            except Exception:  # pydantic has no JSON schema of this type; the loader still checks it
                schemas_by_port[key] = {}
            else:
                inputs.append((key, "validation", port.adapter))
            has_json = isinstance(port.default, (bool, int, float, str, list))
            has_json &= not isinstance(port.default, float) or math.isfinite(port.default)
            schemas_by_port[key] = {"default": port.default} if has_json else {}
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/$defs/{model}")
    for (key, _), schema in schemas.items():
        schemas_by_port[key] = schemas_by_port[key] | {k: v for k, v in schema.items() if k != "title"}
    return schemas_by_port, definitions.get("$defs", {})
