"""Every chapter, run once: its lessons against the exported module, in one process a worker."""

import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MINUTES = 5


def chapters():
    """The notebooks that nbdev_test would run: papers and benchmarks are the runner's."""
    left_out = {note.parent for note in NBS.rglob(".notest")}
    found = [path for path in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    names = [path.relative_to(NBS).as_posix() for path in found if not left_out & set(path.parents)]
    return sorted(names, key=lambda name: name.count("/") < 2)  # rooms within rooms first: conftest.py keeps each together


CHAPTERS = chapters()
# They compute for longer than they compile: in a process of their own, compiled a little better than conftest.py asks.
HEAVY = {f"{chapter}.ipynb" for chapter in ("inference/analyse/optimum", "inference/analyse/refine", "simulator/batch")}


class Process:
    """A process of tests/notebook.py, started anew when a chapter ends it."""

    def __init__(self, folder, scratch, level):
        self.folder, self.scratch, self.process = folder, scratch, None
        flags = os.environ["XLA_FLAGS"].replace("optimization_level=0", f"optimization_level={level}")
        self.environment = os.environ | {"XLA_FLAGS": flags}

    def run(self, chapter):
        """The failure of one chapter, empty when there is none, and the seconds it took."""
        if self.process is None or self.process.poll() is not None:
            name = uuid.uuid4().hex
            self.complaints = open(self.scratch / f"{name}.txt", "w+")
            command = [sys.executable, ROOT / "tests" / "notebook.py", self.folder / name]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True,
                                            env=self.environment)
        print(NBS / chapter, file=self.process.stdin, flush=True)
        late = threading.Timer(60 * MINUTES, self.process.kill)
        late.start()
        answer = self.process.stdout.readline()
        late.cancel()
        if answer:
            return json.loads(answer)
        self.complaints.seek(0)
        said = self.complaints.read()[-4000:]
        self.close()
        return [f"{chapter} ended its process (code {self.process.returncode}; after {MINUTES} minutes it is killed):\n{said}", 0.0]

    def close(self):
        """Let it write its coverage and end."""
        if self.process is not None:
            with self.process, self.complaints:
                self.process.stdin.close()


@pytest.fixture(scope="module")
def processes(coverage_folder, tmp_path_factory):
    """One for most chapters, and one for the heavy."""
    pair = [Process(coverage_folder, tmp_path_factory.mktemp("notebooks"), level) for level in (0, 1)]
    yield pair
    for worker in pair:
        worker.close()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_lessons_hold_for_the_exported_module(chapter, processes, record_property):
    failure, seconds = processes[chapter in HEAVY].run(chapter)
    record_property("seconds", round(seconds, 1))
    assert not failure, failure[-6000:]
