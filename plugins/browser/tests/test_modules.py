"""The page's modules compute what the runtime does: noise, tokens, shapes, pixels."""

from __future__ import annotations

import json
import re
import unicodedata
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime import pixels
from guidegraph_runtime.bundle.manifest import Part, Tensor
from guidegraph_runtime.declare.settings import Range
from guidegraph_runtime.noise import gaussian, raw_bits
from guidegraph_runtime.operations import OPERATIONS, schedule
from guidegraph_runtime.sessions.broadcasting import broadcast
from guidegraph_runtime.text.chunks import encode, list_vocabulary, load_tokenizer, unknown_words, unknown_words_message
from plugins.browser.tests.modules import run_script
from tests.paths import ROOT

TOKENIZER = ROOT / "workflows" / "models" / "scenes" / "tokenizer.json"
TEXTS = [
    "a tiger on grass under a night sky",
    "A Penguin, near   snow.And [UNK] a saill boat!!",
    "İstanbul ΑΣ naïve tiger️ 日本 x_1 ½ ² a‍b",
    "",
    " ".join(["a tiger in a meadow"] * 9),
]


def test_the_page_is_small_and_names_no_other_host() -> None:
    pages = [file for file in files("guidegraph_browser").joinpath("static").iterdir() if file.is_file()]
    texts = {file.name: file.read_text(encoding="utf-8") for file in pages}
    assert {"index.html", "worker.js"} <= texts.keys()
    assert [name for name, text in texts.items() if re.search(r"https?:|//[a-z]", text)] == []
    assert sum(len(text.encode()) for text in texts.values()) <= 100_000


def test_noise_bits_are_those_of_numpy(tmp_path: Path) -> None:
    draws = [("0", 8, None), (str(2**64 - 1), 1001, 0), ("12345678901234567", 400, 2**32), ("18", 5, 999)]
    script = """
    import { rawBits } from "./noise.js";
    const toWords = (bits) => new BigUint64Array(bits.slice().buffer);
    show(given.map(([seed, count, index]) => toWords(rawBits(BigInt(seed), count, index))));
    """
    for (seed, count, index), words in zip(draws, run_script(tmp_path, script, draws), strict=True):
        assert [int(word) for word in words] == raw_bits(int(seed), count, index).tolist()


def test_noise_is_the_engine_s_in_float32(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const draw = (seed) => OPERATIONS["noise.gaussian"]({ seed, shape: [3, 25, 19], batch: 2n, index: 4n });
    show(given.map((seed) => draw(BigInt(seed))));
    """
    seeds = [0, 7, 2**63, 2**64 - 2]
    for seed, drawn in zip(seeds, run_script(tmp_path, script, [str(seed) for seed in seeds]), strict=True):
        values = np.array(drawn["data"], np.float32).reshape(drawn["dims"])
        assert np.array_equal(values, gaussian(seed, (3, 25, 19), 2, 4))


def test_seeds_that_do_not_fit_are_refused_as_in_the_runtime(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const draw = (seed) => OPERATIONS["noise.gaussian"]({ seed: BigInt(seed), shape: [2], batch: 2n }).dims;
    show(given.map((seed) => catchMessage(() => draw(seed))));
    """
    accepted, negative, beyond = run_script(tmp_path, script, [str(2**64 - 2), "-1", str(2**64 - 1)])
    assert accepted == [2, 2]
    assert negative["message"] == "seed: expected at least 0, found -1"
    assert beyond["message"].endswith(f"found {2**64}")


def test_a_list_has_a_seed_or_a_label_for_each_picture(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const draw = (seed, batch) => catchMessage(() => OPERATIONS["noise.gaussian"]({ seed, shape: [5], batch }));
    const label = (label, batch) => catchMessage(() => OPERATIONS["label.constant"]({ label, batch, classes: 9 }));
    show([draw([7n, 2n ** 64n - 1n], 1n), draw([7n, 1n], 3n), draw([1n, 2n ** 64n], 2n), draw([], 1n),
      label([3n, 8n], 2n), label([3n, 8n], 3n), label([3n, 9n], 2n), label([], null)]);
    """
    drawn, *refused = run_script(tmp_path, script)
    expected = OPERATIONS["noise.gaussian"](seed=[7, 2**64 - 1], shape=[5])["out"]
    assert np.array_equal(np.array(drawn["data"], np.float32).reshape(drawn["dims"]), expected)
    labels = refused.pop(3)
    assert (labels["dims"], labels["data"]) == ([2], ["3", "8"])
    assert [problem["message"] for problem in refused] == [
        "2 seeds cannot fill a batch of 3",
        f"a seed is from 0 to 2⁶⁴ − 1, found {2**64}",
        "0 seeds cannot fill a batch of 0",
        "2 labels do not make a batch of 3: give one label, or a list with one for each picture",
        "the classes are 0 … 8, found label 9",
        "0 labels do not make a batch of 1: give one label, or a list with one for each picture",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{ index: -1n }", "index: expected at least 0, found -1"),
        ("{ shape: [3, 0] }", "shape[1]: expected at least 1, found 0"),
        ("{ batch: 0n }", "batch: expected at least 1, found 0"),
        ("{ seed: 1.5 }", "seed: expected a whole number of at least 0, found 1.5"),
        (
            "{ seed: { dims: [2], data: BigUint64Array.of(1n, 2n) } }",
            "seed: expected a whole number of at least 0, found an array (2)",
        ),
    ],
)
def test_settings_of_noise_are_checked(tmp_path: Path, settings: str, message: str) -> None:
    script = f"""
    import {{ OPERATIONS }} from "./operations.js";
    show(catchMessage(() => OPERATIONS["noise.gaussian"]({{ shape: [2], ...{settings} }})));
    """
    assert run_script(tmp_path, script) == {"message": message}


def test_a_constant_of_64_bits_is_a_seed_and_a_graph_s_input(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"seed": np.array(2**64 - 1, np.uint64)}, tmp_path / "tables.safetensors")
    script = """
    import { OPERATIONS } from "./operations.js";
    import { cast, readSafetensors, toTensor } from "./tensors.js";
    const bytes = readFileSync("tables.safetensors");
    const { seed } = readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const noise = OPERATIONS["noise.gaussian"]({ seed, shape: [4] });
    show([seed, toTensor(2n ** 64n - 1n), noise.data, cast(toTensor(2n ** 60n + 1n), "uint64").data]);
    """
    seed, parameter, noise, exact = run_script(tmp_path, script)
    assert seed == parameter == {"dtype": "uint64", "dims": [], "data": [str(2**64 - 1)]}
    assert np.array_equal(np.array(noise, np.float32), gaussian(2**64 - 1, (4,), 1)[0])
    assert exact == [str(2**60 + 1)]


RANGES = [{}, {"low": 0, "high": 9}, {"above": 0}, {"below": 1.5}, {"high": 3}, {"above": -1, "below": 2}]


@pytest.mark.parametrize("bounds", RANGES)
def test_bounds_are_worded_and_checked_as_in_the_runtime(tmp_path: Path, bounds: dict[str, float]) -> None:
    script = """
    import { describeBounds, isWithin } from "./bounds.js";
    show([describeBounds(given.bounds), given.numbers.map((number) => isWithin(given.bounds, number))]);
    """
    numbers = [-1, 0, 1, 1.5, 2, 3, 9, 10]
    allowed = Range(**bounds)
    expected = [allowed.describe(), [allowed.contains(number) for number in numbers]]
    assert run_script(tmp_path, script, {"bounds": bounds, "numbers": numbers}) == expected


RUN = """
import { PlanRun } from "./plan.js";
const progress = async () => {};
const call = async (part, inputs) => ({ y: inputs.label });
const parts = { encode: { inputs: [{ name: "label", dtype: "int64", dims: ["batch"] }] } };
const loop = (over) => ({ op: "loop", node: "sample", in: {}, body: [],
  with: { over, item: "t", index: "i", next: {}, collect: { all: "t" }, result: {} } });
const read = async (plan, values, name) => {
  const run = new PlanRun({ values, parts, progress, call });
  return run.run(plan).then(() => run.read(name), ({ message }) => ({ message }));
};
"""


def test_a_loop_over_a_number_runs_that_often_and_not_less_than_0_times(tmp_path: Path) -> None:
    script = """
    const table = { dtype: "int64", dims: [], data: BigInt64Array.of(2n) };
    const counts = [["params.n", { "params.n": 3n }], ["table", { table }], [0, {}], [-1, {}], ["n", { n: -2n }]];
    const results = [];
    for (const [over, values] of counts) results.push(await read([loop(over)], values, "all"));
    show(results);
    """
    assert run_script(tmp_path, RUN + script) == [
        {"dtype": "int64", "dims": [3], "data": ["0", "1", "2"]},
        {"dtype": "int64", "dims": [2], "data": ["0", "1"]},
        {"dtype": "float32", "dims": [0], "data": []},
        {"message": "sample (loop): expected 0 or more iterations, found -1"},
        {"message": "sample (loop): expected 0 or more iterations, found -2"},
    ]


def test_lists_are_items_of_a_loop_and_a_batch_of_a_graph(tmp_path: Path) -> None:
    script = """
    const plan = [{ op: "part", node: "encode", in: { label: "label" }, out: ["y"] }];
    const mixed = [1n, 2n ** 63n];
    const items = await read([loop("params.n")], { "params.n": [7n, 3n, 5n] }, "all");
    show([items, await read(plan, { label: [4n, 2n] }, "y"), toTensor([1n, 2.5]), toTensor(mixed)]);
    """
    all_items, given, numbers, large = run_script(tmp_path, RUN + 'import { toTensor } from "./tensors.js";' + script)
    assert all_items == {"dtype": "int64", "dims": [3], "data": ["7", "3", "5"]}
    assert given == {"dtype": "int64", "dims": [2], "data": ["4", "2"]}
    assert numbers == {"dtype": "float64", "dims": [2], "data": [1, 2.5]}
    assert large == {"dtype": "uint64", "dims": [2], "data": ["1", str(2**63)]}


def test_noise_of_one_sample_is_not_repeated_for_several(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const dtypes = Object.entries({ x: "float32", label: "int64" });
    parts.step = { inputs: dtypes.map(([name, dtype]) => ({ name, dtype, dims: ["batch"] })) };
    const plan = [{ op: "part", node: "step", in: { x: "x", label: "label" }, out: ["y"] }];
    const draw = OPERATIONS["noise.gaussian"];
    const noise = (batch) => ({ ...draw({ seed: 1n, shape: [1], batch }), dims: [Number(batch)] });
    const results = [];
    for (const batch of [1n, 2n]) results.push(await read(plan, { x: noise(batch), label: [4n, 2n] }, "y"));
    show(results);
    """
    refused, drawn = run_script(tmp_path, RUN + script)
    message = "step (part): 'x' is the noise of one sample where another value has 2: make the batch 2"
    assert refused == {"message": message}
    assert drawn["data"] == ["4", "2"]


def test_a_graph_is_given_no_number_out_of_the_bounds_of_its_input(tmp_path: Path) -> None:
    script = """
    const ranges = { label: { low: 0, high: 9 } };
    const plan = [{ op: "part", node: "encode", in: { label: "label" }, out: ["y"], ranges }];
    const label = (...data) => ({ dtype: "int64", dims: [data.length], data: BigInt64Array.from(data, BigInt) });
    show([await read(plan, { label: label(0, 9) }, "y"), await read(plan, { label: label(3, 12) }, "y")]);
    """
    accepted, refused = run_script(tmp_path, RUN + script)
    assert accepted["data"] == ["0", "9"]
    message = "encode (part): 'label': expected numbers of at least 0 and at most 9, found 12"
    assert refused == {"message": message}


@pytest.mark.parametrize("length", [None, 7])
def test_tokens_and_unknown_words_are_those_of_the_tokenizers_package(tmp_path: Path, length: int | None) -> None:
    script = """
    import { Words } from "./words.js";
    const words = new Words(given.tokenizer, given.length);
    show(given.texts.map((text) => words.encode(text)));
    """
    given = {"tokenizer": json.loads(TOKENIZER.read_bytes()), "length": length, "texts": TEXTS}
    tokenizer = load_tokenizer(TOKENIZER.read_bytes(), length)
    ids, mask = encode(tokenizer, TEXTS)
    encoded = run_script(tmp_path, script, given)
    assert [text["ids"] for text in encoded] == ids.tolist()
    assert [text["mask"] for text in encoded] == mask.astype(int).tolist()
    assert [text["unknown"] for text in encoded] == [unknown_words(tokenizer, text) for text in TEXTS]


def random_texts(count: int, words: list[str]) -> list[str]:
    """Texts of known words, of added tokens, and of characters of Unicode 3.2, whose properties no program lacks."""
    known = unicodedata.ucd_3_2_0
    characters = [chr(code) for code in range(0x11000) if known.category(chr(code)) not in ("Cn", "Co", "Cs")]
    pieces = ["[UNK]", "[unk]", "don't", "DON", "a.b*", "\U0001f600", " ", "\n", "ΑΣ", "İ", "\u200d", *words]
    random = Random(46)

    def piece() -> str:
        if random.random() < 0.5:
            return random.choice(pieces)
        return "".join(random.choices(characters, k=random.randrange(1, 4)))

    return ["".join(piece() + " " * random.randrange(2) for _ in range(random.randrange(30))) for _ in range(count)]


@pytest.mark.parametrize("added", [[], ["[PAD]", "don", "don't", "a.b*", "\U0001f600", "ǅ"]])
def test_random_texts_have_the_tokens_of_the_tokenizers_package(tmp_path: Path, added: list[str]) -> None:
    script = """
    import { Words } from "./words.js";
    const words = new Words(given.tokenizer);
    show(given.texts.map((text) => words.encode(text)));
    """
    data = json.loads((ROOT / "workflows" / "models" / "scenes_128" / "tokenizer.json").read_bytes())
    (unknown,) = data["added_tokens"]
    data["added_tokens"] += [{**unknown, "id": 900 + i, "content": content} for i, content in enumerate(added)]
    data["model"]["vocab"] |= {content: 900 + i for i, content in enumerate(added)}
    texts = random_texts(400, [*data["model"]["vocab"]])
    tokenizer = load_tokenizer(json.dumps(data).encode())
    ids, mask = encode(tokenizer, texts)
    encoded = run_script(tmp_path, script, {"tokenizer": data, "texts": texts})
    assert [text["ids"] for text in encoded] == ids.tolist()
    assert [text["mask"] for text in encoded] == mask.astype(int).tolist()
    assert [text["unknown"] for text in encoded] == [unknown_words(tokenizer, text) for text in texts]


def test_suggestions_for_unknown_words_are_the_runtime_s(tmp_path: Path) -> None:
    script = """
    import { Words, unknownWordsMessage } from "./words.js";
    const own = new Words(given.tokenizer).list();
    show([unknownWordsMessage(given.words, own), unknownWordsMessage(given.words, given.many), own]);
    """
    words = ["Tigger", "sunflowr", "treee", "umbrela", "beech", "xylophone", "seaside", "und", "ballon", "carr"]
    words += ["ß" * 50, *(f"qz{i}" for i in range(30))]
    known = list_vocabulary(load_tokenizer(TOKENIZER.read_bytes()))
    many = sorted({*known, *(f"{first}{last}e" for first in known for last in known)})[:457]
    given = {"tokenizer": json.loads(TOKENIZER.read_bytes()), "words": words, "many": many}
    few_message, many_message, listed = run_script(tmp_path, script, given)
    assert listed == known
    assert few_message == unknown_words_message(words, known)
    # A reader of the page has no folder of weights to look into.
    many_words = unknown_words_message(words, many).removesuffix("; tokenizer.json beside its weights lists all")
    assert many_message == many_words


BROADCASTS: list[dict[str, tuple[str, list[Any]]]] = [
    {"x": ("float32", [3, 2, 2, 4]), "t": ("float32", [1]), "slots": ("float32", [4]), "scale": ("float64", [])},
    {
        "x": ("float32", [1, 2, 2, 4]),
        "t": ("float32", [1]),
        "slots": ("float32", [4, 1, 2, 2, 4]),
        "scale": ("int64", []),
    },
    {
        "x": ("float64", [2, 2, 1, 3]),
        "t": ("int64", [2]),
        "slots": ("float32", [4, 2, 2, 1, 3]),
        "scale": ("float64", [2]),
    },
    {"x": ("float32", [2, 2, 1, 3]), "t": ("float32", [3]), "slots": ("float32", [4]), "scale": ("float64", [])},
    {"x": ("float32", [2, 5, 1, 3]), "t": ("float32", [1]), "slots": ("float32", [4]), "scale": ("float64", [])},
]
DUE = (
    Tensor("x", "float32", ("batch", 2, "height", "width")),
    Tensor("t", "float32", ("batch",)),
    Tensor("slots", "float32", (4, "batch", 2, "height", "width")),
    Tensor("scale", "float32", ("batch",)),
)


@pytest.mark.parametrize("shapes", BROADCASTS)
def test_values_are_broadcast_to_a_graph_as_in_the_runtime(
    tmp_path: Path, shapes: dict[str, tuple[str, list[Any]]]
) -> None:
    script = """
    import { broadcast, cast } from "./tensors.js";
    const toTensor = ({ dtype, dims, data }) => cast({ dtype: "float64", dims, data }, dtype);
    const values = Object.fromEntries(Object.entries(given.values).map(([name, value]) => [name, toTensor(value)]));
    show(catchMessage(() => broadcast(given.due, values)));
    """
    values = {
        name: (np.arange(np.prod(dims, dtype=int)).reshape(dims) - 2).astype(dtype)
        for name, (dtype, dims) in shapes.items()
    }
    given = {
        "due": [{"name": tensor.name, "dtype": tensor.dtype, "dims": tensor.dims} for tensor in DUE],
        "values": {
            name: {"dtype": str(value.dtype), "dims": value.shape, "data": value.ravel().tolist()}
            for name, value in values.items()
        },
    }
    actual = run_script(tmp_path, script, given)
    try:
        expected = broadcast(Part("step.onnx", DUE, (), {}), values)
    except ValueError:
        assert [*actual] == ["message"]
        return
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name]["dtype"] == str(array.dtype)
        assert np.array_equal(np.array(actual[name]["data"]).reshape(actual[name]["dims"]), array)


def test_pixels_round_as_the_runtime_s(tmp_path: Path) -> None:
    script = """
    import { toPictures } from "./pictures.js";
    const { dims, data } = given;
    show(toPictures("image", { dtype: "float32", dims, data: Float32Array.from(data) }));
    """
    halves = (np.arange(-3, 259, dtype=np.float32) + np.float32(0.5)) / np.float32(127.5) - 1
    values = np.concatenate([halves, np.random.default_rng(0).uniform(-1.2, 1.2, 26).astype(np.float32)])
    image = values[: 3 * 8 * 12].reshape(1, 3, 8, 12)
    (drawn,) = run_script(tmp_path, script, {"dims": image.shape, "data": image.ravel().tolist()})
    actual = np.array(drawn["pixels"]).reshape(8, 12, 4)
    assert (drawn["width"], drawn["height"]) == (12, 8)
    assert np.array_equal(actual[..., :3], pixels(image[0]))
    assert (actual[..., 3] == 255).all()


@pytest.mark.parametrize(
    "interval",
    [
        {},
        {"low": 5, "high": 20},
        {"schedule": schedule.cosine(train_steps=40), "low": 0.1, "high": 1.5},
        {"schedule": schedule.flow(train_steps=40), "low": 0.1, "high": 0.6},
        {"schedule": schedule.edm(train_steps=40), "low": 0.5},
    ],
)
def test_guidance_acts_in_the_interval_of_the_runtime(tmp_path: Path, interval: dict[str, Any]) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const times = (data) => ({ dtype: "float32", dims: [data.length], data: Float32Array.from(data) });
    const run = (data) => OPERATIONS["guidance.interval"]({ t: times(data), scale: 3.25, ...given.settings });
    show([run(given.times), ...given.times.map((time) => run([time]))]);
    """
    times = np.linspace(0, 39, 61).astype(np.float32)
    settings = {name: value for name, value in interval.items() if name != "schedule"}
    if "schedule" in interval:
        settings["schedule.alphas_bar"] = {"data": interval["schedule"]["alphas_bar"].tolist()}
        settings["schedule.form"] = interval["schedule"]["form"]
    scales, *each = run_script(tmp_path, script, {"times": times.tolist(), "settings": settings})
    expected = OPERATIONS["guidance.interval"](t=times, scale=3.25, **interval)["out"]
    assert scales["dims"] == [len(times)]
    assert scales["data"] == [number["data"][0] for number in each] == expected.tolist()
    assert all(number["dims"] == [] for number in each)
    assert not interval or {*scales["data"]} == {1, 3.25}


@pytest.mark.parametrize("settings", [{}, {"columns": 3, "gap": 0, "background": -0.5}])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_become_pictures_and_sheets_as_in_the_runtime(
    tmp_path: Path, channels: int, settings: dict[str, Any]
) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const sample = { dtype: "float32", dims: given.dims, data: Float32Array.from(given.data) };
    const image = OPERATIONS["image.from_sample"]({ sample });
    show([image, OPERATIONS["image.grid"]({ image, ...given.settings })]);
    """
    sample = np.random.default_rng(1).normal(size=(5, channels, 4, 6)).astype(np.float32)
    given = {"dims": sample.shape, "data": sample.ravel().tolist(), "settings": settings}
    image = OPERATIONS["image.from_sample"](sample=sample)["out"]
    sheet = OPERATIONS["image.grid"](image=image, **settings)["out"]
    for actual, expected in zip(run_script(tmp_path, script, given), (image, sheet), strict=True):
        assert actual["dims"] == [*expected.shape]
        assert np.array_equal(np.array(actual["data"], np.float32).reshape(expected.shape), expected)


def test_settings_of_a_sheet_are_checked(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const image = { dtype: "float32", dims: [4, 3, 8, 8], data: new Float32Array(768) };
    const grid = (settings) => OPERATIONS["image.grid"]({ image, ...settings }).dims;
    const settings = [{ columns: 0n }, { gap: -8n }, { background: 2 }, { columns: 2n, gap: 0n }];
    show(settings.map((item) => catchMessage(() => grid(item))));
    """
    assert run_script(tmp_path, script) == [
        {"message": "columns: expected at least 1, found 0"},
        {"message": "gap: expected at least 0, found -8"},
        {"message": "background: expected -1 to 1, found 2"},
        [1, 3, 16, 16],
    ]


def test_labels_are_checked(tmp_path: Path) -> None:
    script = """
    import { OPERATIONS } from "./operations.js";
    const label = (value) => OPERATIONS["label.constant"]({ label: BigInt(value), batch: 3n, classes: 10 });
    show(given.map((value) => catchMessage(() => label(value).data)));
    """
    accepted, refused = run_script(tmp_path, script, [9, 10])
    assert accepted == ["9", "9", "9"]
    assert refused["message"] == "the classes are 0 … 9, found label 10"


@pytest.mark.parametrize(("thrown", "reason"), [("new Error('no memory')", "no memory"), ("1234", "1234")])
def test_an_error_of_onnxruntime_names_the_graph(tmp_path: Path, thrown: str, reason: str) -> None:
    script = f"""
    import {{ PlanRun }} from "./plan.js";
    const call = async () => {{ throw {thrown}; }};
    const run = new PlanRun({{ values: {{ x: 1 }}, parts: {{ encode: {{ inputs: [] }} }}, call }});
    const error = await run.run([{{ op: "part", node: "encode", in: {{}}, out: [] }}]).catch((error) => error);
    show([error.constructor.name, error.message]);
    """
    assert run_script(tmp_path, script) == ["PageError", f"encode (part): onnxruntime: {reason}"]


def test_inputs_may_have_the_names_of_a_form_s_properties_and_buttons(tmp_path: Path) -> None:
    script = """
    import { buildFields, readFields } from "./form.js";
    const appended = [];
    const createElement = (tag) => ({ tag, append: (...items) => appended.push(...items) });
    globalThis.document = { createElement };
    const fields = buildFields({ append: () => {} }, given, []);
    show([readFields(fields, given), appended.map(({ tag, type, textContent }) => [tag, type, textContent])]);
    """
    names = ["length", "draw", "action", "constructor"]
    given = {name: {"type": "int", "default": str(value)} for value, name in enumerate(names)}
    values, appended = run_script(tmp_path, script, given)
    assert values == {name: str(value) for value, name in enumerate(names)}
    field = [["input", None, None], ["p", None, ""]]
    assert appended == [element for name in names for element in (["label", None, name], *field)]


def test_a_field_s_number_is_within_its_bounds(tmp_path: Path) -> None:
    script = """
    import { readValue } from "./form.js";
    const read = (text) => catchMessage(() => readValue("label", { type: "int", bounds: { low: 0, high: 9 } }, text));
    show(given.map(read));
    """
    refused = {"message": "label: expected an integer of at least 0 and at most 9, found 12"}
    assert run_script(tmp_path, script, ["9", "12"]) == ["9", refused]


@pytest.mark.parametrize(
    ("type", "text", "expected"),
    [
        ("int", " 18446744073709551615 ", "18446744073709551615"),
        ("int", "1.5", {"message": "x: expected an integer, found '1.5'"}),
        ("int", "", {"message": "x: expected an integer, found ''"}),
        ("float", "-2.5e1", -25.0),
        ("float", "inf", {"message": "x: expected a number, found 'inf'"}),
        ("str", " a, b ", " a, b "),
        ("bool", "true", True),
    ],
)
def test_a_field_has_a_value_of_its_type(tmp_path: Path, type: str, text: str, expected: Any) -> None:
    script = """
    import { readValue } from "./form.js";
    show(catchMessage(() => readValue("x", { type: given.type, choices: null }, given.text)));
    """
    assert run_script(tmp_path, script, {"type": type, "text": text}) == expected
