"""The dependencies that the project's distributions declare: their lower bounds, and a lock with hashes.

    python tools/requirements.py lowest   # prints constraints: each dependency at its lower bound
    python tools/requirements.py lock     # writes requirements/release.txt, with the versions of this environment

`lowest` needs nothing but Python. `lock` needs uv (`pip install uv`), and asks PyPI for hashes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = (ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml")
PACKAGES = tuple(sorted((ROOT / "plugins").glob("*/pyproject.toml")))
LOCK = ROOT / "requirements" / "release.txt"
OWN, OWN_EXTRA = "guidegraph-runtime", "gpu"
"""guidegraph depends on this distribution with this extra: the onnxruntime for GPUs."""
OLDEST_PYTHON = "3.11"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<bound>[\w.]+)(,[^;]*)?(?P<marker>;.*)?")


def direct_requirements() -> list[str]:
    """What guidegraph and guidegraph-runtime depend on without other extras, and what builds them."""
    declared: list[str] = []
    for path in PROJECTS:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        declared += [*content["project"]["dependencies"], *content["build-system"]["requires"]]
        if content["project"]["name"] == OWN:
            declared += content["project"]["optional-dependencies"][OWN_EXTRA]
    return sorted({requirement for requirement in declared if requirement != f"{OWN}[{OWN_EXTRA}]"})


def all_requirements() -> list[str]:
    """The same with every extra, and with the distributions in plugins/; without the project's own distributions."""
    more: list[str] = []
    for path in (*PROJECTS, *PACKAGES):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for names in (project["dependencies"], *project.get("optional-dependencies", {}).values()):
            more += [name for name in names if not name.startswith("guidegraph")]
    return sorted({*direct_requirements(), *more})


def lower_bounds(requirements: list[str]) -> Iterator[str]:
    """Each requirement at its lower bound, as a line of constraints. Raises ``ValueError`` for one that has none."""
    for requirement in requirements:
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"'{requirement}' has no lower bound: declare it as NAME>=VERSION")
        yield f"{match['name']}=={match['bound']}{match['marker'] or ''}"


def write_lock() -> int:
    """Let uv pin and hash what direct_requirements gives, for all platforms; returns its exit status.

    Versions are those of this environment, which are the tested ones, without local labels such as `+cpu`.
    """
    installed = {dist.name: dist.version.partition("+")[0] for dist in distributions() if dist.name != OWN}
    with tempfile.TemporaryDirectory() as folder:
        requirements_file, tested = Path(folder, "release.in"), Path(folder, "tested.txt")
        requirements_file.write_text("\n".join(direct_requirements()) + "\n")
        tested.write_text("\n".join(f"{name}=={version}" for name, version in installed.items()) + "\n")
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate"]
        command += ["--python-version", OLDEST_PYTHON, "--custom-compile-command", "python tools/requirements.py lock"]
        LOCK.parent.mkdir(exist_ok=True)
        LOCK.unlink(missing_ok=True)  # uv would keep the versions in it
        return subprocess.run([*command, "--constraints", tested, "--output-file", LOCK, requirements_file]).returncode


def main(arguments: list[str]) -> int:
    if arguments == ["lowest"]:
        print("\n".join(lower_bounds(all_requirements())))
        return 0
    if arguments == ["lock"]:
        return write_lock()
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
