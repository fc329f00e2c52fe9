"""Resolve the requirements into the locks: exact versions and hashes, no index's address, Python 3.11 to 3.13.

requirements.lock holds everything; requirements-cuda12.lock and -cuda13.lock hold what JAX needs on top of it
for an NVIDIA GPU. Needs uv (pip install uv).
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = "--universal --fork-strategy fewest --python-version 3.11 --generate-hashes --quiet".split()
SILENT = "--no-emit-index-url --no-annotate --no-header".split()


def compile(source, *options, text=None):
    "The resolved requirements of one source as text."
    command = ["uv", "pip", "compile", *OPTIONS, *SILENT, *options, source]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=True).stdout


def entries(lock):
    "The lock's pins, each with its hashes, by the line that pins it."
    return {block.split(" \\")[0]: block for block in re.findall(r"^\S.*\\\n(?:    --hash.*\n?)+", lock, re.M)}


def main():
    "Write the three locks."
    if not shutil.which("uv"):
        sys.exit("lock: uv is not on PATH; pip install uv")
    try:
        # The present lock's versions are kept wherever the requirements allow: upgrading is asked for by name.
        compile("requirements-dev.in", "--output-file", "requirements.lock", *sys.argv[1:])
        base = entries((ROOT / "requirements.lock").read_text())
        for accelerator in ("cuda12", "cuda13"):
            full = compile("-", "--constraints", "requirements.lock", text=f"jax[{accelerator}]\n")
            extra = [block for pin, block in entries(full).items() if pin not in base]
            (ROOT / f"requirements-{accelerator}.lock").write_text("".join(extra))
    except subprocess.CalledProcessError as error:
        sys.exit(f"lock: {error.stderr.strip()}")


main()
