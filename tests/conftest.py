"""What every test runs under: strict dtypes, strict ranks, and the markers that relax them."""

import contextlib
import functools
import gc
import io
import json
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
import slipcover
from xdist.scheduler import LoadScopeScheduling

# Most of a test's time is XLA's: no optimisation, its older code generator and one part a program halve that. Set XLA_FLAGS to
# test with others.
QUICK = ("--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
         "--xla_cpu_parallel_codegen_split_count=1")
os.environ.setdefault("XLA_FLAGS", QUICK)
# Compilers take and give back memory all the time: what was given back is kept, by the processes that start from here.
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))
os.environ.setdefault("MALLOC_TOP_PAD_", str(2**26))
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))
# Tracing makes millions of small objects that live on: looking for garbage among them every 700 finds none.
gc.set_threshold(200_000, 20, 100)
# A worker has one core: a second thread of BLAS would wait in a busy loop, ten times as long as the matrices take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# JAX runs threads, and a forked copy of a threaded process can hang: workers start afresh.
multiprocessing.set_start_method("spawn", force=True)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


# Longest first, so that no core ends up idle; tests of a file stay together, but for those that share nothing. So do the chapters
# of a room within a room, which share programs; the others go where there is time.
ORDER = ["papers", "engine", "run", "site", "learn", "mcmc", "simulator"]
APART = ["test_papers.py", "test_notebooks.py"]


class Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        if Path(file).name not in APART:
            return file
        room = test.partition("[")[2].rpartition("/")[0]
        return f"{file}::{room}" if room.count("/") == 1 and Path(file).name == "test_notebooks.py" else nodeid


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_collection_modifyitems(config, items):
    place = {f"test_{name}": number for number, name in enumerate(ORDER)} | {"test_notebooks": 99}
    items.sort(key=lambda item: place.get(item.path.stem, len(ORDER)))
    slow = pytest.mark.skip(reason="takes minutes; run with --slow (make test SLOW=1)")
    gpu = pytest.mark.skip(reason="needs an accelerator, and JAX sees none")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        if "gpu" in item.keywords and jax.default_backend() == "cpu":
            item.add_marker(gpu)


@pytest.fixture(autouse=True)
def promotion(request):
    """Strict dtype and rank promotion; `@pytest.mark.relaxed` restores JAX's defaults."""
    with contextlib.ExitStack() as stack:
        if "relaxed" not in request.keywords:
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
            stack.enter_context(jax.numpy_rank_promotion("raise"))
        yield


@pytest.fixture
def x64(promotion):
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The survey images beside the checkout, for tests on real data."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout: real survey images are not part of the project")
    return folder


COVERAGE = pytest.StashKey[Path]()


def pytest_configure(config):
    """The folder, one for all workers, where the notebooks' processes leave what they covered."""
    given = getattr(config, "workerinput", {}).get("coverage")
    config.stash[COVERAGE] = Path(given or tempfile.mkdtemp(prefix="lensnb-coverage-"))


def pytest_configure_node(node):
    node.workerinput["coverage"] = str(node.config.stash[COVERAGE])


@pytest.fixture(scope="session")
def coverage_folder(pytestconfig):
    return pytestconfig.stash[COVERAGE]


def pytest_terminal_summary(terminalreporter, config):
    """Print how much of the package the notebooks' lessons cover."""
    folder = config.stash[COVERAGE]
    if not hasattr(config, "workerinput") and any(folder.iterdir()):  # pytest asks its workers too
        text = io.StringIO()
        reports = [json.loads(file.read_text()) for file in sorted(folder.iterdir())]
        slipcover.print_coverage(functools.reduce(slipcover.merge_coverage, reports), outfile=text, skip_covered=True, missing_width=60)
        terminalreporter.section("coverage of lensnb/ by its notebooks")
        terminalreporter.write(text.getvalue())


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[COVERAGE], ignore_errors=True)
