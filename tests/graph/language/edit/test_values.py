"""Setting and removing values: the line that changes, in its style, and errors for paths that lead nowhere."""

from __future__ import annotations

import textwrap
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.language.edit.document import Document, parse_value
from guidegraph.graph.language.edit.paths import locate_value
from guidegraph.graph.language.edit.values import remove_value, set_value
from guidegraph.graph.language.yaml_tree import to_python
from tests.work_counter import count_calls

TEXT = """\
# A workflow.
guidegraph: 1
requires: {guidegraph-apg: ">=0.1", my.package: "1"}
params:
  prompt: {default: "a tiger", help: "what to draw"}   # said aloud
  scale: 4.0
  mode: 'fast'
  steps:
    default: 30   # thirty
    help: "steps"
  shape:
    - 4
    - 16
  empty:
nodes:
  model:    {use: model.load, with: {path: "pkg:scenes"}}
  positive: {use: text.encode, in: {embedder: model.text, prompt: params.prompt}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise}
    body:
      # The guidance.
      guided:
        use: guidance.cfg
        in:
          cond: cond  # with
          uncond: uncond
        with: {scale: 7.5, kind: fast}
      mixed: {use: a.b, in: {many: [one, two.x]}, with: {list: [1, [2, 3]], "quoted": {deep: 1}}}
    next: {x: guided}
    train:
      - {model: x, loss: l, lr: 1e-3}
      - model: y
        loss: m
  chosen: {choose: {when: params.mode, of: {fast: a, 1.5: b}}}
outputs: {image: sample.x}
"""


class Level(IntEnum):
    HIGH = 3


def edit_line(before: str, after: str) -> str:
    """The text with one line replaced; an empty ``after`` removes it."""
    assert TEXT.count(f"{before}\n") == 1
    return TEXT.replace(f"{before}\n", f"{after}\n" if after else "")


SETS = [
    ("params.prompt.default", "a cat", '  prompt: {default: "a cat", help: "what to draw"}   # said aloud'),
    ("params.prompt", "a cat", '  prompt: {default: "a cat", help: "what to draw"}   # said aloud'),
    ("params.prompt.help", 'a "word"', '  prompt: {default: "a tiger", help: "a \\"word\\""}   # said aloud'),
    ("params.prompt.type", "str", '  prompt: {default: "a tiger", type: str, help: "what to draw"}   # said aloud'),
    ("params.scale", 6, "  scale: 6.0"),
    ("params.scale.default", 1e-07, "  scale: 1e-07"),
    ("params.scale.help", "s", '  scale: {default: 4.0, help: "s"}'),
    ("params.mode", "it's", "  mode: 'it''s'"),
    ("params.steps.default", 50, "    default: 50   # thirty"),
    ("params.empty", "x", "  empty: x"),
    ("nodes.model.with.path", "b.pt", '  model:    {use: model.load, with: {path: "b.pt"}}'),
    ("nodes.model.use", "model.other", '  model:    {use: model.other, with: {path: "pkg:scenes"}}'),
    ("nodes.model.with.n", None, '  model:    {use: model.load, with: {path: "pkg:scenes", n: null}}'),
    ("nodes.model.in.path", "params.x", "  model:    {use: model.load, in: {path: params.x}}"),
    (
        "nodes.positive.with.prompt",
        "",
        '  positive: {use: text.encode, in: {embedder: model.text}, with: {prompt: ""}}',
    ),
    ("nodes.sample.loop.over", "params.steps", "    loop: {over: params.steps, as: t}"),
    ("nodes.sample.loop.as", "step", "    loop: {over: scheduler.steps, as: step}"),
    ("nodes.sample.carry.y", "noise", "    carry: {x: noise, y: noise}"),
    ("nodes.sample.body.guided.in.cond", "model", "          cond: model  # with"),
    ("nodes.sample.body.guided.with.kind", "slow", "        with: {scale: 7.5, kind: slow}"),
    ("nodes.sample.body.guided.with.kind", "a.b", '        with: {scale: 7.5, kind: "a.b"}'),
    ("nodes.sample.train.0.lr", 0.5, "      - {model: x, loss: l, lr: 0.5}"),
    ("nodes.sample.train.0.lr", "params.lr", "      - {model: x, loss: l, lr: params.lr}"),
    ("nodes.sample.train.1.loss", "n", "        loss: n"),
    ("nodes.chosen.choose.of.1.5", "c.x", "  chosen: {choose: {when: params.mode, of: {fast: a, 1.5: c.x}}}"),
    (
        "nodes.chosen.choose.otherwise",
        "c",
        "  chosen: {choose: {when: params.mode, of: {fast: a, 1.5: b}, otherwise: c}}",
    ),
    ("requires.my.package", ">=2", 'requires: {guidegraph-apg: ">=0.1", my.package: ">=2"}'),
    ("requires", {"my.package": "1.0", "b": ">=2"}, 'requires: {my.package: "1.0", b: ">=2"}'),
    ("outputs.image", "model", "outputs: {image: model}"),
    ("outputs.other", "model.x", "outputs: {image: sample.x, other: model.x}"),
]


@pytest.mark.parametrize(("path", "value", "line"), SETS, ids=[f"{path}={value}" for path, value, _ in SETS])
def test_set_changes_one_line(path: str, value: object, line: str) -> None:
    changed = set_value(Document.parse(TEXT), path, value).text.splitlines()
    before = TEXT.splitlines()
    assert len(changed) == len(before)
    assert [new for old, new in zip(before, changed, strict=True) if old != new] == [line]


@pytest.mark.parametrize(
    ("path", "value", "lines"),
    [
        ("description", "of: it", {2: 'description: "of: it"'}),
        ("nodes.sample.collect.x", "guided", {30: "    collect: {x: guided}"}),
        ("nodes.sample.body.guided.in.extra", "model", {27: "          extra: model"}),
        ("nodes.sample.steps", "params.steps", {34: "    steps: params.steps"}),
        ("nodes.sample.checkpoint", {"path": "2024", "check": ""}, {34: '    checkpoint: {path: "2024", check: ""}'}),
        ("nodes.sample.preview", {"every": 2, "use": "a.b"}, {34: "    preview: {every: 2, use: a.b}"}),
        ("params.new", {"default": 1, "help": "x"}, {14: '  new: {default: 1, help: "x"}'}),
        ("nodes.new", {"use": "a.b"}, {35: "  new: {use: a.b}"}),
    ],
)
def test_set_adds_a_line(path: str, value: object, lines: dict[int, str]) -> None:
    expected = TEXT.splitlines()
    for number, line in lines.items():
        expected.insert(number, line)
    assert set_value(Document.parse(TEXT), path, value).text.splitlines() == expected


def test_a_list_in_lines_becomes_one_line() -> None:
    changed = set_value(Document.parse(TEXT), "params.shape", [4, 8]).text
    assert changed == TEXT.replace("  shape:\n    - 4\n    - 16\n", "  shape: [4, 8]\n")
    item = set_value(Document.parse(TEXT), "params.shape.1", 8).text
    assert item == edit_line("    - 16", "    - 8")


def test_a_list_of_links_is_set_whole_or_by_item() -> None:
    document = Document.parse(TEXT)
    whole = set_value(document, "nodes.sample.body.mixed.in.many", ["a", "b.c", "d"])
    assert whole.text == TEXT.replace("[one, two.x]", "[a, b.c, d]")
    assert set_value(document, "nodes.sample.body.mixed.in.many.0", "a").text == TEXT.replace("[one, ", "[a, ")
    assert remove_value(document, "nodes.sample.body.mixed.in.many.0").text == TEXT.replace("[one, ", "[")


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("nodes.positive.in.prompt", ", prompt: params.prompt}", "}"),
        ("nodes.positive.in.embedder", "embedder: model.text, ", ""),
        ("nodes.sample.body.guided.in.cond", "          cond: cond  # with\n", ""),
        ("nodes.sample.body.guided.with", "        with: {scale: 7.5, kind: fast}\n", ""),
        ("nodes.model.with.path", ', with: {path: "pkg:scenes"}', ""),
        ("params.steps.help", '    help: "steps"\n', ""),
        ("nodes.sample.train.1", "      - model: y\n        loss: m\n", ""),
        ("requires", 'requires: {guidegraph-apg: ">=0.1", my.package: "1"}\n', ""),
        ("outputs.image", "{image: sample.x}", "{}"),
    ],
)
def test_remove_takes_the_entry_alone(path: str, before: str, after: str) -> None:
    assert TEXT.count(before) == 1
    assert remove_value(Document.parse(TEXT), path).text == TEXT.replace(before, after)


def test_a_mapping_in_a_literal_stays_when_it_is_empty() -> None:
    text = "nodes: {n: {use: a.b, with: {s: {in: {x: 1}, with: 2}}}}\n"
    assert remove_value(Document.parse(text), "nodes.n.with.s.in.x").text == text.replace("{x: 1}", "{}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("params.scael.default", 6, r":4:1: unknown-path: 'params' has no 'scael'; did you mean 'scale'\?"),
        ("params.scael", 6, r"no parameter 'scael'; did you mean 'scale'\?.*to add it, set it to \{default: …\}"),
        ("nodes.sampel.loop.over", "x", r":15:1: unknown-path: 'nodes' has no 'sampel'; did you mean 'sample'\?"),
        ("nodes.sampel", "x", r"no node 'sampel'; did you mean 'sample'\?.*to add it, set it to \{use: …, in"),
        ("nodes.sample.body.guidd.in.cond", "x", r"'nodes.sample.body' has no 'guidd'; did you mean 'guided'\?"),
        ("nodes.model.inn.x", "x", r"'nodes.model' has no 'inn'"),
        ("nodes.sample.body.mixed.with.list.7", 1, r"has no '7'; it is a list of 2, counted from 0"),
        ("nodes.sample.train.2.lr", 1, r"'nodes.sample.train' has no '2'; it is a list of 2"),
        ("graph", 1, r":2:1: unknown-path: the workflow has no 'graph'; did you mean 'guidegraph'"),
        ("", 1, r"unknown-path: the workflow has no ''"),
        ("params", 3, r"not-a-mapping: expected a mapping, found int '3'"),
        ("nodes.sample.loop", "t", r"not-a-mapping"),
        ("guidegraph", 2, r"'guidegraph' cannot be set"),
        ("nodes.model.in.path", 3, r"not-a-link: expected a link such as model.text, found int '3'"),
        ("nodes.model.in.path", {"a": 1}, r"not-a-link: expected a link such as model.text, found a mapping"),
        ("outputs.image", ["a"], r"not-a-link: expected a link such as model.text, found a list"),
        ("nodes.model.use", ["a"], r"bad-value: expected a text, found a list"),
        ("params.scale", object(), r"bad-value: expected a number, a text, a list or a mapping"),
        ("params.scale", "\ud800", r"bad-value: expected text of whole characters"),
    ],
)
def test_a_path_or_value_that_cannot_be_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        set_value(Document.parse(TEXT), path, value)


@given(
    st.one_of(
        st.text(), st.sampled_from(["on", "1e3", "0x1", "~", ".5", "- a", "a: b", "a #b", "|", "2020-01-01", "<<"])
    )
)
def test_any_text_is_read_back(text: str) -> None:
    for quote in ('"a tiger"', "'a tiger'", "a"):
        for form in ("params:\n  p: {}\n  q: 1\n", "params: {{p: {}, q: 1}}\n"):
            document = Document.parse(form.format(quote) if "{{" in form else form.replace("{}", quote))
            if any(0xD800 <= ord(character) < 0xE000 for character in text):
                continue
            changed = set_value(document, "params.p", text)
            assert to_python(changed.root) == {"params": {"p": text, "q": 1}}


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False),
        st.text("ab :#,[]{}\"'\n\\-"),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab: #"), inner, max_size=3)),
    max_leaves=6,
)


@given(plain)
def test_any_value_is_read_back(value: object) -> None:
    document = Document.parse("nodes:\n  n: {use: a, with: {s: 1, t: 2}}\n  m:\n    with:\n      s: 1\n      t: 2\n")
    for path in ("nodes.n.with.s", "nodes.m.with.s"):
        changed = set_value(document, path, value)
        assert to_python(locate_value(changed, path).tree) == value
        assert changed.text.count("t: 2") == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6", 6),
        ("-1e-4", -1e-4),
        ("true", True),
        ("null", None),
        ('"6"', "6"),
        ("'a'", "a"),
        ("a tiger: on # grass", "a tiger: on # grass"),
        ("[1, a, 'b c']", [1, "a", "b c"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("", ""),
        (" ", " "),
    ],
)
def test_a_value_on_the_command_line(text: str, value: object) -> None:
    assert to_python(parse_value(text)) == value


@pytest.mark.parametrize("text", ["[1, ", "{a: 1, a: 2}", "!!python/object:a {}", "[*a]", '"a" b', "{<<: {a: 1}}"])
def test_a_value_that_is_not_plain_yaml_is_refused(text: str) -> None:
    if text.startswith("!"):
        assert to_python(parse_value(text)) == text  # a text, and written as one
        return
    with pytest.raises(WorkflowError):
        parse_value(text)


@pytest.mark.parametrize(("value", "text"), [(np.float64(6.5), "6.5"), (np.float64("inf"), ".inf"), (Level.HIGH, "3")])
def test_subclasses_of_numbers_are_written_as_numbers(value: float, text: str) -> None:
    assert set_value(Document.parse("params: {p: 1}\n"), "params.p", value).text == f"params: {{p: {text}}}\n"


def test_comments_and_layout_between_braces_stay() -> None:
    text = textwrap.dedent(
        """\
        nodes:
          a: {
            use: x.y,   # the node
            in: {p: q,  # first
                 r: s}, # second
            with: {k: 1} }
        """
    )
    document = Document.parse(text)
    assert set_value(document, "nodes.a.in.r", "t.u").text == text.replace("r: s", "r: t.u")
    assert set_value(document, "nodes.a.with.m", 2).text == text.replace("{k: 1}", "{k: 1, m: 2}")
    removed = remove_value(document, "nodes.a.in.r")
    assert removed.text == text.replace("r: s", "")
    assert to_python(locate_value(removed, "nodes.a.in").tree) == {"p": "q"}


@pytest.mark.parametrize(("path", "value"), [("params.eta", {"default": 0.5}), ("params", {"eta": {"default": 0.5}})])
def test_the_first_parameter_is_added(path: str, value: object) -> None:
    document = Document.parse("guidegraph: 1\nnodes: {}\n")
    assert set_value(document, path, value).text == "guidegraph: 1\nparams: {eta: {default: 0.5}}\nnodes: {}\n"


def test_empty_values_and_groups_are_filled() -> None:
    document = Document.parse("guidegraph: 1\nparams:\nnodes: {a: {use: b, in: {}, with: }, c: }\noutputs:\n")
    document = set_value(document, "nodes.a.in.p", "q")
    document = set_value(document, "nodes.a.with.s", 1)
    document = set_value(document, "params.x", {"default": 3})
    document = set_value(document, "outputs.o", "a")
    lines = ["params: {x: {default: 3}}", "nodes: {a: {use: b, in: {p: q}, with: {s: 1}}, c: }", "outputs: {o: a}"]
    assert document.text.splitlines() == ["guidegraph: 1", *lines]


@pytest.mark.parametrize("head", ["|", "|-", "|+", ">", ">+"])
def test_block_texts_stay_as_they_are_beside_an_edit(head: str) -> None:
    lines = [f"description: {head}", "  one", "  two", "", "params:", "  a:", f"    default: {head}", "      x", "", ""]
    document = Document.parse("\n".join([*lines, "outputs: {o: n}", ""]))
    before = to_python(document.root)
    for path, value in (("params.a.help", "h"), ("requires.p", "1"), ("name", "n"), ("params.b", {"default": 1})):
        after = to_python(set_value(document, path, value).root)
        assert after["description"] == before["description"]
        assert after["params"]["a"]["default"] == before["params"]["a"]["default"]
    changed = set_value(document, "params.a.default", "new\ntext")
    assert to_python(changed.root)["params"]["a"]["default"] == "new\ntext"
    assert 'default: "new\\ntext"' in changed.text


def test_an_empty_item_of_a_list_gets_a_space_after_its_dash() -> None:
    text = "params:\n  size:\n    -\n    - 3\n"
    assert set_value(Document.parse(text), "params.size.0", 6).text == "params:\n  size:\n    - 6\n    - 3\n"


@pytest.mark.parametrize("space", ["\u3000", "\u00a0"])
def test_unicode_spaces_belong_to_a_value(space: str) -> None:
    text = set_value(Document.parse(f"params:\n  text: 猫{space}\n"), "params.text", "犬").text
    assert text == "params:\n  text: 犬\n"
    flow = set_value(Document.parse(f"requires: {{a: foo{space}}}\n"), "requires.b", "1").text
    assert flow == f'requires: {{a: foo{space}, b: "1"}}\n'


@pytest.mark.parametrize("head", ["|", ">-", "|2+"])
def test_a_comment_at_the_head_of_a_block_text_stays(head: str) -> None:
    text = f"nodes:\n  a:\n    with:\n      text: {head}  # said # aloud\n        a\n        b\n      k: 1\n"
    changed = set_value(Document.parse(text), "nodes.a.with.text", "new").text
    assert changed == 'nodes:\n  a:\n    with:\n      text: "new"  # said # aloud\n      k: 1\n'


@pytest.mark.parametrize("text", ["-", "?", ":", "-,", "?]"])
def test_an_indicator_of_yaml_is_quoted(text: str) -> None:
    document = Document.parse("nodes: {m: {use: a.b, with: {a: x, b: y}}}\n")
    assert (
        set_value(document, "nodes.m.with.a", text).text == f'nodes: {{m: {{use: a.b, with: {{a: "{text}", b: y}}}}}}\n'
    )
    assert '{use: "-"}' in set_value(document, "nodes.m", {"use": "-"}).text
    assert set_value(document, "nodes.m.with.a", "-x").text == "nodes: {m: {use: a.b, with: {a: -x, b: y}}}\n"


@pytest.mark.parametrize(
    ("path", "calls_a_word"),
    [("nodes.sample.in" + ".x" * 4000, 0.5), ("nodes" + ".sample.body" * 2000, 12), ("x." * 4000 + "y", 0.5)],
)
def test_a_long_path_is_walked_in_few_steps(path: str, calls_a_word: float) -> None:
    document = Document.parse(TEXT)

    def attempt() -> None:
        with pytest.raises(WorkflowError):
            set_value(document, path, 1)

    assert count_calls(attempt) < calls_a_word * path.count(".")
