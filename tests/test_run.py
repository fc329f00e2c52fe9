"""The runner as its users meet it: names, values, caching, failures, kills, and what lies where afterwards."""

import ast
import configparser
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import papermill
import pytest

from lensnb.cli import main
from lensnb.core import InputError
from lensnb.inference.analyse.cutout import read_cutout
from lensnb.run import plan, run
from lensnb.runner.execute import explain_death
from lensnb.runner.folder import RefusedInput, RunFailed, finished, locked, publish, write_text
from lensnb.runner.parameters import notebook_parameters, read_notebook, resolve
from lensnb.runner.report import report_html, site_folder
from test_cutout import BAD_FILES

PARAMETERS = """\
cutout: str = ""                       # FITS file
z_l: float | None = None               # lens redshift
n_samples: int = 100                   # posterior samples
whiten: bool = True                    # rescale first
model: Literal["SIE", "EPL"] = "SIE"   # mass model
levels: list[float] = [0.68, 0.95]     # of the intervals
name = "ring"
scale: Literal["smoke", "cpu", "gpu"] = "cpu"
seed: int = 1
out: str = "."                         # folder of the results
"""

COUNT = """\
with open(os.environ["COUNTER"], "a") as counter:
    counter.write("once ")
Path(out, "result.json").write_text(json.dumps([cutout and Path(cutout).read_text(), z_l, n_samples, model, name]))
Path(out, ".cache").mkdir(exist_ok=True)
Path(out, "half.nc.part").write_text("half")
print("written to", Path(out, "result.json"), Path(out).resolve())"""


def notebook(path, *cells, parameters=PARAMETERS, **metadata):
    """A notebook at `path` with imports, parameters and `cells`."""
    v4 = nbformat.v4
    imports = "import json, os, sys, time\nfrom pathlib import Path\nfrom typing import Literal"
    made = v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}, **metadata})
    made.cells = [v4.new_code_cell(imports), v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made.cells += [v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(made, path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, with a place to count executions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COUNTER", str(tmp_path / "counter"))
    return tmp_path


def executions(folder):
    """How often a counting notebook ran."""
    counter = folder / "counter"
    return counter.read_text().count("once") if counter.exists() else 0


def left_behind(folder):
    """Everything in `folder` but notebooks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".ipynb")


# What a notebook takes.


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    """The parameters of the test notebook."""
    return notebook_parameters(read_notebook(notebook(tmp_path_factory.mktemp("nb") / "a.ipynb")))


@pytest.mark.parametrize(
    "name",
    ["n_sample", "N_SAMPLES", "", " seed", "seed=1;x", "seed\nimport os", "a b", "class", "__import__('os')", "out.x", "zl\u0301"],
)
def test_unknown_names_are_refused(declared, name):
    with pytest.raises(InputError, match="no parameter|not the name"):
        resolve(declared, {name: "1"}, text=True)


def test_the_nearest_name_is_suggested(declared):
    with pytest.raises(InputError, match="did you mean n_samples"):
        resolve(declared, {"nsample": 1})


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("z_l", "0.5", 0.5), ("z_l", "1", 1.0), ("z_l", "None", None), ("z_l", "", None), ("n_samples", "7", 7),
        ("whiten", "false", False), ("whiten", "Yes", True), ("model", "EPL", "EPL"), ("levels", "[0.5, 1]", [0.5, 1.0]),
        ("name", "a=b 'c' \"d\"\\n", "a=b 'c' \"d\"\\n"), ("name", "5", "5"), ("cutout", "~/a.fits", str(Path.home() / "a.fits")),
    ],
)  # fmt: skip
def test_text_is_read_as_the_type_asks(declared, name, text, value):
    found = resolve(declared, {name: text}, text=True)[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name, text",
    [
        ("z_l", "half"), ("z_l", "nan"), ("z_l", "1e999"), ("n_samples", "1.5"), ("n_samples", "many"), ("n_samples", ""),
        ("n_samples", "__import__('os')"), ("whiten", "2"), ("model", "NFW"), ("model", "sie"), ("levels", "0.5"),
        ("levels", '["a"]'), ("name", "a\0b"), ("name", os.fsdecode(b"\xff.fits")), ("scale", "huge"),
    ],
)  # fmt: skip
def test_text_of_another_type_is_refused(declared, name, text):
    with pytest.raises(InputError, match=f"The parameter {name} must be"):
        resolve(declared, {name: text}, text=True)


@pytest.mark.parametrize(
    "name, given, value",
    [
        ("z_l", np.float32(0.5), 0.5), ("z_l", jnp.float32(0.5), 0.5), ("z_l", np.array(2), 2.0), ("n_samples", np.int64(3), 3),
        ("n_samples", jnp.asarray(3), 3), ("whiten", np.bool_(False), False), ("cutout", Path("a.fits"), "a.fits"),
        ("levels", np.array([0.5, 0.9]), [0.5, 0.9]), ("levels", (jnp.float32(0.5), 1), [0.5, 1.0]), ("name", np.str_("x"), "x"),
    ],
)  # fmt: skip
def test_numpy_jax_and_paths_become_plain(declared, name, given, value):
    found = resolve(declared, {name: given})[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name, given",
    [
        ("z_l", "0.5"), ("z_l", True), ("z_l", np.array([0.5])), ("z_l", float("nan")), ("n_samples", 3.0), ("n_samples", True),
        ("n_samples", None), ("whiten", 1), ("model", None), ("name", b"x"), ("name", 5), ("name", object()), ("levels", {"a": 1}),
        ("z_l", 10**400),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(declared, name, given):
    with pytest.raises(InputError, match=f"The parameter {name} must be"):
        resolve(declared, {name: given})


# Notebooks that are none.


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no valid JSON"), ("{", "no valid JSON"), ("[]", "no cells"), ("{}", "no cells"), ('{"cells": []}', "format is None"),
        ('{"cells": [3], "nbformat": 4}', "cell 1"), ('{"worksheets": [], "nbformat": 3}', "format is 3"),
        ('{"cells": [], "nbformat": 4}', "no cell tagged"), ("\xff\xfe", "no valid JSON"), ("[" * 100000, "no valid JSON"),
    ],
)  # fmt: skip
def test_malformed_notebooks_end_with_a_sentence(here, capsys, text, said):
    (here / "a.ipynb").write_text(text, encoding="latin-1")
    assert main(["run", "a.ipynb"]) == 2
    stderr = capsys.readouterr().err
    assert said in stderr and stderr.count("\n") == 1 and left_behind(here) == []


@pytest.mark.parametrize(
    "cell, said",
    [
        ("n: int = 'a'", "default of n"), ("n: int = 1 + 1j", "default of n"), ("n = print()", "computed"), ("n: dict = {}", "type of n"),
        ("n: int =", "not Python"), ("for i in []: pass", "alone"), ("a, b = 1, 2", "alone"), ("n: int", "alone"),
    ],
)  # fmt: skip
def test_unusable_parameter_cells_end_with_a_sentence(here, capsys, cell, said):
    notebook(here / "a.ipynb", parameters=cell)
    assert main(["run", "a.ipynb"]) == 2
    stderr = capsys.readouterr().err
    assert said in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["missing.ipynb"], "no notebook"), (["plian.ipynb"], "did you mean plain.ipynb"), (["."], "is a folder"),
        (["a.ipynb", "-p", "seed"], "no value"), (["a.ipynb", "-p", "seed=1", "-p", "seed=2"], "twice"),
        (["a.ipynb", "-p", "seeds=1"], "did you mean seed"), (["a.ipynb", "-p", "scale=cpu", "--scale", "gpu"], "twice"),
        (["a.ipynb", "a.ipynb", "-p", "out=x"], "out is the folder of one run"), (["r.ipynb"], "written in R"),
        (["k.ipynb"], "not installed"), (["plain.ipynb", "--scale", "cpu"], "no parameter scale"),
        (["a.ipynb", "-p", "out=a.ipynb"], "a file is in its way"), (["a.ipynb", "-p", "out=a.ipynb/b/c"], "a file is in its way"),
        (["a.ipynb", "-p", "out=" + 300 * "x"], "cannot be written"), (["a.ipynb", "--runs", "a.ipynb/runs"], "a file is in its way"),
        (["a.ipynb", "-p", "out=/proc/out"], "cannot be written"),
    ],
)  # fmt: skip
def test_mistakes_end_before_work_starts(here, capsys, words, said):
    notebook(here / "a.ipynb", COUNT)
    notebook(here / "plain.ipynb", parameters="n: int = 1")
    notebook(here / "r.ipynb", kernelspec={"name": "ir", "display_name": "R", "language": "R"})
    notebook(here / "k.ipynb", kernelspec={"name": "nowhere", "display_name": "", "language": "python"})
    assert main(["run", *words]) == 2
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1 and output.out == ""
    assert left_behind(here) == [] and executions(here) == 0


PAPERS = Path(__file__).resolve().parent.parent / "nbs" / "papers"


@pytest.mark.parametrize(
    "word, said",
    [
        ("scale=big", "one of 'smoke', 'cpu', 'gpu', not 'big'"), ("scale=", "one of"), ("scale=CPU", "did you mean 'cpu'?"),
        ("seed=99999999999999999999999", "from 0 to 4294967295"), ("seed=4294967296", "from 0 to 4294967295"), ("seed=-1", "from 0 to"),
        ("seed=1.5", "from 0 to"), ("seed=None", "from 0 to"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("paper", ["00_analyse", "00_demo"])
def test_scale_and_seed_are_checked_before_work_starts(here, capsys, paper, word, said):
    assert main(["run", str(PAPERS / f"{paper}.ipynb"), "-p", word]) == 2
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1 and output.out == "" and left_behind(here) == []


def test_the_largest_seed_is_jax_s_own():
    declared = notebook_parameters(read_notebook(PAPERS / "00_analyse.ipynb"))
    keys = [jax.random.key(resolve(declared, {"seed": seed})["seed"]) for seed in (0, 1, 2**32 - 1)]
    assert len({tuple(map(int, jax.random.key_data(key))) for key in keys}) == 3
    with pytest.raises(InputError, match="seed must be"):
        resolve(declared, {"seed": np.uint64(2**32)})


def test_a_refused_read_only_folder(here, capsys):
    notebook(here / "a.ipynb")
    (here / "locked").mkdir(mode=0o555)
    if os.access(here / "locked", os.W_OK):
        pytest.skip("this user may write anywhere")
    assert main(["run", "a.ipynb", "-p", "out=locked/results"]) == 2
    assert "cannot be written" in capsys.readouterr().err


# The identity of a run.


def test_what_names_a_run_and_what_does_not(here, monkeypatch):
    path = notebook(here / "a.ipynb", COUNT)
    for name, text in (("one.fits", "a"), ("two.fits", "a"), ("three.fits", "b")):
        (here / name).write_text(text)

    def name(path=path, **parameters):
        return plan(path, parameters).name

    base = name(cutout="one.fits")
    assert base.startswith("a-")
    assert base == name(cutout="two.fits") == name(cutout="one.fits", out="results", n_samples=100)
    assert base == name(notebook(here / "elsewhere" / "a.ipynb", COUNT), cutout=str(here / "one.fits"))
    others = [name(cutout="three.fits"), name(cutout="absent.fits"), name(cutout="one.fits", seed=2), name(cutout="one.fits", scale="gpu"),
              name(notebook(here / "later" / "a.ipynb", COUNT + " "), cutout="one.fits")]  # fmt: skip
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    others.append(name(cutout="one.fits"))
    monkeypatch.delenv("JAX_ENABLE_X64")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(here / "cache"))
    assert base == name(cutout="one.fits")
    monkeypatch.setattr("lensnb.runner.identity.versions", lambda: {"jax": "0"})
    others.append(name(cutout="one.fits"))
    assert len({base, *others}) == 1 + len(others)
    assert "runs" not in left_behind(here)


# Running. A kernel takes a second or two to start, so each of these looks at several things.


def test_a_run_is_finished_once_and_copied(here, capsys, monkeypatch):
    notebook(here / "a.ipynb", COUNT)
    (here / "data.txt").write_text("photons")
    nasty = "\"); import os; open('hacked', 'w') #'\\\n{x} $é"
    words = ["run", "a.ipynb", "-p", "cutout=data.txt", "-p", "z_l=0.5", "-p", f"name={nasty}"]

    assert main([*words, "-p", "out=results/first"]) == 0
    output = capsys.readouterr()
    assert output.out == "results/first/report.html\n"
    assert "100%" in output.err and "a: finished" in output.err
    (folder,) = (here / "runs").iterdir()
    assert left_behind(here / "results" / "first") == left_behind(folder) == ["manifest.json", "report.html", "result.json"]
    assert json.loads((folder / "result.json").read_text()) == ["photons", 0.5, 100, "SIE", nasty]
    assert not (here / "hacked").exists() and finished(folder) and finished(here / "results" / "first")
    for page in (folder / "report.html", folder / "notebook.ipynb"):  # the working folder is gone, and nothing speaks of it
        assert ".partial" not in page.read_text() and "written to result.json" in page.read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seeds"] == {"seed": 1} and manifest["parameters"]["z_l"] == 0.5 and manifest["versions"]["jax"]
    assert manifest["data"]["cutout"]["name"] == "data.txt" and set(manifest["outputs"]) == {"notebook.ipynb", "report.html", "result.json"}

    assert main([*words, "-p", "out=results/first"]) == 0 and main([*words, "-p", "out=second"]) == 0 and main(words) == 0
    assert capsys.readouterr().out.splitlines() == ["results/first/report.html", "second/report.html", str(folder.relative_to(here) / "report.html")]
    assert executions(here) == 1 and left_behind(here / "second") == left_behind(folder)

    assert main(["list"]) == 0 and "finished" in capsys.readouterr().out
    (here / "mine").mkdir()
    (here / "mine" / "result.json").write_text("precious")
    assert main([*words, "-p", "out=mine"]) == 1
    assert "already holds result.json" in capsys.readouterr().err
    assert left_behind(here / "mine") == ["result.json"] and (here / "mine" / "result.json").read_text() == "precious"

    (here / "data.txt").write_text("more photons")  # under the same name
    assert run("a.ipynb", {"cutout": Path("data.txt"), "z_l": np.float64(0.5), "name": nasty, "out": "second"}, progress=False).reused is False
    assert executions(here) == 2 and json.loads((here / "second" / "result.json").read_text())[0] == "more photons"


def test_a_damaged_run_is_run_again(here):
    notebook(here / "a.ipynb", COUNT)
    folder = run("a.ipynb", progress=False).folder
    (folder / "result.json").write_text("[")
    again = run("a.ipynb", progress=False)
    assert not again.reused and again.folder == folder and finished(folder) and executions(here) == 2
    assert left_behind(here / "runs") == [folder.name]


def test_failures_have_a_sentence_and_a_code(here, capsys):
    refuse = "from lensnb.core import InputError"
    notebook(here / "refuses.ipynb", refuse, "raise InputError('The image is all NaN; give another one.')")
    notebook(here / "breaks.ipynb", "raise ValueError('first line\\nsecond line')")
    notebook(here / "dies.ipynb", "os.kill(os.getpid(), 9)")
    notebook(here / "works.ipynb", "1 + 1")

    assert main(["run", "refuses.ipynb", "--quiet"]) == 2
    output = capsys.readouterr()
    assert output.err == "The image is all NaN; give another one.\n" and output.out == ""
    assert left_behind(here / "runs") == []
    partial = plan("refuses.ipynb").folder.with_suffix(".partial")
    for kept in ([".source.ipynb", "notebook.ipynb", "half.nc.part"], [".source.ipynb", "state.eqx"]):  # by a run that was killed
        partial.mkdir()
        for name in kept:
            (partial / name).touch()
        assert main(["run", "refuses.ipynb", "--quiet"]) == 2
        assert left_behind(here / "runs") == ([partial.name] if "state.eqx" in kept else [])
    assert (partial / "state.eqx").exists()
    capsys.readouterr()

    assert main(["run", "breaks.ipynb", "dies.ipynb", "works.ipynb", "--quiet"]) == 1
    output = capsys.readouterr()
    assert "breaks failed in cell In [4]: ValueError: first line. The executed notebook is runs/breaks-" in output.err
    assert "dies did not finish: its process was killed, most often because memory ran out" in output.err
    assert "Traceback" not in output.err and output.err.splitlines()[-1].split()[:2] == ["works", "finished"]
    assert output.out.startswith("runs/works-") and output.out.count("\n") == 1
    executed = next((here / "runs").glob("breaks-*.partial")) / "notebook.ipynb"
    assert "second line" in executed.read_text()

    assert main(["run", "breaks.ipynb", "--quiet", "--traceback"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def one_sentence_and_no_folder(here, before, stderr, words):
    """Whether a refusal reads as one and leaves nothing but the empty folder of runs."""
    assert words in stderr and "bad.fits" in stderr and stderr.endswith(".\n") and stderr.count("\n") == 1, stderr
    assert [name for name in left_behind(here) if name not in before] == ["runs"] and left_behind(here / "runs") == []


@pytest.mark.parametrize("kind", ["truncated", "all NaN"])
def test_a_bad_cutout_ends_the_command_with_one_sentence(here, kind):
    make, words = BAD_FILES[kind]
    make(here)
    before = left_behind(here)
    program = "import sys; from lensnb.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "run", PAPERS / "00_analyse.ipynb", "-p", "cutout=bad.fits", "-p", "out=results", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    one_sentence_and_no_folder(here, before, done.stderr, words)


@pytest.mark.parametrize("kind", list(BAD_FILES)[::3])
def test_other_bad_cutouts_end_so(here, capsys, monkeypatch, kind):
    """The same, a kernel's start saved: the paper's step that reads is taken in this process."""

    def read(notebook, parameters, work, *_):
        Path(parameters["out"], "half.nc").touch()
        try:
            read_cutout(parameters["cutout"])
        except InputError as error:
            raise RefusedInput(str(error), "Traceback") from None

    monkeypatch.setattr("lensnb.runner.execute.execute", read)
    make, words = BAD_FILES[kind]
    make(here)
    before = left_behind(here)
    assert main(["run", str(PAPERS / "00_analyse.ipynb"), "-p", "cutout=bad.fits", "-p", "out=results"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    one_sentence_and_no_folder(here, before, output.err, words)


def test_papermill_itself_runs_the_same_notebook(here):
    notebook(here / "a.ipynb", COUNT)
    command = [sys.executable, "-m", "papermill", "a.ipynb", "b.ipynb", "-p", "n_samples", "5", "-p", "out", ".", "--no-progress-bar"]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((here / "result.json").read_text())[2] == 5


@pytest.mark.parametrize("paper", sorted(PAPERS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_papermill_s_own_help_names_every_parameter(paper, caplog):
    declared = notebook_parameters(read_notebook(paper))
    with caplog.at_level("WARNING", logger="papermill"):
        shown = papermill.inspect_notebook(str(paper))
    assert list(shown) == list(declared) and not caplog.records
    for name, parameter in declared.items():
        assert shown[name]["inferred_type_name"] == parameter.annotation and shown[name]["help"] == parameter.meaning
        assert ast.literal_eval(shown[name]["default"]) == parameter.default


# Interruptions.

TRAIN = """\
state = Path(out, "state.json")
step, total = json.loads(state.read_text()) if state.exists() else (0, seed)
Path(os.environ["KERNEL"]).write_text(str(os.getpid()))
while step < n_samples:
    step, total = step + 1, (total * 1103515245 + 12345) % 2**31
    time.sleep(0.02)
    state.with_suffix(".part").write_text(json.dumps([step, total]))
    os.replace(state.with_suffix(".part"), state)
    with open(os.environ["COUNTER"], "a") as counter:
        counter.write("once ")
Path(out, "half.txt").write_text("half")
time.sleep(0.05)
Path(out, "half.txt").write_text("whole")"""


def alive(pid):
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=200):
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def start(here, monkeypatch):
    """Starts the command line, training, in a process of its own; ends what the test leaves running."""
    notebook(here / "train.ipynb", TRAIN)
    monkeypatch.setenv("KERNEL", str(here / "kernel"))
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from lensnb.cli import main; sys.exit(main())"  # a process started in the background ignores Ctrl-C
    command = [sys.executable, "-c", program, "run", "train.ipynb", "-p", "n_samples=100", "-p", "out=results", "--quiet"]
    started = []

    def launch():
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield launch
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_killed_at_any_moment_a_run_resumes(here, start):
    rng = random.Random(20261123)
    for attempt in range(5):
        (here / "kernel").unlink(missing_ok=True)
        process = start()
        if attempt:  # the first is killed wherever it is while starting, the others while the notebook works
            wait_for((here / "kernel").exists)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.communicate()
        if (here / "kernel").exists():
            kernel = int((here / "kernel").read_text())
            wait_for(lambda: not alive(kernel), seconds=5)
        assert not (here / "results").exists() and not [p for p in (here / "runs").glob("train-*") if p.suffix != ".partial"]
    steps = executions(here)
    assert 0 < steps < 100

    first, second = start(), start()  # the second waits for the first, and finds it finished
    outputs = [process.communicate(timeout=400) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert [out.splitlines()[-1] for out, _ in outputs] == ["results/report.html"] * 2
    assert executions(here) <= 100 + 5  # a step may be killed between being saved and being counted, or be done twice
    total = 1
    for _ in range(100):
        total = (total * 1103515245 + 12345) % 2**31
    assert json.loads((here / "results" / "state.json").read_text()) == [100, total]
    assert (here / "results" / "half.txt").read_text() == "whole" and finished(here / "results")
    (folder,) = (here / "runs").iterdir()
    assert folder.suffix != ".partial"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ctrl_c_stops_cleanly(here, start):
    notebook(here / "train.ipynb", TRAIN.replace("n_samples", "10**9"))
    process = start()
    wait_for(lambda: (here / "kernel").exists() and (here / "kernel").read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130 and out == "" and err.splitlines()[-1].startswith("Stopped")
    assert "Traceback" not in err and not alive(int((here / "kernel").read_text()))
    assert not (here / "results").exists()


def test_a_stale_lock_is_no_lock(tmp_path):
    (tmp_path / "lock").write_text("999999")
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


# Pieces.


def test_a_full_disk_is_said_to_be_full(here, monkeypatch, capsys):
    notebook(here / "a.ipynb")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lensnb.run.carry_out", full)
    assert main(["run", "a.ipynb"]) == 1
    assert "No space left on device; make room" in capsys.readouterr().err


def test_how_a_kernel_died_is_told(tmp_path):
    assert "memory" in str(explain_death("a", -9, tmp_path / "log"))
    assert "SIGSEGV" in str(explain_death("a", -11, tmp_path / "log"))
    assert "code 3" in str(explain_death("a", 3, tmp_path / "log"))


def test_an_interrupted_copy_is_not_taken_for_a_run(tmp_path):
    folder, out = tmp_path / "run", tmp_path / "out"
    folder.mkdir()
    write_text(folder / "a.txt", "a")
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    write_text(folder / "manifest.json", json.dumps({"outputs": {"a.txt": {"sha256": digest}}}))
    publish(folder, out)
    assert finished(out)
    (folder / "a.txt").unlink()
    with pytest.raises(RunFailed, match="could not be copied"):
        publish(folder, out)
    assert finished(out) and left_behind(out) == ["a.txt", "manifest.json"]


def test_a_report_fetches_nothing():
    v4 = nbformat.v4
    text = "# Title\n$$a &= b$$\n\n![x](data:image/png;base64,AA==) $\\unknown{x}$ and $\\frac{1}{$"
    outputs = [v4.new_output("display_data", data={"text/latex": "$\\theta_E$"}),
               v4.new_output("display_data", data={"image/png": "AA=="}),
               v4.new_output("stream", name="stderr", text="\rfit:  50%|##   | 1/2\rfit: 100%|#####| 2/2\n")]  # fmt: skip
    code = '#| label: fig-x\n#| fig-cap: "A ring: whole."\n#| fig-alt: "a \\"ring\\""\nplot(1)'
    page = report_html(v4.new_notebook(cells=[v4.new_markdown_cell(text), v4.new_code_cell(code, outputs=outputs)]))
    for fetch in ("src=\"http", "href=\"http", "<link", "@import", "cdn", "MathJax", "require.js"):
        assert fetch not in page
    assert "<b>Figure 1.</b> A ring: whole." in page and "50%" not in page and page.count("<math") >= 2


def test_a_report_links_to_the_site():
    text = "[a](../inference/npe.ipynb#fit), [b](00_Demo.ipynb), [c](model.fits), [d](https://a.b/c.ipynb), [e](#fig-x), [f](../../../x.ipynb)"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    settings = configparser.ConfigParser()
    settings.read(PAPERS.parent.parent / "settings.ini")
    site = settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]
    links = re.findall(r'<a href="([^"]*)"', report_html(made, folder=site_folder(PAPERS / "00_analyse.ipynb")))
    assert links == [f"{site}/inference/npe.html#fit", f"{site}/papers/demo.html", "model.fits", "https://a.b/c.ipynb", "#fig-x", f"{site}/x.html"]
    assert site_folder("/a/lens.ipynb") == "" and "site/inference" not in report_html(made)


@pytest.mark.parametrize("paper", sorted(PAPERS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_links_of_a_paper_s_report_lead_somewhere(paper):
    page = report_html(nbformat.read(paper, as_version=4), folder=site_folder(paper))
    site = "https://lensnb.github.io/lensnb/"
    pages = {site + re.sub(r"\d+_", "", p.relative_to(PAPERS.parent).with_suffix(".html").as_posix()) for p in PAPERS.parent.rglob("*.ipynb")}
    for link in re.findall(r'<a [^>]*href="([^"#]+)', page):
        assert link in pages or (link.startswith("http") and not link.startswith(site)), link


@pytest.mark.parametrize("words", [["run"], ["run", "a.ipynb", "--scale", "big"], ["rum"], []], ids=" ".join)
def test_wrong_usage_names_the_command(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    *usage, complaint = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and usage[0].startswith("usage: lensnb ") and len(usage) == 1
    assert complaint.startswith(f"lensnb {words[0]}: error: " if words[:1] == ["run"] else "lensnb: error: ")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["parameters", "--help"], ["list", "--help"], ["--version"]])
def test_help_is_short_and_wide(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text and max(map(len, text.splitlines())) <= 120


def test_what_a_notebook_takes_is_shown(here, capsys):
    notebook(here / "a.ipynb")
    assert main(["parameters", "a.ipynb"]) == main(["run", "a.ipynb", "--help-notebook"]) == 0
    text = capsys.readouterr().out
    assert "lens redshift" in text and "Literal['SIE', 'EPL']" in text and text.count("float | None") == 2
