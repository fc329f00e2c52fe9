"""Every chapter, run once: its lessons against the exported module, in one process a worker."""

import json
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
    return [path.relative_to(NBS).as_posix() for path in found if not left_out & set(path.parents)]


CHAPTERS = chapters()


class Process:
    """A process of tests/notebook.py, started anew when a chapter ends it."""

    def __init__(self, folder, scratch):
        self.folder, self.scratch, self.process = folder, scratch, None

    def run(self, chapter):
        """The failure of one chapter, empty when there is none, and the seconds it took."""
        if self.process is None or self.process.poll() is not None:
            name = uuid.uuid4().hex
            self.complaints = open(self.scratch / f"{name}.txt", "w+")
            command = [sys.executable, ROOT / "tests" / "notebook.py", self.folder / name]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints, text=True)
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
def process(coverage_folder, tmp_path_factory):
    worker = Process(coverage_folder, tmp_path_factory.mktemp("notebooks"))
    yield worker
    worker.close()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_lessons_hold_for_the_exported_module(chapter, process, record_property):
    failure, seconds = process.run(chapter)
    record_property("seconds", round(seconds, 1))
    assert not failure, failure[-6000:]
