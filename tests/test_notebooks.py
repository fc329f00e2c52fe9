"""Every chapter, run once: its lessons against the exported module, in two workers side by side."""

import json
import queue
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
WORKERS, MINUTES = 2, 5


def chapters():
    """The notebooks that nbdev_test would run: papers and benchmarks are the runner's."""
    left_out = {note.parent for note in NBS.rglob(".notest")}
    found = [path for path in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    return [path.relative_to(NBS).as_posix() for path in found if not left_out & set(path.parents)]


CHAPTERS = chapters()


class Worker:
    """A process of tests/notebook.py, started anew when a chapter ends it."""

    def __init__(self, folder, number):
        self.folder, self.number, self.process, self.starts = folder, number, None, 0

    def run(self, chapter):
        """The failure of one chapter, empty when there is none, and the seconds it took."""
        if self.process is None or self.process.poll() is not None:
            self.starts += 1
            self.complaints = open(self.folder.with_name(f"{self.folder.name}-{self.number}-{self.starts}.txt"), "w+")
            command = [sys.executable, ROOT / "tests" / "notebook.py", self.folder / f"{self.number}-{self.starts}"]
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
def outcomes(request, coverage_folder):
    """A future for each selected chapter, so that two run while the first is waited for."""
    chosen = [item.callspec.params["chapter"] for item in request.session.items if "chapter" in getattr(item, "fixturenames", ())]
    futures, waiting = {chapter: Future() for chapter in chosen}, queue.SimpleQueue()
    for chapter in chosen:
        waiting.put(chapter)

    def work(number):
        worker = Worker(coverage_folder, number)
        while not waiting.empty():
            try:
                chapter = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                futures[chapter].set_result(worker.run(chapter))
            except BaseException as error:
                futures[chapter].set_exception(error)
        worker.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    yield futures
    while not waiting.empty():
        waiting.get()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_lessons_hold_for_the_exported_module(chapter, outcomes, record_property):
    failure, seconds = outcomes[chapter].result()
    record_property("seconds", round(seconds, 1))
    assert not failure, failure[-6000:]
