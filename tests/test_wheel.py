"""What somebody gets who installs the package without the repository: the modules, and the weights beside them."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "lensnb" / "weights"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves traces in the folder it runs in."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "lensnb", source / "lensnb", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "requirements.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", built, source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(built.glob("lensnb-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with nothing in it but what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", folder, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return folder


def python(installed, cwd, code):
    """What `code` prints, with the wheel's package and an empty working folder."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    done = subprocess.run([sys.executable, "-I", "-c", start + code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "lensnb").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert inside == here


def test_it_imports_from_an_empty_folder(installed, tmp_path):
    where = python(installed, tmp_path, "import lensnb.simulator.mass as m, lensnb.simulator.light; print(m.__file__)")
    assert Path(where.strip()).is_relative_to(installed)


def test_its_weights_load_from_an_empty_folder(installed, tmp_path):
    shipped = sorted(p.name for p in WEIGHTS.iterdir() if p.suffix == ".eqx")
    assert shipped, "no trained network in lensnb/weights"
    code = """
from importlib.resources import files
from lensnb.learn.weights import read_header
for file in sorted(files("lensnb.weights").iterdir(), key=lambda f: f.name):
    if file.name.endswith(".eqx"):
        read_header(file)
        print(file.name)
"""
    assert python(installed, tmp_path, code).split() == shipped


def test_the_command_line_answers(installed, tmp_path):
    code = "import runpy; sys.argv = ['lensnb', '--version']; from lensnb.cli import main; sys.exit(main())"
    from lensnb import __version__

    assert __version__ in python(installed, tmp_path, code)
