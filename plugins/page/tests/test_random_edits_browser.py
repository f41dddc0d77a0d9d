"""Random edits of every shipped workflow, sent by the page in a browser: small, valid or refused, and undone."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from guidegraph.graph.resolution.load import build
from guidegraph.plugins.manager import PluginManager
from plugins.page.tests.conftest import Server, serve_folder, wait
from tests.browser import NEEDS_BROWSER, Browser
from tests.graph.language.edit import plain_edits
from tests.graph.language.edit.test_random_edits import changed_lines, comments, is_linked, lines_of
from tests.paths import ROOT

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = NEEDS_BROWSER

WORKFLOWS = ROOT / "workflows"
PLUGIN = "guidegraph_diffusers"
PATHS = sorted(WORKFLOWS.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
NAMES = [path.relative_to(WORKFLOWS).as_posix() for path in PATHS]
TEXTS = [
    "3",
    "0.25",
    "1e-7",
    "true",
    "null",
    "word",
    "a text: with {braces}, and#hash",
    "it's",
    "[1, [2]]",
    "{a: 1}",
    "",
]
# Each script sends an edit by the page's own functions. They answer with its body, and the answer or the refusal.
SCRIPT = """
const [query, route, given, pick] = arguments;
const collect = (ports) => Object.fromEntries(ports.filter((port) => port.link).map((port) => [port.name, port.link]));
const choose = (list) => list[Math.floor(pick * list.length)];
return import("./api.js").then(async ({get, post}) => {
    async function send(route, body) {
        const refuse = ({message, problems}) => ({body, error: message, problems});
        return await post(route, {...body, name: query.name}).then((answer) => ({body, answer}), refuse);
    }
"""
SEND = SCRIPT + "return send(route, given); });"
ADD = (
    SCRIPT
    + """
    const {nodes} = await get("api/palette", query);
    if (!nodes.length) return {body: null};
    const {name, ...draft} = await get("api/draft", {...query, use: choose(nodes).id});
    const {use, block, path, output, link, ports} = draft;
    const body = {label: name, use, block, path, output, old: path && link, inputs: collect(ports), settings: {}};
    return send(route, body);
}).catch(() => ({body: null}));
"""
)
REWIRE = (
    SCRIPT
    + """
    const {path, links, options} = await get("api/links", query);
    if (!options.length || links.length !== 1) return {body: null};
    return send(route, {path, link: choose(options), old: links[0]});
}).catch(() => ({body: null}));
"""
)
HIDE = """
Object.defineProperty(document, "hidden", {value: arguments[0], configurable: true});
document.dispatchEvent(new Event("visibilitychange"));
"""


class PageEdit(NamedTuple):
    """An edit that the page sent, and the answer.

    touched: the paths whose lines may change. keeps_comments: whether all comments have to stay.
    """

    route: str
    body: dict[str, Any]
    touched: list[str]
    answer: dict[str, Any]
    keeps_comments: bool = True


class Sender:
    """Sends requests by the page's own functions."""

    def __init__(self, page: Browser, name: str):
        self.page, self.name = page, name

    def send(self, route: str, touched: list[str], keeps_comments: bool = True, **body: Any) -> PageEdit:
        return PageEdit(route, body, touched, self._run(SEND, {}, route, body), keeps_comments)

    def add(self, pick: float, **query: str) -> PageEdit | None:
        """Add a node that the palette offers, as its form proposes it."""
        answer = self._run(ADD, query, "api/add", {}, pick)
        if (body := answer["body"]) is None:
            return None
        return PageEdit("api/add", body, [body["block"], *([body["path"]] if body["path"] else [])], answer)

    def rewire(self, pick: float, path: str) -> PageEdit | None:
        """Wire a port to a link that the page offers."""
        answer = self._run(REWIRE, {"path": path}, "api/wires", {}, pick)
        return None if answer["body"] is None else PageEdit("api/wires", answer["body"], [path], answer)

    def _run(self, script: str, query: dict[str, str], *arguments: Any) -> dict[str, Any]:
        route, body, pick = (*arguments, 0.0)[:3]
        query = {"name": self.name, **query}
        answer: dict[str, Any] = self.page.driver.execute_script(script, query, route, body, pick)
        return answer


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page over a copy of all shipped workflows."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(
        WORKFLOWS, folder, ignore=shutil.ignore_patterns("models", "*.py", "__pycache__"), dirs_exist_ok=True
    )
    yield from serve_folder(folder, "--plugin", PLUGIN)


def make_edit(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit:
    makers = [set_value, remove_value, set_default, swap, wire, unwire, rename, remove]
    makers += 3 * [wire_well, add, insert]
    while (edit := rng.choice(makers)(rng, data, sender)) is None:
        pass
    return edit


def choose_argument(rng: random.Random, data: plain_edits.Plain, group: str) -> tuple[str, str] | None:
    """The path of a node, and the name of one of its links or literals."""
    choices = [(path, name) for path, _, node in plain_edits.nodes(data) for name in node.get(group) or ()]
    return rng.choice(choices) if choices else None


def set_value(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    if (choice := choose_argument(rng, data, "with")) is None:
        return None
    path = ".with.".join(choice)
    present = plain_edits.get(data, path)
    is_number = isinstance(present, str) and present.replace(".", "", 1).isdigit()
    if is_number and rng.random() < 0.7:
        return sender.send("api/edits", [path], path=path, value=present + rng.choice("0123456789"), kind="number")
    return sender.send("api/edits", [path], path=path, value=rng.choice(TEXTS), kind=rng.choice(["text", "yaml"]))


def remove_value(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    if (choice := choose_argument(rng, data, "with")) is None:
        return None
    return sender.send("api/edits", [choice[0]], False, path=".with.".join(choice), value=None)


def set_default(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    if not data.get("params"):
        return None
    name, kind = rng.choice([*data["params"]]), rng.choice(["number", "text"])
    path = f"params.{name}.default"
    return sender.send("api/edits", [f"params.{name}"], path=path, value=rng.choice(TEXTS), kind=kind)


def swap(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    choices = [path for path, _, node in plain_edits.nodes(data) if "." in node.get("use", "")]
    if not choices:
        return None
    path = rng.choice(choices)
    use = rng.choice(["scheduler.heun", "scheduler.ddim", "guidance.cfg", "image.load", "noise.gaussian", "no.node"])
    return sender.send("api/edits", [f"{path}.use"], path=f"{path}.use", value=use, kind="text")


def wire(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    """Any link of the workflow, anywhere."""
    links: list[str] = []
    plain_edits.map_links(data, lambda link, around: links.append(link) or link)  # type: ignore[func-returns-value]
    choice = choose_argument(rng, data, "in")
    if choice is None:
        return None
    path = ".in.".join(choice)
    return sender.send("api/wires", [path], path=path, link=rng.choice(links), old="")


def wire_well(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    """A link that the page offers for a port."""
    choice = choose_argument(rng, data, "in")
    return sender.rewire(rng.random(), ".in.".join(choice)) if choice else None


def unwire(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    if (choice := choose_argument(rng, data, "in")) is None:
        return None
    links = plain_edits.get(data, ".in.".join(choice))
    old = rng.choice(links) if isinstance(links, list) and links else links
    old = old if isinstance(old, str) else ""
    return sender.send("api/wires", [choice[0]], False, path=".in.".join(choice), link=None, old=old)


def rename(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    path, block, _ = rng.choice([*plain_edits.nodes(data)])
    new = rng.choice([*(f"renamed_{rng.randrange(10**6)}" for _ in range(4)), "params", "a b", path.rpartition(".")[2]])
    return sender.send("api/nodes", [block.removesuffix(".body"), "outputs"], path=path, new_name=new)


def remove(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    entries = [*plain_edits.nodes(data)]
    free = [path for path, block, _ in entries if not is_linked(data, path, block)]
    path = rng.choice(free or [path for path, _, _ in entries])
    return sender.send("api/nodes", [path], False, path=path, new_name=None)


def add(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    """A node of the palette, as its form proposes it."""
    block = rng.choice(["nodes", *(block for _, block, _ in plain_edits.nodes(data))])
    words = rng.choice(["", "image", "guidance", "tensor", "scale"])
    return sender.add(rng.random(), text=words, block=block)


def insert(rng: random.Random, data: plain_edits.Plain, sender: Sender) -> PageEdit | None:
    """A node that fits between a source and a port."""
    choice = choose_argument(rng, data, "in")
    return sender.add(rng.random(), text="", path=".in.".join(choice)) if choice else None


def check(before: str, after: str, edit: PageEdit) -> None:
    """Only lines of the touched entries have changed; comments stay; other entries keep their values and order."""
    allowed = set[int]().union(*(lines_of(before, path) for path in edit.touched if has_path(before, path)))
    changed = changed_lines(before, after)
    assert changed <= allowed
    if edit.route in ("api/edits", "api/wires"):
        assert len(changed) <= len(lines_of(before, edit.touched[0])) if has_path(before, edit.touched[0]) else 3
    vanished = comments(before) - comments(after)
    if not edit.keeps_comments:
        vanished -= comments("\n".join(line for i, line in enumerate(before.splitlines()) if i in allowed))
    assert not vanished
    assert not comments(after) - comments(before)
    old, new = (plain_edits.load(text) for text in (before, after))
    if edit.route == "api/add":
        assert plain_edits.get(new, edit.body["block"]).pop(edit.body["label"])["use"] == edit.body["use"]
    for path in edit.touched if edit.route != "api/nodes" else ():
        old, new = (blank(data, path) for data in (old, new))
    if edit.route != "api/nodes":
        assert plain_edits.order(new) == plain_edits.order(old)
    else:
        assert count_uses(new) == count_uses(old) - (count_uses_below(old, edit.body) if removes(edit) else Counter())


def removes(edit: PageEdit) -> bool:
    return edit.body["new_name"] is None


def has_path(text: str, path: str) -> bool:
    try:
        plain_edits.get(plain_edits.load(text), path)
    except (KeyError, IndexError, TypeError, ValueError):
        return False
    return True


def blank(data: plain_edits.Plain, path: str) -> plain_edits.Plain:
    """The data without what an edit of a link or a value may change: the argument of this name, in both groups."""
    copy: plain_edits.Plain = json.loads(json.dumps(data))
    *parents, name = path.split(".")
    if path in ("nodes",) or parents[-1:] == [] or name == "body":
        return copy
    node = ".".join(parents[:-1] if parents[-1] in ("in", "with") else parents)
    try:
        entry = plain_edits.get(copy, node)
    except (KeyError, TypeError):
        return copy
    if parents[-1] in ("in", "with"):
        for group in ("in", "with"):
            (entry.get(group) or {}).pop(name, None)
            if not entry.get(group):
                entry.pop(group, None)
    elif isinstance(entry, dict):
        entry.pop(name, None)
    return copy


def count_uses(data: plain_edits.Plain) -> Counter[str]:
    return Counter(node.get("use", "loop") for _, _, node in plain_edits.nodes(data))


def count_uses_below(data: plain_edits.Plain, body: dict[str, Any]) -> Counter[str]:
    path = body["path"]
    return Counter(
        node.get("use", "loop") for other, _, node in plain_edits.nodes(data) if f"{other}.".startswith(f"{path}.")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_random_edits_by_the_page(chromium: Browser, shipped: Server, name: str) -> None:
    edit_and_undo(chromium, shipped, name, 200)


@pytest.mark.parametrize("name", NAMES[::20])
def test_some_random_edits_by_the_page(chromium: Browser, shipped: Server, name: str) -> None:
    edit_and_undo(chromium, shipped, name, 20)


def edit_and_undo(chromium: Browser, shipped: Server, name: str, number_of_edits: int) -> None:
    path, rng = shipped.folder / name, random.Random(name)
    original, registry = path.read_bytes(), PluginManager((PLUGIN,), entry_points=False).registry
    chromium.driver.get("about:blank")
    chromium.driver.get(f"{shipped.address}#{name}")
    wait(chromium, "document.querySelector('.lines')")
    chromium.driver.execute_script(HIDE, True)
    sender, counts = Sender(chromium, name), Counter[str]()
    for number in range(number_of_edits):
        before = path.read_text()
        edit = make_edit(rng, plain_edits.load(before), sender)
        answer = edit.answer
        after = path.read_text()
        if "error" in answer:
            counts["refused"] += 1
            assert after == before
            assert answer["problems"], (edit, answer)
            assert all(problem["code"] and problem["message"] for problem in answer["problems"])
            continue
        counts["valid" if after != before else "same"] += 1
        check(before, after, edit)
        if number % 10 == 0:
            build(path, registry)
    build(path, registry)
    chromium.driver.execute_script(HIDE, False)
    last = json.dumps(path.read_text().rstrip("\n").splitlines()[-1].strip())
    wait(chromium, f"[...document.querySelectorAll('.line code')].at(-1).textContent.trim() === {last}")
    while "error" not in sender.send("api/undo", []).answer:
        counts["undone"] += 1
    assert path.read_bytes() == original
    assert counts["undone"] == counts["valid"] > number_of_edits / 20, counts
