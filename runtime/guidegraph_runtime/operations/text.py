"""Replace words in texts, and tokenise texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_fields, check_flag, check_int
from guidegraph_runtime.checks import check_texts as list_of_texts
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, Label, NotEmpty, Range
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.text.chunks import (
    Chunker,
    encode,
    load_tokenizer,
    make_chunk_tables,
    parse_prompt,
    warn_of_unknown_words,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Tokens(NamedTuple):
    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]


@operation("text.replace")
def replace(text: str | Sequence[str], *, words: dict[str, str]) -> list[str]:
    """Replace words or phrases in texts: only whole words, longer phrases first.

    words: a table from old words (in any case) to new ones. Raises an error for an empty word.
    """
    if not isinstance(words, Mapping) or not all(isinstance(word, str) for pair in words.items() for word in pair):
        raise SettingError("words", f"words: expected a table from words to words; found {words!r:.80}")
    if not all(words):
        raise SettingError("words", "an empty word cannot be replaced: take it out of `words`")
    texts = list_of_texts("text", text)
    if not words:
        return texts
    pairs = {word.lower(): (word, replacement) for word, replacement in words.items()}
    longest_first = sorted(pairs.values(), key=lambda pair: len(pair[0]), reverse=True)
    pattern = re.compile("|".join(_whole_word(word) for word, _ in longest_first), re.IGNORECASE)
    # The group tells which word matched; its lower case does not: ſ matches s.
    return [pattern.sub(lambda match: longest_first[int(match.lastindex or 0) - 1][1], item) for item in texts]


def _whole_word(word: str) -> str:
    """A pattern of a word or phrase, as one group, outside of longer words."""
    before = "" if word[0].isspace() else r"(?<!\w)"
    after = "" if word[-1].isspace() else r"(?!\w)"
    return f"{before}({re.escape(word)}){after}"


@operation(
    "text.tokenize",
    output_help={"ids": "token ids of the texts, padded", "mask": "true where a token counts"},
)
def tokenize(
    texts: str | Sequence[str], *, tokenizer: bytes, length: Count | None = None, weighted: bool = False
) -> Tokens:
    """Token ids (B, L), int64, and the mask (B, L), bool, false at padding. It is not a node: nodes embed texts.

    tokenizer: a tokenizer.json, as the `tokenizers` package writes it. length: L, to which texts are truncated and
    padded; by default the tokenizer's. weighted: parse brackets like `text.weighted`, but refuse weights.
    Unknown words become its [UNK], if it has one, with a warning that names them.
    Raises an error for an invalid tokenizer, and if texts have different lengths.
    """
    text_list = _check_texts(texts)
    if weighted:
        text_list = [_without_weights(text) for text in text_list]
    loaded_tokenizer = _tokenizer(tokenizer, length)
    ids, mask = encode(loaded_tokenizer, text_list)
    warn_of_unknown_words(loaded_tokenizer, text_list, ids)
    return Tokens(ids, mask)


@operation("text.chunks")
def chunks(
    texts: str | Sequence[str],
    beside: Sequence[str | Sequence[str]] = (),
    *,
    towers: Sequence[Mapping[str, Any]],
    weighted: bool = False,
) -> dict[str, NDArray[Any]]:
    """Inputs of CLIP's and T5's text encoders for B texts. It is not a node: nodes embed texts.

    towers: for each encoder its tokenizer (a tokenizer.json), the length of a chunk, the ids of its marks `start` (None
    for T5) and `end`, one or a list of them, and of `pad`, and its learned words, each with its ids; `single`, which
    cuts longer texts to one chunk, with a warning, is false unless it is given.
    beside: the texts of other calls, such as the negative prompts, each a text or a list of them.
    weighted: `(word:1.3)` gives a word a weight.
    Returns, for encoder i, `ids_i` (B, n, length), int64, and `weights_i` (B, n, length), float32; and `some` (B),
    bool, true where a text is not empty. The number of chunks n is the longest text's, among the texts in ``beside``
    too, or 1 for a single chunk; shorter texts end with empty chunks.
    """
    text_list = _check_texts(texts)
    if not isinstance(towers, (list, tuple)) or not towers:
        raise ValueError(f"towers: expected a list of one encoder or more; found {towers!r:.80}")
    other_texts = [text for item in beside for text in _check_texts(item)]
    prompts, prompts_beside = (
        [parse_prompt(text) if weighted else [(text, 1.0)] for text in items] for items in (text_list, other_texts)
    )
    outputs: dict[str, NDArray[Any]] = {}
    chunkers = [_chunker(f"towers[{i}]", tower) for i, tower in enumerate(towers)]
    for i, table in enumerate(make_chunk_tables(chunkers, prompts, prompts_beside)):
        outputs |= {f"ids_{i}": table.ids, f"weights_{i}": table.weights.astype(np.float32)}
    return outputs | {"some": np.array([any(text for text, _ in prompt) for prompt in prompts])}


def _chunker(name: str, tower: Mapping[str, Any]) -> Chunker:
    settings = check_fields(name, tower, "tokenizer", "length", "start", "end", "pad", "words")
    loaded = _tokenizer(settings["tokenizer"], None)
    pad = check_int(f"{name}.pad", settings["pad"], low=0)
    start = [] if settings["start"] is None else _check_marks(f"{name}.start", settings["start"])
    end = _check_marks(f"{name}.end", settings["end"])
    single = check_flag(f"{name}.single", settings.get("single", False))
    if not isinstance(settings["words"], Mapping):
        raise ValueError(f"{name}.words: expected a table from words to ids; found {settings['words']!r:.80}")
    words = {
        word: [check_int(f"{name}.words.{word}", id, low=0) for id in ids] for word, ids in settings["words"].items()
    }
    length = check_int(f"{name}.length", settings["length"], low=len(start) + len(end) + 1)
    return Chunker(
        lambda text: loaded.encode(text, add_special_tokens=False).ids, length, start, end, pad, words, single
    )


def _check_marks(name: str, marks: object) -> list[int]:
    """The ids of a mark, which is one id or a list of them. Raises ``ValueError``."""
    if isinstance(marks, (list, tuple)):
        return [check_int(f"{name}[{i}]", id, low=0) for i, id in enumerate(marks)]
    return [check_int(name, marks, low=0)]


def _check_texts(texts: str | Sequence[str]) -> list[str]:
    text_list = list_of_texts("texts", texts)
    if not text_list:
        raise SettingError("texts", "there are no texts: give one, or a list of at least one")
    return text_list


def _tokenizer(data: object, length: int | None) -> Tokenizer:
    if not isinstance(data, bytes):
        raise ValueError(f"tokenizer: expected the bytes of a tokenizer.json; found {type(data).__name__}")
    return load_tokenizer(data, length)


def _without_weights(text: str) -> str:
    fragments = parse_prompt(text)
    if any(weight != 1 for _, weight in fragments):
        raise SettingError(
            "texts",
            f"'{text:.60}' gives a word a weight, which this model's text encoder does not know: write a backslash "
            "before a bracket that is one",
        )
    return "".join(fragment for fragment, _ in fragments)


MAX_LABEL = 2**63 - 1
Class: TypeAlias = Annotated[int, Range(low=0, below=2**63)]


def constant_shape(label: Any, batch: Any) -> tuple[int, ...]:
    """The shape of the result of `label.constant`. Raises ``ValueError`` if the number of labels is not `batch`."""
    count = None if batch is None else check_int("batch", batch, low=1)
    if not isinstance(label, (list, tuple)) and not (isinstance(label, np.ndarray) and label.ndim):
        return (count or 1,)
    if not len(label):
        raise SettingError("label", "label: expected one label or more; found an empty list")
    if count is not None and len(label) != count:
        raise SettingError(
            "label",
            f"{len(label)} labels do not make a batch of {count}: give one label, or a list with one for each picture",
        )
    return (len(label),)


@operation("label.constant", shape=constant_shape, output_help="class indices", copies="label")
def constant(
    *, label: Class | Annotated[list[Class], NotEmpty()], batch: Count | None = None, classes: Count | None = None
) -> Label:
    """Class indices as a label (B), int64: one number for all ``batch`` samples (or for 1), or a list with one each.

    classes: the number of classes. Without it, the null class, whose index is that number, is allowed too.
    Raises an error for a list of another length than ``batch``, and for a label outside the classes.
    """
    (count,) = constant_shape(label, batch)
    check_limit("elements", count, f"a batch of {count:,} labels")
    if isinstance(label, (list, tuple)) or (isinstance(label, np.ndarray) and label.ndim):
        labels = [check_int(f"label[{i}]", item, low=0, high=MAX_LABEL) for i, item in enumerate(label)]
    else:
        labels = [check_int("label", label, low=0, high=MAX_LABEL)] * count
    if classes is not None and max(labels) >= classes:
        raise SettingError("label", f"the classes are 0 … {classes - 1}; found label {max(labels)}")
    return np.array(labels, dtype=np.int64)


def cycle_shape(batch: Any) -> tuple[int, ...]:
    """The shape of the result of `label.cycle`."""
    return (check_int("batch", batch, low=1),)


@operation("label.cycle", shape=cycle_shape, output_help="class indices")
def cycle(*, classes: Count, batch: Count = 1, start: Class = 0) -> Label:
    """Labels (batch) that cycle through the classes: start, start + 1, …, classes − 1, 0, …"""
    check_limit("elements", batch, f"a batch of {batch:,} labels")
    return (np.arange(batch, dtype=np.int64) + start % classes) % classes
