"""Map the repository's top-level folders to sub-packages of `guidegraph`; everything else is in pyproject.toml."""

import hashlib
import sys
from typing import Any

from setuptools import find_namespace_packages, setup
from setuptools.command.editable_wheel import editable_wheel

FOLDERS = ("graph", "nodes", "plugins", "workflows")

# Namespace packages, since folders that hold only weights or YAML have no __init__.py and would be dropped otherwise.
packages = find_namespace_packages(
    include=["guidegraph", "guidegraph.*", *(pattern for name in FOLDERS for pattern in (name, f"{name}.*"))],
    exclude=["*.__pycache__", "*.__pycache__.*", "plugins.*"],  # the folders in plugins/ are distributions of their own
)


def installed_package_name(package: str) -> str:
    return package if package.split(".")[0] == "guidegraph" else f"guidegraph.{package}"


class EditableInstall(editable_wheel):
    """An editable install whose tree of links belongs to one environment.

    setuptools has one tree for a checkout, which it deletes and lays anew at each install: imports fail meanwhile in
    every other environment.
    """

    def _select_strategy(self, name: str, tag: str, build_lib: Any) -> Any:
        environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
        return super()._select_strategy(name, f"{tag}-{environment}", build_lib)


setup(
    packages=[installed_package_name(package) for package in packages],
    package_dir={"guidegraph": "guidegraph"} | {f"guidegraph.{name}": name for name in FOLDERS},
    cmdclass={"editable_wheel": EditableInstall},
)
