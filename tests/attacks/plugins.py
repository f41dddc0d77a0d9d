"""Attacks by a plugin, and by texts with control sequences for a terminal.

A plugin is installed code; these tests show that it can neither fake the success of a command nor hang it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.attacks.arena import Arena, Outcome, attack, recipe_picture
from tests.attacks.recipes import PLAIN
from tests.commands.command import environment

ENDS = "import ctypes\nctypes.CDLL(None)._exit(0)\n"


def plugin(arena: Arena, text: str, workflow: str = PLAIN) -> tuple[Path, Path]:
    module, draw = arena.folder / "plugin_of_another.py", arena.folder / "draw.yaml"
    module.write_text(text)
    draw.write_text(workflow)
    return module, draw


def process(arena: Arena, *arguments: str | Path, **more: str) -> Outcome:
    ended = subprocess.run(
        [sys.executable, "-m", "guidegraph", *map(str, arguments)],
        cwd=arena.folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


@attack("a plugin that exits the process with code 0 during its import", "plugin-failed")
def exits(arena: Arena) -> Outcome:
    module, draw = plugin(arena, "import os\nos._exit(0)\n")
    return arena.run("validate", draw, "--plugin", module)


@attack("a plugin that raises SystemExit with code 0 during its import", "plugin-failed")
def raises_exit(arena: Arena) -> Outcome:
    module, draw = plugin(arena, "raise SystemExit(0)\n")
    return arena.run("validate", draw, "--plugin", module)


@attack("a plugin that exits the process with code 0 from C, where Python cannot intervene", "ended")
def exits_in_c(arena: Arena) -> Outcome:
    module, draw = plugin(arena, ENDS)
    return process(arena, "validate", draw, "--plugin", module)


@attack("a plugin whose import never returns", "GUIDEGRAPH_DISABLE_PLUGINS")
def hangs(arena: Arena) -> Outcome:
    module, draw = plugin(arena, "import time\nwhile True:\n    time.sleep(1)\n")
    return process(arena, "validate", draw, "--plugin", module, GUIDEGRAPH_PLUGIN_SECONDS="1")


@attack("a plugin that takes the name of a built-in node", "plugin-failed")
def takes_name(arena: Arena) -> Outcome:
    text = (
        "from guidegraph import node, Image\nimport guidegraph\n\n@node('noise.gaussian')\ndef noise() -> Image:\n"
        '    """Nothing."""\n\n@guidegraph.hookimpl\ndef guidegraph_nodes():\n    return [noise]\n'
    )
    module, draw = plugin(arena, text)
    return arena.run("validate", draw, "--plugin", module)


def check_escaped(arena: Arena, outcome: Outcome) -> Outcome:
    assert "\x1b" not in outcome.out + outcome.err
    assert "\u202e" not in outcome.out + outcome.err
    return outcome


@attack("a picture with a terminal escape sequence as the name of a node", "\\x1b")
def escape_in_name(arena: Arena) -> Outcome:
    text = PLAIN.replace("  n: {use", '  "\\x1b]0;gone\\x07": {use')
    return check_escaped(arena, arena.run("run", recipe_picture(arena.folder / "holiday.png", text), "--out", "out"))


@attack("a picture with a node id that reverses the line on the terminal", "\\u202e")
def bidi_in_id(arena: Arena) -> Outcome:
    text = PLAIN.replace("noise.gaussian", '"noise.\\u202enaissuag"')
    return check_escaped(arena, arena.run("validate", recipe_picture(arena.folder / "holiday.png", text)))


@attack("a file with a terminal escape sequence as its name", "\\x1b")
def escape_in_file_name(arena: Arena) -> Outcome:
    path = arena.folder / "a\x1b[2Jb.yaml"
    path.write_text("guidegraph: 7\n")
    os.stat(path)
    return check_escaped(arena, arena.run("validate", path))
