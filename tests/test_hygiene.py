"""The house in order: what is exported, what imports what, what is stored, what is said twice and must agree."""

import ast
import configparser
import importlib
import importlib.metadata
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "lensnb"

# Which rooms each room may import (docs: "The house"). Core and plot are open to all but each other.
GROUND = {"core", "plot"}
BELOW = {
    "core": set(),
    "plot": set(),
    "learn": GROUND,
    "simulator": GROUND,
    "validation": GROUND,
    "score": GROUND | {"learn", "simulator"},
    "inference": GROUND | {"learn", "simulator", "score", "validation"},
    "survey": GROUND | {"learn", "simulator", "score", "validation", "inference"},
    # At the door.
    "runner": GROUND,
    "run": GROUND | {"runner"},
    "claims": GROUND | {"runner", "run"},
    "cli": GROUND | {"runner", "run", "claims"},
}

ALL_NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PARAMETERISED = [p for p in ALL_NOTEBOOKS if p.relative_to(NBS).parts[0] in ("papers", "bench")]
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py" and "weights" not in p.parts)


def name(path):
    """A path as a test id."""
    return path.relative_to(ROOT).as_posix()


def cells(path, kind="code"):
    """The cells of one kind of a notebook on disk, their source as one string."""
    found = json.loads(path.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def parse(source):
    """A cell's syntax tree, its magics left out."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.M))


def files():
    """Everything that travels with the checkout: what git tracks, and what it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    paths = [ROOT / path for path in listed.split("\0") if path]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def dotted(path):
    """A module's name from its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, known):
    """The modules of lensnb that one file imports, wherever in it the import stands."""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            candidates = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            candidates = [(module, alias.name) for alias in node.names]
        else:
            continue
        for module, member in candidates:
            if module.split(".")[0] == "lensnb":
                whole = f"{module}.{member}"
                yield whole if whole in known else module


def room(module):
    """The room a module stands in; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


# ---- export


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """A copy whose package is exported anew and whose notebooks are cleaned."""
    copy = tmp_path_factory.mktemp("rebuilt")
    shutil.copytree(NBS, copy / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for file in ("settings.ini", "pyproject.toml", "_quarto.yml"):
        shutil.copy(ROOT / file, copy)
    (copy / "lensnb").mkdir()
    (copy / "lensnb" / "__init__.py").write_text("")
    code = "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return copy


def python_files(package):
    """The text of a package's modules by relative path; weights are data, not exported."""
    found = {p.relative_to(package).as_posix(): p for p in package.rglob("*.py")}
    return {path: file.read_text() for path, file in found.items() if not path.startswith("weights/")}


def test_the_package_is_what_the_notebooks_export(rebuilt):
    ours, fresh = python_files(PACKAGE), python_files(rebuilt / "lensnb")
    assert set(ours) == set(fresh), "a module without its notebook, or a notebook not exported: make export"
    assert [path for path in ours if ours[path] != fresh[path]] == [], "edited by hand or not exported: make export"


def test_notebooks_are_cleaned(rebuilt):
    dirty = [name(p) for p in ALL_NOTEBOOKS if p.read_text() != (rebuilt / p.relative_to(ROOT)).read_text()]
    assert dirty == [], "nbdev_clean would change these"


# ---- notebooks


@pytest.mark.parametrize("path", ALL_NOTEBOOKS, ids=name)
def test_imports_have_their_own_cells(path):
    imports = (ast.Import, ast.ImportFrom)
    mixed = []
    for cell in cells(path):
        kinds = {isinstance(node, imports) for node in parse(cell["source"]).body}
        if kinds == {True, False}:
            mixed.append(cell["source"])
    assert mixed == [], "a cell that mixes an import with other code is executed alone when the site is built"


@pytest.mark.parametrize("path", ALL_NOTEBOOKS, ids=name)
def test_no_error_and_no_warning_is_stored(path):
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert "error" not in [output["output_type"] for output in outputs]
    stderr = ["".join(output["text"]) for output in outputs if output.get("name") == "stderr"]
    assert stderr == [], "a warning or a progress bar is no part of a page"


@pytest.mark.parametrize("path", ALL_NOTEBOOKS, ids=name)
def test_figures_are_captioned_png(path):
    for cell in cells(path):
        mimes = {mime for output in cell["outputs"] for mime in output.get("data", {})}
        assert not mimes & {"image/svg+xml", "image/jpeg"}, "figures are PNG"
        options = dict(re.findall(r"^#\| ([\w-]+): *(.*)$", cell["source"], re.M))
        if "image/png" in mimes:
            assert options.keys() >= {"label", "fig-cap", "fig-alt"}, f"a figure without its caption:\n{cell['source']}"
        for option in ("fig-cap", "fig-alt"):
            quoted = re.fullmatch(r'".*"', options.get(option, '""'))
            assert quoted, f"{option} unquoted: a colon in it would drop all options\n{cell['source']}"


@pytest.mark.parametrize("path", ALL_NOTEBOOKS, ids=name)
def test_a_title_and_a_subtitle(path):
    first = cells(path, "markdown")[0]["source"].splitlines()
    assert first[0].startswith("# ") and any(line.startswith("> ") for line in first[1:3])


@pytest.mark.parametrize("path", PARAMETERISED, ids=name)
def test_parameters_come_first_and_are_tagged(path):
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    code = [cell for cell in cells(path) if parse(cell["source"]).body]
    assert len(tagged) == 1 and tagged[0]["source"] == code[0]["source"], "the first code cell, tagged, and no other"
    body = parse(tagged[0]["source"]).body
    assert all(isinstance(node, ast.AnnAssign) and node.value for node in body), "name: type = default  # meaning [unit]"
    defaults = {node.target.id: ast.literal_eval(node.value) for node in body}
    assert defaults.keys() >= {"scale", "seed", "out"} and defaults["scale"] == "cpu"


def test_parameterised_notebooks_are_left_to_the_runner():
    folders = {p.parent for p in PARAMETERISED}
    assert [name(folder) for folder in folders if not (folder / ".notest").is_file()] == []


# ---- the rooms


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_run_downwards(path):
    here = room(dotted(path))
    known = {dotted(p) for p in MODULES}
    # Anybody may ask the package itself for its version: it imports nothing.
    up = {m for m in imported(path, known) if room(m) not in ("", here) and room(m) not in BELOW.get(here, set())}
    assert up == set(), f"{here or 'lensnb'} may import {sorted(BELOW.get(here, set()))} alone"


def test_no_circle_of_imports():
    known = {dotted(p) for p in MODULES}
    graph = {dotted(p): set(imported(p, known)) & known for p in MODULES}
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    assert graph == {}, "these import each other in a circle"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_definitions_are_documented(path):
    module = importlib.import_module(dotted(path))
    assert Path(module.__file__).resolve() == path, "another lensnb stands before this checkout's"
    bare = []
    for key in getattr(module, "__all__", []):
        thing = getattr(module, key)
        if getattr(thing, "__module__", None) != module.__name__ or not (inspect.isclass(thing) or callable(thing)):
            continue
        members = [key] if inspect.getdoc(thing) else [f"{key} (no docstring)"]
        if inspect.isclass(thing):
            public = [k for k, v in vars(thing).items() if not k.startswith("_") and (callable(v) or isinstance(v, property))]
            # An overridden method may lean on the words of the one it overrides.
            members += [f"{key}.{k} (no docstring)" for k in public if not inspect.getdoc(getattr(thing, k))]
        bare += [member for member in members if member.endswith("(no docstring)")]
    assert bare == []


# ---- said twice


def test_every_notebook_is_in_the_sidebar():
    listed = []

    def walk(entries):
        for entry in entries:
            if isinstance(entry, str):
                listed.append(entry)
                continue
            listed.extend(entry[key] for key in ("href", "file") if key in entry)
            walk(entry.get("contents", []))

    walk(yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"])
    assert sorted(listed) == sorted(p.relative_to(NBS).as_posix() for p in ALL_NOTEBOOKS)


def test_nbs_follows_the_sites_configuration():
    link = NBS / "_quarto.yml"
    assert link.is_symlink() and link.resolve() == ROOT / "_quarto.yml" and not link.readlink().is_absolute()


def test_readme_is_the_front_page():
    check = subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_the_front_page_lists_every_chapter():
    links = set(re.findall(r"\]\(nbs/([\w/]+\.ipynb)\)", (ROOT / "README.md").read_text()))
    missing = {p.relative_to(NBS).as_posix() for p in ALL_NOTEBOOKS} - links - {"index.ipynb"}
    assert missing == set(), "run nbs/index.ipynb again, then make export"


def test_settings_and_pyproject_agree():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    settings = settings["DEFAULT"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == settings["repo"] == settings["lib_name"] == PACKAGE.name
    assert project["description"] == settings["description"]
    assert project["requires-python"] == f">={settings['min_python']}"
    assert {"apache2": "Apache-2.0"}[settings["license"]] == project["license"]
    assert [author["name"] for author in project["authors"]] == [settings["author"]]
    assert project["keywords"] == settings["keywords"].split()
    assert [f"{k}={v}" for k, v in project["scripts"].items()] == settings["console_scripts"].split()
    assert project["urls"]["Repository"] == settings["git_url"]
    assert project["urls"]["Documentation"] == settings["doc_host"] + settings["doc_baseurl"]
    assert f"Intended Audience :: {settings['audience']}" in project["classifiers"]
    # One version, told in four places.
    version = settings["version"]
    assert f'__version__ = "{version}"' in (PACKAGE / "__init__.py").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


LOCKS = sorted(ROOT.glob("requirements*.lock"))


def pins(path):
    """A lock's requirements, each with its hashes."""
    for block in path.read_text().replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", block.strip())
        yield Requirement(requirement), hashes


@pytest.mark.parametrize("path", LOCKS, ids=name)
def test_locks_are_exact_hashed_and_name_no_index(path):
    found = list(pins(path))
    assert found
    for requirement, hashes in found:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), f"{requirement} is not exact"
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes), f"{requirement} has no hash"
        assert requirement.url is None
    assert not re.search(r"https?:|^-|--(extra-)?index|--find-links|--trusted", path.read_text(), re.M)


def test_the_lock_answers_the_requirements():
    locked = {}
    for requirement, _ in pins(ROOT / "requirements.lock"):
        locked.setdefault(requirement.name, []).append(str(requirement.specifier).removeprefix("=="))
    for source in ("requirements.in", "requirements-dev.in"):
        for line in (ROOT / source).read_text().splitlines():
            line = line.split("#")[0].strip()
            if line and not line.startswith("-r"):
                wanted = Requirement(line)
                versions = locked.get(wanted.name, [])
                assert versions and all(wanted.specifier.contains(v) for v in versions), f"make lock: {line}"


def test_whatever_the_package_imports_is_required():
    providers = importlib.metadata.packages_distributions()
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()]
    required = {canonicalize_name(Requirement(line).name) for line in lines if line}
    missing = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {m.split(".")[0] for m in modules} - sys.stdlib_module_names - {"lensnb"}:
                if not {canonicalize_name(d) for d in providers[module]} & required:
                    missing.add(f"{dotted(path)}: {module}")
    assert missing == set()


def test_every_accelerator_has_the_locked_jax():
    locked = {r.name: str(r.specifier) for r, _ in pins(ROOT / "requirements.lock")}
    for accelerator in ("cuda12", "cuda13"):
        plugin = {r.name: str(r.specifier) for r, _ in pins(ROOT / f"requirements-{accelerator}.lock")}
        assert plugin[f"jax-{accelerator}-plugin"] == plugin[f"jax-{accelerator}-pjrt"] == locked["jax"]
        assert not plugin.keys() & locked.keys()


def test_every_nbdev_module_that_is_called_imports():
    called = {"nbdev", "nbdev.export", "nbdev.clean", "nbdev.doclinks"}
    sources = [p.read_text() for p in (*ROOT.glob("tools/*.py"), *ROOT.glob("tests/*.py"))]
    sources += [cell["source"] for path in ALL_NOTEBOOKS for cell in cells(path)]
    for source in sources:
        called |= set(re.findall(r"^\s*(?:from|import) ((?:nbdev|execnb)[\w.]*)", source, re.M))
    for module in sorted(called):
        importlib.import_module(module)
    commands = {entry.name: entry for entry in importlib.metadata.entry_points(group="console_scripts")}
    for command in re.findall(r"\.venv/bin/(nbdev_\w+)", (ROOT / "Makefile").read_text()):
        assert callable(commands[command].load())


# ---- what travels

ELSEWHERE = re.compile(r"(?<![\w.~/}:])/(?:%s)/" % "|".join(["work", "root", "home", "Users", "tmp", "mnt"]))
REGISTRY = re.compile("|".join([r"pypi\.or" + "g", "pythonhoste" + "d", "npmjs" + r"\.", r"deb\.debia" + "n"]))


def test_no_absolute_path_and_no_registry_is_written_down():
    found = []
    for path in files():
        if path.suffix in (".ipynb", ".py", ".md", ".toml", ".ini", ".yml", ".cff", ".in", ".lock", ".json", "", ".ecsv"):
            text = path.read_text(errors="ignore") if path != Path(__file__) else ""
            found += [f"{name(path)}: {m.group()}" for m in (*ELSEWHERE.finditer(text), *REGISTRY.finditer(text))]
    assert found == []


def test_the_checkout_is_small():
    megabytes = sum(path.stat().st_size for path in files()) / 1e6
    assert megabytes < 50, f"{megabytes:.0f} MB: it has to travel to machines with a GPU"


def test_nothing_is_pickled():
    calls = re.compile(r"\bimport pickle\b|\bpickle\.(loads?|dumps?)\b|allow_pickle=True|\bjoblib\b|\bcloudpickle\b|\bdill\b")
    guilty = [name(p) for p in MODULES if calls.search(p.read_text())]
    assert guilty == []
