"""Run one notebook's lessons against the exported module, in a process of its own, and record what they covered.

    python tests/notebook.py NOTEBOOK COVERAGE_FILE

The exported cells are left out: a name that the module lacks is missing here too. Warnings are errors as in pytest.
"""

import importlib
import os
import re
import sys
import tomllib
import traceback
import warnings
from pathlib import Path

import coverage
from _pytest.config import parse_warning_filter
from execnb.shell import CaptureShell
from jaxtyping import install_import_hook
from nbdev.process import NBProcessor

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
    """Run the lessons of one notebook; the first failure is printed with its cell and ends the process."""
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
            sys.exit(f"{path.relative_to(ROOT)}, this cell:\n\n{cell.source}\n\n{frames}")


def strict_warnings():
    """pytest's filters, so that a notebook's warning is an error too."""
    filters = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["filterwarnings"]
    for line in filters:
        warnings.filterwarnings(*parse_warning_filter(line, escape=False))


def main(notebook, data):
    """Record the coverage of `notebook` in `data`."""
    recorder = coverage.Coverage(data_file=data, config_file=str(ROOT / "pyproject.toml"))
    strict_warnings()
    with recorder.collect(), install_import_hook("lensnb", "beartype.beartype"):
        run(Path(notebook).resolve())
    recorder.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
