"""Map the repository's top-level folders to sub-packages of `guidegraph`; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

FOLDERS = ("graph", "nodes", "plugins", "workflows")

# Namespace packages, since folders that hold only weights or YAML have no __init__.py and would be dropped otherwise.
found = find_namespace_packages(
    include=["guidegraph", "guidegraph.*", *(pattern for name in FOLDERS for pattern in (name, f"{name}.*"))],
    exclude=["*.__pycache__", "*.__pycache__.*", "plugins.gallery", "plugins.gallery.*"],  # their own distributions
)


def installed_name(package: str) -> str:
    return package if package.split(".")[0] == "guidegraph" else f"guidegraph.{package}"


setup(
    packages=[installed_name(package) for package in found],
    package_dir={"guidegraph": "guidegraph"} | {f"guidegraph.{name}": name for name in FOLDERS},
)
