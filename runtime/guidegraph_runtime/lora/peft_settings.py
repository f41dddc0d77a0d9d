"""peft's settings of a LoRA, from its folder or from the header of a file: α, and how the rank enters the scale."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegraph_runtime.errors import format_value
from guidegraph_runtime.files.regular_files import read_regular

LONGEST_PATTERN = 1000
LONGEST_NAME = 200
"""The longest name of a layer to which a pattern is compared."""

CHOICES = 4
"""Most choices of a pattern: the time to match grows exponentially with them."""

PER_QUANTIFIER = 2
"""Choices that a quantifier counts as; `|` in a group counts as one."""

RULES = (
    r"regular expressions for the names of layers, of letters, digits, '.', '\.', '^', '$', '|', classes such as "
    rf"[0-9], groups without a quantifier, and at most {CHOICES // PER_QUANTIFIER} quantifiers, or {CHOICES} '|' in "
    "groups, or one quantifier and half as many '|'"
)

_ATOM = r"(?:\\[.dw-]|\[\^?[\w.-]+\]|[\w.-])"
_QUANTIFIER = r"(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})"
_TOKEN = re.compile(rf"(?P<repeated>{_ATOM}{_QUANTIFIER})|{_ATOM}|(?P<mark>\((?:\?:)?|[)^$|])")


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile the pattern that matches names of layers which end as `text` says, from the start or a dot.

    Raises ``ValueError`` for text that is not a regular expression within the rules.
    """
    if len(text) > LONGEST_PATTERN:
        raise ValueError("the pattern is too long")
    position = depth = choices = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"the pattern has {text[position]!r} in a place where it is not read")
        choices += PER_QUANTIFIER * (token["repeated"] is not None)
        mark = token["mark"] or ""
        depth += mark.startswith("(") - (mark == ")")
        if depth < 0:
            raise ValueError("the pattern closes a group that it has not opened")
        choices += mark == "|" and depth > 0
        position = token.end()
    if choices > CHOICES:
        raise ValueError("the pattern has too many quantifiers or alternatives")
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except re.error as error:
        raise ValueError(str(error)) from None


METADATA = "lora_adapter_metadata"
"""The key of the safetensors header under which diffusers stores peft's settings."""

PREFIXES = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.")
"""Prefixes of the networks in names of layers, and of their settings in the header."""

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Alphas:
    """peft's settings of one network: α, and how the rank enters the scale. α defaults to the rank.

    patterns: the α of the layers whose names, without the network's prefix, end as the pattern says.
    """

    alpha: float | None = None
    patterns: Mapping[re.Pattern[str], float] | None = None
    square_root: bool = False
    prefix: str = ""

    def scale(self, layer: str, rank: int, alpha: float | None) -> float:
        """α/r of a layer, or α/√r (Kalajdzievski 2023). alpha: the value in the file, which overrides the settings."""
        if alpha is None:
            name = layer.removeprefix(self.prefix)
            matching = [value for pattern, value in (self.patterns or {}).items() if pattern.match(name)]
            alpha = matching[0] if matching else self.alpha
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.square_root else rank)


@dataclass(frozen=True)
class PeftSettings:
    """The settings as they were read. source: the file that holds them, for messages."""

    fields: Mapping[str, Any]
    source: str

    def alphas(self, layers: Mapping[str, Any]) -> dict[str, Alphas]:
        """The settings for each layer: those with the prefix of its network, or all, in a folder for one network.

        Raises ``ValueError``, which names the file, for a setting of a wrong type, and for a DoRA.
        """
        prefixes = {layer: next((name for name in PREFIXES if layer.startswith(name)), "") for layer in layers}
        networks = {prefix: self._network(prefix) for prefix in {*prefixes.values()}}
        for layer, prefix in prefixes.items():
            if networks[prefix].patterns and len(layer) > LONGEST_NAME:
                raise ValueError(
                    f"'{self.source}': 'alpha_pattern' is read for names of layers of up to {LONGEST_NAME} characters, "
                    f"and {format_value(layer)} has {len(layer)}: the file is damaged"
                )
        return {layer: networks[prefix] for layer, prefix in prefixes.items()}

    def _network(self, prefix: str) -> Alphas:
        own = {name.removeprefix(prefix): name for name in self.fields if name.startswith(prefix)}
        if "use_dora" in own and self._flag(own["use_dora"]):
            raise ValueError(
                f"'{self.source}' is not a LoRA that can be applied: it is a DoRA, and only pairs of low rank are read"
            )
        alpha = self.fields[own["lora_alpha"]] if "lora_alpha" in own else None
        return Alphas(
            None if alpha is None else self._number(own["lora_alpha"], alpha),
            self._patterns(own["alpha_pattern"]) if "alpha_pattern" in own else None,
            "use_rslora" in own and self._flag(own["use_rslora"]),
            prefix,
        )

    def _flag(self, name: str) -> bool:
        value = self.fields[name]
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value is True

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        raise self._wrong(name, "a finite number", value)

    def _patterns(self, name: str) -> dict[re.Pattern[str], float]:
        patterns = self.fields[name] or {}
        if not isinstance(patterns, dict):
            raise self._wrong(name, "an object of patterns and numbers", patterns)
        alphas = {}
        for text, value in patterns.items():
            try:
                pattern = compile_pattern(text)
            except (ValueError, OverflowError, RecursionError):
                raise self._wrong(name, RULES, text) from None
            alphas[pattern] = self._number(f"{name}.{text}", value)
        return alphas

    def _wrong(self, name: str, expected: str, value: object) -> ValueError:
        return ValueError(
            f"'{self.source}': '{name}': expected {expected}, found {format_value(value)}; correct it, or save the "
            "LoRA again"
        )


def read_folder_settings(folder: Path) -> PeftSettings:
    """Read the settings in a folder written by peft. Raises ``ValueError`` that names the file, and ``OSError``."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"'{folder}' holds no {CONFIG}: peft did not write this folder, or its copy is incomplete")
    return PeftSettings(_parse(read_regular(path), str(path)), str(path))


def read_header_settings(path: Path) -> PeftSettings:
    """Read the settings in the header of a safetensors file written by diffusers; other files have none.

    Raises ``ValueError`` that names the file for settings that are damaged.
    """
    from safetensors import safe_open

    source = f"{path} ({METADATA} in its header)"
    if path.suffix != ".safetensors" or not path.is_file():
        return PeftSettings({}, source)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA)
    except Exception:  # a damaged file: reading its tensors raises a better error
        text = None
    return PeftSettings(_parse(text, source) if text else {}, source)


def _parse(text: str | bytes, source: str) -> dict[str, Any]:
    """The settings in a text. Raises ``ValueError`` unless it is a JSON object."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError(f"'{source}' holds lists within lists, too deep to read: it is damaged") from None
    except ValueError as error:
        raise ValueError(f"'{source}' is not JSON: {error}; save the LoRA again") from None
    if not isinstance(fields, dict):
        raise ValueError(f"'{source}': expected an object of settings, found {format_value(fields)}")
    return fields
