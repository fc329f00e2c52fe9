"""Bring .venv to what the lock says, or leave it alone when it is there already. Standard library only.

The stamp .venv/lensnb.json records what was installed: the locks, the interpreter, the accelerator and the
folder. It is removed before anything is touched and written last, so an install that failed or was killed
starts again from an empty environment. Without --accelerator the environment keeps the one it has.
"""
# No f-strings and no annotations: an old Python has to come as far as the sentence that says it is too old.
import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ACCELERATORS = ("cpu", "cuda12", "cuda13")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
INSIDE = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "lensnb.json")
BASE = getattr(sys, "_base_executable", sys.executable)  # not .venv's own, when that is active


def locks(accelerator):
    "Paths of the locks that one accelerator needs."
    names = ["requirements.lock"] + ([] if accelerator == "cpu" else ["requirements-%s.lock" % accelerator])
    return [os.path.join(ROOT, name) for name in names]


def inputs(accelerator):
    "One hash over everything that decides what gets installed."
    digest = hashlib.sha256()
    for path in locks(accelerator) + [os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)]:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def version():
    "The environment's Python, as 3.11; empty when it does not run."
    try:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.check_output([INSIDE, "-c", code], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def stamped():
    "What the stamp says; empty where there is none, the interpreter is gone or the checkout has moved."
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    return stamp if version() == stamp["python"] and stamp["root"] == ROOT else {}


def run(*command):
    "Run a command, or end with its failure in a sentence."
    try:
        subprocess.check_call(command, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("install: this step failed, the reason stands above: %s" % " ".join(command))


def check():
    "End with a sentence where this Python cannot make an environment for lensnb."
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit("install: lensnb needs Python %d.%d to %d.%d, but %s is %d.%d; name another, as in "
                 "make install PYTHON=python3.11" % (OLDEST + NEWEST + (BASE,) + sys.version_info[:2]))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit("install: %s comes without venv; on Debian and Ubuntu: apt-get install python3-venv" % BASE)


def create():
    "An empty environment in .venv."
    print("install: creating .venv with Python %d.%d" % sys.version_info[:2], flush=True)
    run(BASE, "-m", "venv", "--clear", VENV)


def install(accelerator):
    "The locked packages, the accelerator's on top of them, then this checkout; by uv where it is on PATH."
    uv = shutil.which("uv")
    pip = ([uv, "pip", "install", "--quiet", "--python", INSIDE] if uv else
           [INSIDE, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
    print("install: about 200 packages (1.4 GB) from requirements.lock, a minute or two", flush=True)
    run(*(pip + ["--require-hashes", "-r", locks(accelerator)[0]]))
    for lock in locks(accelerator)[1:]:
        print("install: JAX for %s" % accelerator, flush=True)
        run(*(pip + ["--require-hashes", "--no-deps", "-r", lock]))
    run(*(pip + ["--no-deps", "--no-build-isolation", "-e", "."]))


def main():
    "Install what is not there."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accelerator", choices=ACCELERATORS, help="what JAX computes on (default: as before, or cpu)")
    parser.add_argument("--this-python", action="store_true", help="the environment's Python must be this one")
    args = parser.parse_args()
    alone = open(os.path.abspath(__file__))  # held until the end: a second install waits here for the first
    fcntl.flock(alone, fcntl.LOCK_EX)
    stamp = stamped()
    accelerator = args.accelerator or stamp.get("accelerator", "cpu")
    other_python = args.this_python and stamp.get("python") != "%d.%d" % sys.version_info[:2]
    if accelerator != stamp.get("accelerator") or other_python:
        stamp = {}  # another accelerator or Python: what is there would be in the way
    goal = inputs(accelerator)
    if stamp and stamp["inputs"] == goal:
        return
    if not stamp:
        check()
    if os.path.exists(STAMP):
        os.remove(STAMP)
    if not stamp:
        create()
    install(accelerator)
    with open(STAMP + ".new", "w") as file:
        json.dump({"inputs": goal, "accelerator": accelerator, "python": version(), "root": ROOT}, file)
    os.replace(STAMP + ".new", STAMP)
    print("install: done, in .venv (JAX on %s)" % accelerator, flush=True)


main()
