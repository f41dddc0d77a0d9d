"""The declared dependencies: their lower bounds, what an export needs, and the lock with hashes."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from guidegraph.commands.exports.steps import NEEDED
from tools.requirements import LOCK, PROJECTS, all_requirements, direct_requirements, lower_bounds

PINNED = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; [^\\]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
)


def test_every_dependency_has_a_lower_bound_which_is_the_oldest_version_it_admits() -> None:
    requirements = all_requirements()
    bounds = list(lower_bounds(requirements))
    assert len(bounds) == len(requirements) > 30
    for declared, bound in zip(map(Requirement, requirements), map(Requirement, bounds), strict=True):
        (pin,) = bound.specifier
        assert (declared.name, declared.marker) == (bound.name, bound.marker)
        assert pin.operator == "=="
        assert {(item.operator, item.version) for item in declared.specifier} >= {(">=", pin.version)}


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.9", "torch~=2.9"])
def test_a_dependency_without_a_lower_bound_is_named(requirement: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^'{re.escape(requirement)}' has no lower bound: declare it as NAME>=VERSION"
    ):
        list(lower_bounds([requirement]))


def test_dependencies_of_an_export_are_installed_with_guidegraph() -> None:
    project = tomllib.loads(PROJECTS[0].read_text(encoding="utf-8"))["project"]
    declared = {Requirement(item).name for item in project["dependencies"]}
    assert {canonicalize_name(name) for name in (*NEEDED, "onnx_ir")} <= declared


def test_the_lock_pins_every_direct_dependency_to_a_version_that_it_admits() -> None:
    pinned = {canonicalize_name(match["name"]): match["version"] for match in PINNED.finditer(LOCK.read_text())}
    for requirement in map(Requirement, direct_requirements()):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {LOCK.name}: make lock"
        assert requirement.specifier.contains(version), f"{requirement.name} {version} is too old or new: make lock"


def test_everything_in_the_lock_has_a_hash() -> None:
    text = LOCK.read_text()
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert sum(not line.startswith(" ") for line in lines) == len(PINNED.findall(text)) > 50
    assert "".join(match[0] for match in PINNED.finditer(text)).splitlines() == lines
