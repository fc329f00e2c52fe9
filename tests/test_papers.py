"""Every parameterised notebook at smoke scale, through the command line, and what its run has to leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("papers", "bench")
PAPERS = sorted(p.relative_to(ROOT).as_posix() for room in ROOMS for p in (ROOT / "nbs" / room).glob("*.ipynb"))
COMMITTED = sorted((ROOT / "data" / "metrics").glob("*.json"))
SAMPLING = {"00_analyse", "00_exact"}  # compute for longer than they compile: compiled a little better than conftest.py asks
CLAIM = {"claim", "source", "published", "measured", "unit", "held", "goal"}


def check_metrics(metrics, paper, scale):
    """The shape that the front page's table of claims is built from."""
    assert metrics.keys() == {"paper", "scale", "device", "seed", "commit", "claims"}
    assert (metrics["paper"], metrics["scale"]) == (paper, scale)
    assert metrics["claims"]
    for claim in metrics["claims"]:
        assert claim.keys() == CLAIM, claim
        assert isinstance(claim["held"], bool) and isinstance(claim["goal"], bool), claim
        assert not (claim["measured"] == "not run" and claim["held"]), claim


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_at_smoke_scale(paper, tmp_path):
    out, lensnb = tmp_path / "out", Path(sys.executable).with_name("lensnb")
    command = [lensnb, "run", paper, "--scale", "smoke", "--quiet", "--runs", tmp_path / "runs", "-p", f"out={out}"]
    level = int(Path(paper).stem in SAMPLING)
    flags = os.environ["XLA_FLAGS"].replace("optimization_level=0", f"optimization_level={level}")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == f"{out}/report.html"
    assert (out / "report.html").stat().st_size > 10_000
    check_metrics(json.loads((out / "metrics.json").read_text()), Path(paper).stem, "smoke")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_metrics_have_their_paper(path):
    paper, scale = path.name.removesuffix(".json").rsplit(".", 1)
    assert scale in ("cpu", "gpu") and any((ROOT / "nbs" / room / f"{paper}.ipynb").is_file() for room in ROOMS)
    check_metrics(json.loads(path.read_text()), paper, scale)
