"""Import packages that a slim install leaves out, or say what to install."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

NEEDED = {"page": ("lab",), "scenes": ("lab",)}
"""The packages of this project that another one needs beside guidegraph; pip finds them in no index."""
INSTALLED_BY = {"PIL": "pillow", "tokenizers": "tokenizers"}


def import_optional(module: str, needed_for: str) -> ModuleType:
    """Import a module of a package in INSTALLED_BY. Raises ``ValueError`` with what to install if missing."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is installed but broken
        raise ValueError(
            f"{needed_for} needs the package {INSTALLED_BY[package]}, which is not installed: "
            f"pip install {INSTALLED_BY[package]}"
        ) from None


def install_command(extra: str, distribution: str = "guidegraph") -> str:
    """The command that installs an extra of ``guidegraph`` or ``guidegraph-runtime``, as this machine has it installed.

    Neither name is on PyPI. An editable install gets ``pip install -e`` with the folder of its checkout (``.`` in that
    folder); any other one gets the packages of the extra, from the metadata that it was installed with.
    """
    import shlex
    from importlib.metadata import distributions

    if (folder := _find_checkout(distribution)) is not None:
        return f'pip install -e "{folder}[{extra}]"'
    installed = [*distributions(name=distribution)]
    if not installed:
        return f'pip install -e ".[{extra}]" in the checkout'
    marked = (requirement.replace("'", '"').partition(";") for requirement in installed[0].requires or ())
    packages = [name.strip() for name, _, marker in marked if marker.strip() == f'extra == "{extra}"']
    return f"pip install {' '.join(map(shlex.quote, packages))}"


def package_command(name: str) -> str:
    """The command that installs a package of this project beside guidegraph, as this machine has guidegraph installed.

    name: the package's folder in plugins/, ``page`` for ``guidegraph-page``.
    """
    if (folder := _find_checkout("guidegraph")) is not None:
        return "pip install " + " ".join(f'-e "{folder}/plugins/{each}"' for each in (*NEEDED.get(name, ()), name))
    return f"pip install guidegraph-{name}"


def _find_checkout(distribution: str) -> str | None:
    """The folder that a distribution is installed from as an editable one: ``.`` for the current folder."""
    import json
    from importlib.metadata import distributions
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    # In its checkout, the folder of the last build is another distribution with this name.
    for origin in (json.loads(each.read_text("direct_url.json") or "{}") for each in distributions(name=distribution)):
        if origin.get("dir_info", {}).get("editable"):
            folder = Path(url2pathname(urlparse(origin["url"]).path))
            return "." if folder == Path.cwd() else str(folder)
    return None
