"""Every chapter, run once: its lessons against the exported module, a process each, two at a time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MINUTES = 5


def chapters():
    """The notebooks that nbdev_test would run: papers and benchmarks are the runner's."""
    left_out = {note.parent for note in NBS.rglob(".notest")}
    found = [path for path in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    return [path.relative_to(NBS).as_posix() for path in found if not left_out & set(path.parents)]


CHAPTERS = chapters()


@pytest.fixture(scope="module")
def outcomes(request, pytestconfig, coverage_folder):
    """A future for each selected chapter, so that two run while the first is waited for."""

    def run(chapter):
        data = coverage_folder / chapter.replace("/", "-")
        command = [sys.executable, ROOT / "tests" / "notebook.py", NBS / chapter, data]
        return subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES)

    chosen = [item.callspec.params["chapter"] for item in request.session.items if "chapter" in getattr(item, "fixturenames", ())]
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {chapter: pool.submit(run, chapter) for chapter in chosen}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_lessons_hold_for_the_exported_module(chapter, outcomes):
    done = outcomes[chapter].result()
    assert done.returncode == 0, done.stderr[-6000:]
