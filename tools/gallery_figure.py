"""Draw the figure of a gallery plugin: rows of pictures of the same eight prompts and seeds, one row for each setting.

    python tools/gallery_figure.py apg cfg apg 'cfg scale=15' 'apg scale=15 eta=0'

A row is a workflow and parameters of its own: `cfg` is workflows/text_to_image.yaml, any other name is that plugin's
text_to_image.yaml, or NAME/FILE its FILE.yaml. Values are read as `--set` reads them. Without rows there are four: CFG
and the plugin as they come, and both at scale 15. Writes plugins/gallery/PLUGIN/figure.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from guidegraph import load_workflow
from guidegraph.graph.language.bind_parameters import bind
from guidegraph_runtime.files.atomic_write import atomic_path
from guidegraph_scenes.scenes import compose_scene

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "plugins" / "gallery"
COLUMNS, SIZE, CAPTION, TITLE = 8, 64, 14, "CFG"


def draw_row(row: str, seed: int) -> tuple[str, torch.Tensor]:
    """The label of a row and its pictures (8, 3, 64, 64) in [−1, 1]."""
    name, *settings = row.split()
    plugin, _, file = name.partition("/")
    package = f"guidegraph_{plugin}"
    plugins: tuple[str, ...] = ()
    path = ROOT / "workflows" / "text_to_image.yaml"
    if plugin != "cfg":
        sys.path.insert(0, str(GALLERY / plugin))
        plugins, path = (package,), GALLERY / plugin / package / f"{file or 'text_to_image'}.yaml"
    workflow = load_workflow(path, plugins=plugins)
    params = workflow.graph.params
    values = bind(workflow.graph, dict(setting.split("=", 1) for setting in settings), text=True)
    values |= {"seed": seed, "batch": COLUMNS}
    if "prompt" in params:
        values["prompt"] = [compose_scene(seed, i, split="held_out").caption for i in range(COLUMNS)]
    shown = [f"scale {values['scale']:g}"] if "scale" in params else []
    shown += [" ".join(setting.split("=", 1)) for setting in settings if not setting.startswith("scale=")]
    return f"{TITLE if plugin == 'cfg' else name}: {', '.join(shown)}", workflow.run(**values)["image"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin", help="a folder of plugins/gallery")
    parser.add_argument("rows", nargs="*", help="'WORKFLOW K=V K=V …'")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    name = options.plugin
    rows = options.rows or ["cfg", name, "cfg scale=15", f"{name} scale=15"]
    sheet = Image.new("RGB", (COLUMNS * SIZE, len(rows) * (SIZE + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        label, image = draw_row(row, options.seed)
        top = i * (SIZE + CAPTION)
        pen.text((2, top + 1), label, fill="black")
        levels = ((image + 1) * 127.5).round().clamp(0, 255).byte()
        sheet.paste(Image.fromarray(levels.permute(2, 0, 3, 1).flatten(1, 2).numpy()), (0, top + CAPTION))
    with atomic_path(GALLERY / name / "figure.png") as temporary:
        sheet.save(temporary)


if __name__ == "__main__":
    main()
