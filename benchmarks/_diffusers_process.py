"""A picture drawn by diffusers in a process of its own: PIPELINE-FOLDER PNG STEPS SIDE. Prints seconds as JSON."""

import json
import sys
import time
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

imported = time.perf_counter()
folder, png, steps, side = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
pipe: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
pipe.set_progress_bar_config(disable=True)
loaded = time.perf_counter()
ends: list[float] = []


def at_end(_pipe: object, _step: int, _t: object, values: dict[str, Any]) -> dict[str, Any]:
    ends.append(time.perf_counter())
    return values


image = pipe(
    "a b c",
    height=side,
    width=side,
    num_inference_steps=steps,
    guidance_scale=7.5,
    generator=torch.Generator().manual_seed(0),
    callback_on_step_end=at_end,
).images[0]
drawn = time.perf_counter()
image.save(png)
# The first step has no end before it to count from.
loop = (ends[-1] - ends[0]) * steps / (steps - 1)
print(json.dumps({"load": loaded - imported, "steps": loop, "drawing": drawn - loaded}))
