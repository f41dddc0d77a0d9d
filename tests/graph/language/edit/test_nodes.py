"""Adding, removing, renaming and moving nodes and parameters: what changes with them, and what is refused."""

from __future__ import annotations

import pytest

from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.language.edit.document import Document, find_value
from guidegraph.graph.language.edit.entries import list_links
from guidegraph.graph.language.edit.nodes import add_node, move_node, remove_node, rename_node
from guidegraph.graph.language.edit.parameters import add_parameter, remove_parameter, rename_parameter

TEXT = """\
guidegraph: 1
params: {n: 3, path: out, other: 1}
nodes:
  # The start.
  first:  {use: toy.number, with: {value: 1, name: first}}   # first
  second: {use: toy.add, in: {a: first, b: first.out, "c": "first.out"}}
  alone: {use: toy.number, with: {value: 2}}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: first}
    body:
      inner: {use: toy.add, in: {a: carry.x, b: first}}
      deep:
        loop: {over: second, as: j}
        carry: {y: inner}
        body:
          up:
            use: toy.add
            in: {many: [inner, first, carry.y], n: params.n}
        next: {y: up}
        train:
          - {model: y, loss: inner, lr: params.n}
        steps: params.n
        checkpoint: {path: params.path, every: 3}
        preview: {every: params.n, use: a.b, in: {m: first}}
    next: {x: deep.y}
    collect: {all: inner}
  pick: {choose: {when: params.n, of: {1: first, 2: outer.all}, otherwise: second}}
outputs: {out: outer.x, first: first}
"""


def test_renaming_a_node_renames_all_links_and_nothing_else() -> None:
    renamed = rename_node(Document.parse(TEXT), "nodes.first", "start").text
    expected = (
        TEXT.replace("  first:  {", "  start:  {")
        .replace("a: first, b: first.out", "a: start, b: start.out")
        .replace('"first.out"', '"start.out"')
        .replace("x: first}", "x: start}")
        .replace("b: first}}\n      deep", "b: start}}\n      deep")
        .replace("[inner, first,", "[inner, start,")
        .replace("{m: first}", "{m: start}")
        .replace("{1: first,", "{1: start,")
        .replace("first: first}", "first: start}")
    )
    assert renamed == expected
    assert "name: first}}   # first" in renamed


def test_a_longer_name_takes_the_spaces_of_the_column() -> None:
    text = "guidegraph: 1\nnodes:\n  a:    {use: b.c}\n  long: {use: b.c}\noutputs: {o: a}\n"
    document = Document.parse(text)
    assert rename_node(document, "nodes.a", "abc").text == text.replace("a:    {", "abc:  {").replace(
        "o: a}", "o: abc}"
    )
    assert "  a_longer_one: {use: b.c}\n" in rename_node(document, "nodes.a", "a_longer_one").text


def test_a_name_in_one_loop_is_not_that_in_another() -> None:
    body = "    body: {same: {use: a.b, in: {p: VALUE}}}\n    next: {x: same}\n"
    loop = f"    loop: {{over: params.n, as: i}}\n    carry: {{x: z}}\n{body}"
    first = f"guidegraph: 1\nnodes:\n  one:\n{loop.replace('VALUE', 'carry.x')}"
    second = f"  two:\n{loop.replace('VALUE', 'loop.i')}"
    text = f"{first}{second}outputs: {{o: one.x}}\n"
    renamed = rename_node(Document.parse(text), "nodes.two.body.same", "new").text
    assert renamed == text.replace(second, second.replace("same", "new"))


def test_renaming_a_parameter_renames_links_in_options_too() -> None:
    renamed = rename_parameter(Document.parse(TEXT), "n", "count").text
    assert renamed == TEXT.replace("{n: 3", "{count: 3").replace("params.n", "params.count")
    path = rename_parameter(Document.parse(TEXT), "path", "to").text
    assert path == TEXT.replace("path: out", "to: out").replace("params.path", "params.to")


def test_links_know_their_paths_and_blocks() -> None:
    links = {link.path: (link.scalar.text, link.block) for link in list_links(Document.parse(TEXT))}
    assert links["nodes.outer.carry.x"] == ("first", ())
    assert links["nodes.outer.next.x"] == ("deep.y", ("outer",))
    assert links["nodes.outer.body.deep.body.up.in.many.1"] == ("first", ("outer", "deep"))
    assert links["nodes.outer.body.deep.steps"] == ("params.n", ("outer",))
    assert links["nodes.outer.body.deep.train.0.loss"] == ("inner", ("outer", "deep"))
    assert links["nodes.pick.choose.of.2"] == ("outer.all", ())
    assert "nodes.outer.body.deep.checkpoint.every" not in links
    assert len(links) == TEXT.count("params.") + 21


def test_a_node_moves_with_its_comments() -> None:
    text = TEXT.replace("  alone:", "  # Nobody's.\n  # Really.\n  alone:")
    moved = move_node(Document.parse(text), "nodes.alone", "nodes.outer.body").text
    line = "alone: {use: toy.number, with: {value: 2}}\n"
    entry = f"      # Nobody's.\n      # Really.\n      {line}"
    expected = text.replace(f"  # Nobody's.\n  # Really.\n  {line}", "")
    assert moved == expected.replace("    next: {x: deep.y}\n", f"{entry}    next: {{x: deep.y}}\n")
    assert move_node(Document.parse(moved), "nodes.outer.body.alone", "nodes").text == text.replace(
        f"  # Nobody's.\n  # Really.\n  {line}", ""
    ).replace("outputs:", f"  # Nobody's.\n  # Really.\n  {line}outputs:")


def test_a_block_of_lines_moves_with_its_indentation() -> None:
    text = TEXT.replace("{y: up}", "{y: carry.y}").replace("          up:", "          # Upwards.\n          up:")
    moved = move_node(Document.parse(text), "nodes.outer.body.deep.body.up", "nodes.outer.body").text
    lines = ["# Upwards.", "up:", "  use: toy.add", "  in: {many: [inner, first, carry.y], n: params.n}"]
    assert "".join(f"      {line}\n" for line in lines) in moved
    assert "        body: {}\n        next:" in moved
    assert moved.count("# Upwards.") == 1


@pytest.mark.parametrize(
    ("edit", "arguments", "message"),
    [
        (remove_node, ["nodes.first"], r":5:3: still-linked: 'first' is linked from nodes.second.in.a.* \(9 in all\)"),
        (remove_node, ["nodes.outer.body.inner"], r"still-linked: .*nodes.outer.collect.all"),
        (remove_node, ["nodes.outer.body"], r"'nodes.outer.body' is not the path of a node"),
        (remove_node, ["nodes.outer.body.innr"], r"unknown-path: .*did you mean 'inner'"),
        (rename_node, ["nodes.first", "second"], r"name-taken: there is a node 'second' already: nodes.second"),
        (rename_node, ["nodes.first", "up"], r"name-taken: .* nodes.outer.body.deep.body.up"),
        (rename_node, ["nodes.outer.body.deep.body.up", "first"], r"name-taken: .* nodes.first"),
        (rename_node, ["nodes.first", "a.b"], r"bad-name: 'a.b' cannot be the name of a node"),
        (rename_node, ["nodes.first", "carry"], r"bad-name: 'carry' .* it is reserved"),
        (move_node, ["nodes.first", "nodes.outer.body"], r"still-linked: .*only links inside 'nodes.outer.body'"),
        (move_node, ["nodes.outer", "nodes.outer.body"], r"bad-move: a node cannot move into itself"),
        (move_node, ["nodes.alone", "nodes.first"], r"'nodes.first' is not a block of nodes"),
        (add_node, ["first", "toy.add"], r"name-taken"),
        (add_node, ["params", "toy.add"], r"bad-name"),
        (add_parameter, ["n", 3], r"name-taken: there is a parameter 'n' already"),
        (add_parameter, ["a-b", 3], r"bad-name"),
        (add_parameter, ["new"], r"missing-key: a parameter needs a 'default' or a 'type'"),
        (remove_parameter, ["n"], r"still-linked: 'n' is linked from nodes.outer.loop.over"),
        (remove_parameter, ["m"], r"unknown-path: 'params' has no 'm'"),
        (rename_parameter, ["n", "path"], r"name-taken"),
        (rename_parameter, ["n", "a b"], r"bad-name"),
    ],
)
def test_what_cannot_be_done_is_refused(edit: object, arguments: list[object], message: str) -> None:
    assert callable(edit)
    with pytest.raises(WorkflowError, match=message):
        edit(Document.parse(TEXT), *arguments)


def test_a_node_is_written_after_another_in_its_block() -> None:
    document = add_node(Document.parse(TEXT), "new", "a.b", {"p": "first"}, {"s": "it"}, after="first")
    assert "# first\n  new:    {use: a.b, in: {p: first}, with: {s: it}}\n  second:" in document.text
    long = add_node(Document.parse(TEXT), "new", "a.b", {f"port_{i}": "first" for i in range(12)})
    assert "\n  new:\n    use: a.b\n    in:\n      port_0: first\n      port_1: first\n" in long.text
    with pytest.raises(WorkflowError, match="no node 'nobody' to write it after"):
        add_node(Document.parse(TEXT), "new", "a.b", after="nobody")


def test_removed_and_added_parameters() -> None:
    assert remove_parameter(Document.parse(TEXT), "other").text == TEXT.replace(", other: 1}", "}")
    assert add_parameter(Document.parse(TEXT), "eta", 0.5).text == TEXT.replace("other: 1}", "other: 1, eta: 0.5}")
    typed = add_parameter(Document.parse(TEXT), "x", type="Image | None", help="a picture").text
    assert typed == TEXT.replace("other: 1}", 'other: 1, x: {type: Image | None, help: "a picture"}}')
    without = "guidegraph: 1\nnodes: {a: {use: b.c}}\noutputs: {o: a}\n"
    first = add_parameter(Document.parse(without), "x", [1, 2]).text
    assert first == "guidegraph: 1\nparams:\n  x: [1, 2]\nnodes: {a: {use: b.c}}\noutputs: {o: a}\n"
    assert remove_parameter(Document.parse(first), "x").text == without


def test_a_file_without_a_last_line_end_stays_so() -> None:
    text = "guidegraph: 1\noutputs: {o: a}\nnodes:\n  a: {use: b.c}\n  d: {use: b.c}"
    added = add_node(Document.parse(text), "new", "a.b").text
    assert added == f"{text}\n  new: {{use: a.b}}"
    assert remove_node(Document.parse(added), "nodes.new").text == text
    assert remove_node(Document.parse(text), "nodes.d").text == text.removesuffix("\n  d: {use: b.c}")


NESTED = """\
guidegraph: 1
params: {n: 3}
nodes:
  zero: {use: a.b}
  outer:
    loop: {over: params.n, as: i}
    carry: {x: zero}
    body:
      own: {use: a.b, in: {p: loop.index}}
      carried: {use: a.b, in: {p: carry.x}}
      inner:
        loop: {over: params.n, as: j}
        carry: {y: carry.x}
        body:
          last: {use: a.b, in: {p: carry.y}}
        next: {y: last}
    next: {x: inner.y}
outputs: {out: outer.x}
"""


def test_a_node_that_reads_a_value_of_its_loop_does_not_move_to_where_another_loop_gives_it() -> None:
    document = Document.parse(NESTED)
    with pytest.raises(WorkflowError, match=r"'loop.index' is a value of the loop 'outer', and would be one"):
        move_node(document, "nodes.outer.body.own", "nodes.outer.body.inner.body")
    moved = move_node(document, "nodes.outer.body.carried", "nodes.outer.body.inner.body").text
    assert "          carried: {use: a.b, in: {p: carry.x}}\n" in moved


def test_links_to_nodes_in_steps_and_quoted_options_are_renamed() -> None:
    text = """\
params: {lr: 0.1}
nodes:
  count: {use: a.b}
  fit:
    loop: {over: data, as: batch}
    steps: count
    train: [{model: net, loss: loss, lr: "params.lr", optimizer: adam}]
outputs:
  out: >-
    count
  other: fit.net
"""
    renamed = rename_node(Document.parse(text), "nodes.count", "number").text
    assert renamed == text.replace("  count: {", "  number: {").replace("steps: count", "steps: number").replace(
        ">-\n    count", "number"
    )
    assert '"params.rate"' in rename_parameter(Document.parse(text), "lr", "rate").text


@pytest.mark.parametrize("params", ["params: {}\n", "params:\n"])
def test_a_parameter_with_a_type_is_declared_where_there_is_none(params: str) -> None:
    added = add_parameter(Document.parse(f"{params}nodes: {{}}\n"), "scale", 4.0, type="float", help="x").text
    assert 'scale: {default: 4.0, type: float, help: "x"}' in added
    assert add_parameter(Document.parse(f"{params}nodes: {{}}\n"), "n", 4).text.count("default") == 1


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        ("    # raise n\n  z: 1\n", "  # raise n\n  z: 1\n"),
        ("\n    # raise n\n\n  z: 1\n", "\n  # raise n\n\n  z: 1\n"),
        ("  # of z\n  z: 1\n", "  # of z\n  z: 1\n"),
        ("    # end\n", "  # end\n"),
    ],
)
@pytest.mark.parametrize("header", ["|", ">", "|-", "|+"])
def test_comments_after_a_removed_entry_do_not_become_text(header: str, after: str, kept: str) -> None:
    text = f"params:\n  prompt: {header}\n    a cat\n  n: {{default: 1}}\n{after}"
    removed = remove_parameter(Document.parse(text), "n").text
    kept = kept.replace("\n\n", "\n").removeprefix("\n") if header == "|+" else kept
    assert removed == f"params:\n  prompt: {header}\n    a cat\n{kept}"
    assert find_value(find_value(Document.parse(removed).root, "params"), "prompt").text == (
        "a cat" if header == "|-" else "a cat\n"
    )


def test_the_last_entry_within_braces_is_removed_with_its_comma() -> None:
    text = "nodes: {\n  a: {use: toy.number}, # first\n  b: {use: toy.number}, # second\n}\n"
    removed = remove_node(Document.parse(text), "nodes.b").text
    assert removed == "nodes: {\n  a: {use: toy.number}, # first\n   # second\n}\n"
