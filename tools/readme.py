"""Render README.md from nbs/index.ipynb: the prose, the code that is shown, its text and its figures.

    python tools/readme.py [--check]     write it, or only say whether it is in step

A figure's PNG goes to nbs/images/<label>.png; links and images relative to nbs/ are made relative to the root.
"""

import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"


def from_root(markdown):
    "Markdown whose relative links start at the root, not in nbs/."
    return re.sub(r"\]\((?![a-z]+:|#|/)([^)\s]+)", lambda link: f"](nbs/{link[1]}", markdown).replace("](nbs/../", "](")


def plain(markdown):
    "Markdown without what only the site understands: attributes, callout fences, citations."
    markdown = re.sub(r"^:::.*\n?", "", markdown, flags=re.M)
    return re.sub(r" ?\{(#|\.)[^}]*\}", "", markdown)


def rendered(output, label, figures):
    "One output as markdown; a PNG is added to `figures`."
    data = output.get("data", {})
    if output["output_type"] == "stream":
        return "" if output["name"] == "stderr" else "    " + "".join(output["text"]).rstrip().replace("\n", "\n    ")
    if "image/png" in data:
        path = f"nbs/images/{label}.png"
        figures[path] = base64.b64decode("".join(data["image/png"]))
        return path
    if "text/markdown" in data:
        return from_root(plain("".join(data["text/markdown"]))).strip()
    return "    " + "".join(data.get("text/plain", "")).rstrip().replace("\n", "\n    ")


def code(cell, figures):
    "A code cell as markdown: its source unless it is hidden, then its outputs."
    source = "".join(cell["source"])
    directives = re.findall(r"^#\| *(.+)$", source, re.M)
    options = dict(line.split(":", 1) for line in directives if ":" in line)
    options = {key.strip(): value.strip().strip('"') for key, value in options.items()}
    if "hide" in directives:
        return
    shown = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip()
    if shown and options.get("echo") != "false":
        yield f"```python\n{shown}\n```"
    for output in cell["outputs"]:
        text = rendered(output, options.get("label", cell["id"]), figures)
        if "image/png" in output.get("data", {}):
            text = f"![{options.get('fig-alt', '')}]({text})\n\n*{options.get('fig-cap', '')}*"
        if text.strip():
            yield text


def render():
    "The files that the front page makes, path from the root to bytes."
    figures, parts = {}, []
    for cell in json.loads(INDEX.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(from_root(plain("".join(cell["source"]))).strip())
        elif cell["cell_type"] == "code":
            parts += code(cell, figures)
    note = "<!-- Rendered from nbs/index.ipynb by tools/readme.py: change the notebook. -->"
    return {"README.md": "\n\n".join([note, *parts, ""]).encode(), **figures}


def main():
    "Write the files, or compare them."
    files = render()
    if "--check" in sys.argv[1:]:
        stale = [path for path, data in files.items() if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != data]
        sys.exit(f"README is not in step with nbs/index.ipynb ({', '.join(stale)}): make export" if stale else 0)
    for path, data in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(data)


main()
