"""Run notebooks' lessons against the exported module and record what they covered: a worker for test_notebooks.py.

    python tests/notebook.py COVERAGE_FILE

reads the path of a notebook a line and answers each with a line of JSON: its failure (empty when there is none) and the
seconds it took. One process runs many, since importing JAX and compiling what they share costs more than most lessons.
The exported cells are left out: a name that the module lacks is missing here too. Warnings are errors as in pytest.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import sys
import time
import tomllib
import traceback
import warnings
from pathlib import Path

import jax
import matplotlib
import slipcover
from _pytest.config import parse_warning_filter
from execnb.shell import CaptureShell
from jaxtyping import install_import_hook
from matplotlib import pyplot as plt
from nbdev.process import NBProcessor
from slipcover.importer import FileMatcher, ImportManager

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {"slow", "gpu"}  # settings.ini: tst_flags


def exported(cell):
    """The modules a cell is exported to: '' for the notebook's own."""
    for name in ("export", "exports", "exporti"):
        if name in cell.directives_:
            return cell.directives_[name] or [""]
    return []


def lesson(cell):
    """Whether a cell is run here."""
    marks = cell.directives_
    return cell.cell_type == "code" and not exported(cell) and marks.get("eval:") != ["false"] and not SKIPPED & marks.keys()


def run(path):
    """Run the lessons of one notebook; what its first failure says, with its cell, or nothing."""
    notebook = NBProcessor(path, process=False).nb
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    default = [cell.directives_["default_exp"][0] for cell in code if "default_exp" in cell.directives_]
    modules = {target or default[0] for cell in code for target in exported(cell)}
    shell = CaptureShell(mpl_format="png")
    for module in sorted(modules):
        names = vars(importlib.import_module(f"lensnb.{module}".removesuffix(".__init__")))
        shell.user_ns.update({key: value for key, value in names.items() if not re.fullmatch("__.*__", key)})
    os.chdir(path.parent)
    for cell in filter(lesson, code):
        shell.run(cell.source)
        if shell.exc:
            frames = "".join(traceback.format_exception(shell.exc))
            return f"{path.relative_to(ROOT)}, this cell:\n\n{cell.source}\n\n{frames}"
    return ""


@contextlib.contextmanager
def as_found():
    """Whatever a notebook sets, the next one finds as it was."""
    settings = {name: getattr(jax.config, name) for name in ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")}
    environment = dict(os.environ)
    with warnings.catch_warnings(), matplotlib.rc_context():
        yield
    plt.close("all")
    for name, value in settings.items():
        jax.config.update(name, value)
    os.environ.clear()
    os.environ.update(environment)


def strict_warnings():
    """pytest's filters, so that a notebook's warning is an error too."""
    filters = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["filterwarnings"]
    for line in filters:
        warnings.filterwarnings(*parse_warning_filter(line, escape=False))


def main(data):
    """Answer standard input until it ends; the coverage of all goes into `data`."""
    gc.set_threshold(200_000, 20, 100)  # as conftest.py
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what notebooks print is no answer
    package, left_out = [str(ROOT / "lensnb")], ["*/_modidx.py"]
    recorder = slipcover.Slipcover(source=package, omit=left_out)
    strict_warnings()
    # the later hook is asked first: it counts the lines of what the other has made
    with install_import_hook("lensnb", "beartype.beartype"), ImportManager(recorder, FileMatcher(package, left_out)):
        for line in sys.stdin:
            begun = time.monotonic()
            with as_found():
                failure = run(Path(line.strip()).resolve())
            print(json.dumps([failure, time.monotonic() - begun]), file=answers, flush=True)
    os.chdir(ROOT)  # paths are told relative to here
    Path(data).write_text(json.dumps(recorder.get_coverage()))
    os._exit(0)  # hundreds of compiled programs take half a minute to be taken apart one by one


if __name__ == "__main__":
    main(*sys.argv[1:])
