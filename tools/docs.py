"""Build the website into `_docs`, with Quarto where it is installed and otherwise with smalldocs. No network is used.

    python tools/docs.py [--out FOLDER] [--fallback]

Run it from the repository's root (`make docs` does). nbdev stages the notebooks in `_proc`: it runs their exported
cells and imports, nothing else, to write the tables of arguments; the figures are the stored ones.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs

from crossref import joined, read_bibliography, resolve, spoken

KATEX = Path(__file__).parent / "katex"
KATEX_ONLINE = re.compile(r"https://cdn\.jsdelivr\.net/npm/katex@[^/\"']+/dist/")
NOTEBOOK_LINK = re.compile(r"(\]\((?!https?:)[^)\s]*?)([^/)\s]+\.ipynb)((?:#[^)\s]*)?\))")


SIGNATURE = re.compile(r"(?s)```python\n(?:def )?(?P<name>[\w.]+)(?P<arguments>\(.*?)\n```")

TYPED_DEFAULT = re.compile(r"(: (?:[^][,=()]|\[(?:[^][]|\[[^][]*\])*\])+)=")


def page_name(name: str) -> str:  # `00_Analyse.ipynb` becomes `analyse.ipynb`
    "The name that nbdev's links give to a notebook."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", name.lower())


def staged_name(path: Path) -> Path:
    return path.with_name(page_name(path.name)) if path.suffix == ".ipynb" else path


def renamed(value: object) -> object:
    "The configuration with every notebook under the name of its page."
    if isinstance(value, dict):
        return {key: renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return str(staged_name(Path(value))) if isinstance(value, str) and value.endswith(".ipynb") else value


def signature(match: re.Match) -> str:
    "A signature as a person would write it: `x: Float[Array, '...']`, no modules, no `Any`, comments in one column."
    lines = []
    for line in match["arguments"].split("\n"):
        code, mark, comment = line.partition(" # ")
        code = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", code)  # jaxlib._jax.Array
        code = re.sub(r":Any(?=[=,)]|$)", "", code).replace(")->", ") -> ").removesuffix(":")
        code = re.sub(r"(?<=\w):(?=[\w\[('\"])", ": ", code)
        lines.append((TYPED_DEFAULT.sub(r"\1 = ", code), comment))
    column = max((len(code) for code, comment in lines if comment), default=0) + 2
    arguments = "\n".join(f"{code:{column}}# {comment}" if comment else code for code, comment in lines)
    if "# " not in arguments and len(arguments) < 100:
        arguments = re.sub(r"\(\s+|\s+(?=\))|\n\s*", lambda space: space.group().strip(), arguments)
    name = match["name"]
    if name.rpartition(".")[2][0].isupper():
        return f"```python\n{name}{arguments.removesuffix(' -> None')}\n```"
    return f"```python\ndef {name}{arguments}\n```"


def entry(cell: dict) -> dict | None:  # the output that holds it
    "nbdev's entry for one definition, where the cell is one."
    if cell["cell_type"] != "code" or "show_doc(" not in joined(cell["source"]):
        return None
    return next((out["data"] for out in cell["outputs"] if "text/markdown" in out.get("data", {})), None)


def line_number(cell: dict) -> int:  # where the definition stands in its module
    found = re.search(r"#L(\d+)\)", joined(entry(cell)["text/markdown"]))
    return int(found[1]) if found else 0


def tidy(staged: Path) -> None:
    "Make nbdev's entries readable, and put those of one cell, which it reverses, in the order of the source."
    for path in staged.rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = []
        for is_entry, run in itertools.groupby(notebook["cells"], key=lambda cell: entry(cell) is not None):
            run = list(run)
            cells += sorted(run, key=line_number) if is_entry else run
        for data in filter(None, map(entry, cells)):
            data["text/markdown"] = SIGNATURE.sub(signature, joined(data["text/markdown"]), count=1)
        notebook["cells"] = cells
        path.write_text(json.dumps(notebook), encoding="utf-8")


def fallback_config(text: str) -> dict:
    "What `_quarto.yml` says, without what the staging has already done for smalldocs."
    config = renamed(yaml.safe_load(text))
    for key in ("bibliography", "link-citations"):
        config.pop(key, None)
    config["format"]["html"].pop("html-math-method", None)
    return config


def prepare(notebook: dict, home: str) -> None:
    "Keep the page's own name, and make its links to other pages of the site relative."
    first = notebook["cells"][0]
    if first["cell_type"] == "raw":
        first["source"] = re.sub(r"(?m)^output-file:.*\n", "", joined(first["source"]))
    for holder, key in spoken(notebook):
        text = joined(holder[key]).replace(f"{home}/", "/")
        holder[key] = NOTEBOOK_LINK.sub(lambda m: m[1] + page_name(m[2]) + m[3], text)


def render_fallback(staged: Path, out: Path) -> list[str]:  # what went wrong, one line each
    "Render the staged notebooks with smalldocs."
    from smalldocs.config import load
    from smalldocs.site import Site

    settings = get_config()
    home = f"{settings.doc_host}{settings.doc_baseurl}"
    config = fallback_config((staged / "_quarto.yml").read_text(encoding="utf-8"))
    config["project"]["output-dir"] = str(out)
    references = read_bibliography(staged / "references.bib")
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / "_quarto.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        for source in sorted(path for path in staged.rglob("*") if path.is_file() and path.name != "_quarto.yml"):
            target = root / staged_name(source.relative_to(staged))
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix != ".ipynb":
                shutil.copyfile(source, target)
                continue
            notebook = json.loads(source.read_text(encoding="utf-8"))
            prepare(notebook, home)
            unknown = resolve(notebook, references, target.with_name(f"{target.stem}_files"))
            problems += [f"{source.relative_to(staged)}: {what}" for what in unknown]
            target.write_text(json.dumps(notebook), encoding="utf-8")
        site = Site(load(root), quiet=True)
        site.build()
    return problems + site.warnings


def render_quarto(staged: Path, out: Path) -> list[str]:
    "Render the staged notebooks with Quarto, which does not run them."
    subprocess.run(["quarto", "render", "--no-cache", "--output-dir", str(out)], cwd=staged, check=True)
    return []


def keep_offline(site: Path) -> None:
    "Let the pages take KaTeX from the site itself."
    libs = site / "site_libs" / "katex"
    shutil.copytree(KATEX, libs, dirs_exist_ok=True)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        local = KATEX_ONLINE.sub(Path(os.path.relpath(libs, page.parent)).as_posix() + "/", text)
        if local != text:
            page.write_text(local, encoding="utf-8")


def build(
    out: Path,               # the site's folder, replaced when the new one is finished
    fallback: bool = False,  # leave Quarto aside
) -> list[str]:              # what went wrong, one line each
    "Stage, render, and put the finished site in the place of the old one."
    # jax and its companions are imported to read signatures; they need no accelerator for it
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # one process: most of the time goes into importing JAX, which every further worker would do again
    staged = Path(proc_nbs(force=True, n_workers=0))
    tidy(staged)
    render = render_fallback if fallback or not shutil.which("quarto") else render_quarto
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".docs-") as folder:
        fresh = Path(folder) / "site"
        problems = render(staged, fresh)
        keep_offline(fresh)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("_docs"), help="folder of the site (replaced; default _docs)")
    parser.add_argument("--fallback", action="store_true", help="render with smalldocs even where Quarto is installed")
    options = parser.parse_args()
    out = options.out.resolve()
    for problem in build(out, options.fallback):
        print(f"warning: {problem}", file=sys.stderr)
    print(out / "index.html")


if __name__ == "__main__":
    main()
    # The site is there. Taking down a shell a notebook would take the interpreter longer than all the rest.
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)
