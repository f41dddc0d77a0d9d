"""The installed package: its public names and its files."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import guidegraph
import guidegraph_runtime
from tests.paths import ROOT

FOLDERS = ("graph", "nodes", "plugins", "workflows")
DATA = (".yaml", ".csv", ".json", ".npz", ".png", ".safetensors")


def python(code: str, *flags: str, path: Path = ROOT) -> str:
    result = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- the public face ------------------------------------------------------------------------------


@pytest.mark.parametrize("heavy", ["torch", "pydantic", "numpy", "networkx", "guidegraph.graph", "guidegraph.nodes"])
def test_import_stays_light(heavy: str) -> None:
    assert python(f"import sys, guidegraph; print({heavy!r} in sys.modules)") == "False"


@pytest.mark.parametrize("name", guidegraph.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(guidegraph, name) is getattr(guidegraph, name)


@pytest.mark.parametrize("module", [guidegraph, guidegraph_runtime])
def test_type_checkers_see_the_names_resolved_at_run_time(module: ModuleType) -> None:
    assert module.__file__
    source = ast.parse(Path(module.__file__).read_text())
    guarded = next(n for n in source.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = {a.asname: n.module for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imports == module._HOME_OF
    assert sorted(module.__all__) == sorted([*imports, "__version__"])


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(guidegraph, "nothing")
    with pytest.raises(AttributeError, match="module 'guidegraph' has no attribute 'nothing'"):
        _ = guidegraph.nothing
    with pytest.raises(ImportError, match="nothing"):
        exec("from guidegraph import nothing")


def test_dir_lists_names_before_their_first_use() -> None:
    assert python("import guidegraph; print(set(guidegraph.__all__) <= set(dir(guidegraph)))") == "True"


def test_checkout_resolves_subpackages_with_no_install() -> None:
    """-S leaves site-packages out, and with it any installed guidegraph."""
    code = "from importlib.util import find_spec; print(*(find_spec(f'guidegraph.{n}').origin for n in %r), sep='\\n')"
    origins = python(code % (FOLDERS,), "-S", path=ROOT).splitlines()
    assert [Path(origin) for origin in origins] == [ROOT / name / "__init__.py" for name in FOLDERS]


def test_all_weights_together_are_at_most_57_mb() -> None:
    """Those of 64 pixels are part of them until the model of 128 pixels is better; tracked files are below 80 MB."""
    sizes = [file.stat().st_size for file in (ROOT / "workflows").rglob("*.safetensors")]
    assert sizes
    assert sum(sizes) <= 57e6


# --- distributions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, so that no build leaves anything in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info", ".*")
    for name in ("guidegraph", *FOLDERS, "runtime", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "setup.cfg", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


def build_wheel(project: Path, folder: Path) -> Path:
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, "-w", str(folder), str(project)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def expected(source: Path) -> set[str]:
    """Every module, and every data file of the workflows, under the name it is imported by; not the gallery's."""
    files = {f.relative_to(source).as_posix() for f in (source / "guidegraph").rglob("*") if f.is_file()}
    for name in FOLDERS:
        kept = (".py", *DATA) if name == "workflows" else (".py",)
        # A folder in plugins/ is a distribution of its own.
        found = (source / name).glob("*") if name == "plugins" else (source / name).rglob("*")
        sources = [f for f in found if f.suffix in kept]
        files |= {f"guidegraph/{f.relative_to(source).as_posix()}" for f in sources}
    return files


def test_wheel_holds_everything_under_guidegraph(source: Path, wheel: Path) -> None:
    assert contents(wheel) == expected(source)


def test_the_page_takes_at_most_250_kb(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(source / "plugins" / "page", tmp_path)) as archive:
        files = archive.infolist()
    assert sum(file.compress_size for file in files) <= 250_000
    static = [file for file in files if "/static/" in file.filename]
    assert sum(file.file_size for file in static) <= 200_000


def test_the_page_carries_the_licences_of_what_it_contains(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(source / "plugins" / "page", tmp_path)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("licenses/NOTICE"))
        notice = archive.read(name).decode()
    assert "Preact" in notice
    assert "Permission is hereby granted" in notice


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = {
            name.split("/", 1)[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name
        }
    assert "guidegraph = guidegraph.commands:main" in info["entry_points.txt"]
    assert f"Version: {guidegraph.__version__}\n" in info["METADATA"]
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= info.keys()
    assert "top_level.txt" not in info or info["top_level.txt"].split() == ["guidegraph"]


def test_installed_wheel_resolves_subpackages(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from importlib.util import find_spec; print(*(find_spec(f'guidegraph.{n}').origin for n in %r), sep='\\n')"
    origins = python(code % (FOLDERS,), "-S", path=tmp_path).splitlines()
    assert [Path(o) for o in origins] == [tmp_path / "guidegraph" / name / "__init__.py" for name in FOLDERS]
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.suffix != ".dist-info") == ["guidegraph"]


@pytest.mark.slow
def test_wheel_from_sdist_is_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    code = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (project,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    assert contents(build_wheel(project, tmp_path / "wheel")) == contents(wheel)


def test_runtime_wheel(source: Path, tmp_path: Path) -> None:
    files = contents(build_wheel(source / "runtime", tmp_path))
    package = source / "runtime" / "guidegraph_runtime"
    assert files == {
        f.relative_to(source / "runtime").as_posix()
        for f in package.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
