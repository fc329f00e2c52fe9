"""What Quarto does and smalldocs does not: numbered figures, tables and equations, references to them, citations.

`resolve` works on a staged notebook (a dict, as `json.load` gives it) and leaves plain Markdown behind. It reads the
part of Quarto's syntax that the notebooks use: `#| label`, `fig-cap`, `fig-alt` and `tbl-cap` on code cells,
`$$ ... $$ {#eq-x}`, `![caption](file){#fig-x}`, `: caption {#tbl-x}`, `@fig-x`, `@key`, `[see @key, p. 3; -@other]`.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

NOUN = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}
LABEL = r"(?:fig|tbl|eq)-[\w-]+"
# Code, maths, HTML tags and link targets: nothing in them is a reference
PROTECTED = re.compile(
    r"(?ms)^(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$"
    r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r"|\$\$.+?\$\$|(?<!\\)\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d)"
    r"|<[^>\n]+>|\]\([^)\n]*\)|\\@"
)
EQUATION = re.compile(rf"(?s)(\$\$.+?\$\$)[ \t]*\{{#({LABEL})\}}[ \t]*")
PICTURE = re.compile(rf"!\[(?P<caption>[^\n]*)\](?P<file>\([^)\n]+\)\{{[^}}\n]*?)#(?P<label>{LABEL})")
TABLE = re.compile(rf"(?m)^(: +)(.*?)(\{{[^}}\n]*?#({LABEL})[^}}\n]*\}})[ \t]*$")
CITED = re.compile(
    r"\[(?P<group>[^][]*(?<![\w\\])@\w[^][]*)\](?![(\[{])"
    r"|(?<![\w@\\/.])(?P<minus>-?)@(?P<key>[A-Za-z][\w-]*)(?: \[(?P<note>[^]@]*)\])?"
)
ITEM = re.compile(r"(?s)^(?P<before>.*?)(?P<minus>-?)@(?P<key>[A-Za-z][\w-]*)(?P<after>.*)$")
IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


def outside(
    text: str,                       # Markdown
    change: Callable[[str], str],    # applied to prose alone
) -> str:
    "Change the prose of `text`, and leave its code, maths and link targets as they are."
    parts, end = [], 0
    for match in PROTECTED.finditer(text):
        parts += [change(text[end : match.start()]), match.group()]
        end = match.end()
    return "".join([*parts, change(text[end:])])


@dataclass(frozen=True)
class Reference:
    "One entry of the bibliography."

    key: str
    kind: str               # article, book, inproceedings or misc
    fields: dict[str, str]  # as written in the file, without the braces

    @property
    def authors(self) -> list[tuple[str, str]]:  # (family name, given names); ("others", "") ends a shortened list
        return [tuple((name + ", ").split(", ")[:2]) for name in re.split(r"\s+and\s+", self.fields["author"])]

    @property
    def names(self) -> str:  # as cited in a sentence
        family = [name for name, _ in self.authors]
        if len(family) > 2 or "others" in family:
            return f"{family[0]} et al."
        return " and ".join(family)

    @property
    def year(self) -> str:
        return self.fields["year"]

    def markdown(self) -> str:
        "The entry of the reference list."
        first, *others = self.authors
        people = [", ".join(first), *(f"{given} {family}" for family, given in others if family != "others")]
        if ("others", "") in others:
            people = [", ".join(people) + ", et al"]
        elif others:
            people = [", ".join(people[:-1]), people[-1]]
        title = f"*{self.fields['title']}*." if self.kind == "book" else f"“{self.fields['title']}.”"
        text = f"{', and '.join(people).rstrip('.')}. {self.year}. {title}"
        if where := self.fields.get("journal") or self.fields.get("booktitle") or self.fields.get("publisher"):
            text += f" {where}." if self.kind == "book" else f" *{where}*" + self.place() + "."
        if doi := self.fields.get("doi"):
            text += f" [doi:{doi}](https://doi.org/{doi})."
        if url := self.fields.get("url"):
            text += f" <{url}>."
        if eprint := self.fields.get("eprint"):
            text += f" [arXiv:{eprint}](https://arxiv.org/abs/{eprint})."
        return text

    def place(self) -> str:  # volume and pages
        signs = {"volume": " ", "pages": ": "}
        return "".join(sign + self.fields[name] for name, sign in signs.items() if name in self.fields)


def read_bibliography(path: Path) -> dict[str, Reference]:
    "Read a BibTeX file whose fields stand in braces, one a line; a field that is not so is an error, never dropped."
    found = {}
    for entry in re.split(r"(?m)^(?=@)", path.read_text(encoding="utf-8"))[1:]:
        head, *lines = entry.strip().splitlines()
        kind, key = re.fullmatch(r"@(\w+)\{([\w-]+),", head).groups()
        if lines.pop() != "}" or key in found:
            raise ValueError(f"{path.name}: {key} is not closed by a brace on its own line, or appears twice")
        pairs = [re.fullmatch(r"\s*(\w+) = \{(.*)\},?", line).groups() for line in lines]
        found[key] = Reference(key, kind, {name: value.replace(r"\&", "&") for name, value in pairs})
    return found


@dataclass
class Page:
    "The numbers of one page, and what it cites."

    references: dict[str, Reference]
    numbers: dict[str, int] = field(default_factory=dict)  # label: its number among its kind
    cited: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)       # what is referred to and exists nowhere

    def number(self, label: str) -> str:
        "The name of a new figure, table or equation, such as `Figure 2`."
        kind = label.partition("-")[0]
        if label in self.numbers:
            self.unknown.append(f"{label} is used twice")
        self.numbers[label] = 1 + sum(other.startswith(f"{kind}-") for other in self.numbers)
        return self.name(label)

    def name(self, label: str) -> str:
        return f"{NOUN[label.partition('-')[0]]}\u00a0{self.numbers[label]}"

    # ---- references to what is numbered, and to papers

    def cite(self, match: re.Match) -> str:
        "Turn one `@key`, or one bracket of them, into links."
        if match["group"] is None:
            return self.in_sentence(match)
        items = [ITEM.match(item.strip()) for item in match["group"].split(";")]
        if not all(items):
            self.unknown.append(f"[{match['group']}] has a part without a key: write [@key, its note; @other]")
        if not all(item and self.exists(item["key"]) for item in items):
            return match.group()
        if all(item["key"] in self.numbers for item in items):
            return ", ".join(self.link(item["key"], bool(item["minus"])) for item in items)
        return "(" + "; ".join(self.in_brackets(item) for item in items) + ")"

    def exists(self, key: str) -> bool:
        known = key in self.numbers or key in self.references
        if not known:
            self.unknown.append(f"@{key} is neither in the bibliography nor on this page")
        return known

    def link(self, label: str, bare: bool) -> str:
        return f"[{self.numbers[label] if bare else self.name(label)}](#{label})"

    def in_sentence(self, match: re.Match) -> str:
        key = match["key"]
        if not self.exists(key):
            return match.group()
        if key in self.numbers:
            note = f" [{match['note']}]" if match["note"] else ""
            return self.link(key, bool(match["minus"])) + note
        self.cited.add(key)
        note = f", {match['note']}" if match["note"] else ""
        names = "" if match["minus"] else f"{self.references[key].names} "
        return f"{names}([{self.references[key].year}](#ref-{key}){note})"

    def in_brackets(self, item: re.Match) -> str:
        key = item["key"]
        if key in self.numbers:
            return item["before"] + self.link(key, bool(item["minus"])) + item["after"]
        self.cited.add(key)
        reference = self.references[key]
        text = reference.year if item["minus"] else f"{reference.names} {reference.year}"
        return f"{item['before']}[{text}](#ref-{key}){item['after']}"

    def prose(self, text: str) -> str:
        return outside(text, lambda part: CITED.sub(self.cite, part))

    def bibliography(self) -> str:
        "The reference list, in the order of names and years; empty when nothing was cited."
        cited = sorted((self.references[key] for key in self.cited), key=lambda one: (one.names.casefold(), one.year))
        entries = [f"::: {{#ref-{one.key} .csl-entry}}\n{one.markdown()}\n:::" for one in cited]
        return "\n\n".join(["## References {.unnumbered}", "::: {.references}", *entries, ":::"]) if entries else ""


# ---------------------------------------------------------------- cells


def joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def options(cell: dict) -> tuple[dict, str]:  # the `#|` options, and the code below them
    "Split a code cell into its options and its code, as Quarto reads them."
    lines = joined(cell["source"]).split("\n")
    n = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    read = yaml.safe_load("\n".join(line[2:].removeprefix(" ") for line in lines[:n])) if n else {}
    return (read if isinstance(read, dict) else {}), "\n".join(lines[n:])


def markdown(text: str) -> dict:
    "An output that is Markdown."
    return {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": text}}


def number_prose(text: str, page: Page) -> str:
    "Number the equations, pictures and tables of a Markdown cell."

    def equation(match: re.Match) -> str:
        number = re.sub(r"\D", "", page.number(match[2]))
        return f"\n\n::: {{#{match[2]} .equation}}\n\n{match[1]}\n\n[({number})]{{.equation-number}}\n\n:::\n\n"

    def picture(match: re.Match) -> str:
        return f"![{page.number(match['label'])}: {match['caption']}]{match['file']}#{match['label']}"

    text = EQUATION.sub(equation, text)
    text = PICTURE.sub(picture, text)
    return TABLE.sub(lambda match: f"{match[1]}{page.number(match[4])}: {match[2]}{match[3]}", text)


def pictures(cell: dict) -> Iterator[tuple[dict, str]]:  # (output, kind)
    "The pictures among the outputs of a code cell."
    for out in cell["outputs"]:
        data = out.get("data", {})
        kind = next((kind for kind in IMAGES if kind in data), None)
        if kind and "text/html" not in data:
            yield out, kind


def figures(cell: dict, chosen: dict, page: Page, folder: Path) -> None:
    "Replace the pictures of a code cell by Markdown figures: numbered, with their caption and alt text, in files."
    several = isinstance(chosen.get("fig-cap"), list)  # one caption a picture; otherwise the first picture bears it
    for n, (out, kind) in enumerate(pictures(cell)):
        said = (chosen.get("fig-cap"), chosen.get("fig-alt"))
        caption, alt = (one[n] if isinstance(one, list) else one for one in said)
        label = f"{chosen['label']}-{n + 1}" if "label" in chosen and (several or n) else chosen.get("label")
        data = joined(out["data"][kind])
        folder.mkdir(exist_ok=True)
        file = folder / f"{label or f'picture-{len(list(folder.iterdir()))}'}.{IMAGES[kind]}"
        file.write_bytes(data.encode() if kind == "image/svg+xml" else base64.b64decode(data))
        if several or n == 0:
            caption = f"{page.number(label)}: {caption}" if label and caption else caption or ""
        else:
            caption = ""
        quoted = str(alt or "").replace('"', "”").replace("\\", "")  # a plain quote would end the attribute
        width = out.get("metadata", {}).get(kind, {}).get("width")
        attributes = f'fig-alt="{quoted}"' + (f' width="{width}"' if width else "")
        figure = f"![{caption}]({folder.name}/{file.name}){{{attributes}}}"
        anchor = f"#{label} " if label in page.numbers else ""
        out.update(markdown(f"\n::: {{{anchor}.numbered}}\n\n{figure}\n\n:::\n"))


def table(cell: dict, chosen: dict, page: Page) -> None:
    "Number the caption of a table that a code cell printed."
    caption = f"{page.number(chosen['label'])}: {chosen['tbl-cap']}"
    chosen["tbl-cap"] = caption
    for out in cell["outputs"]:
        data = out.get("data", {})
        if "text/markdown" in data:
            below = f"\n\n: {caption} {{#{chosen.pop('label')}}}\n"
            data["text/markdown"] = joined(data["text/markdown"]).rstrip() + below
            del chosen["tbl-cap"]
            return


def code_cell(cell: dict, page: Page, folder: Path) -> None:
    "Number what a code cell shows, and take the options that this settled."
    chosen, code = options(cell)
    label = str(chosen.get("label", ""))
    if label.startswith("tbl-") and "tbl-cap" in chosen:
        table(cell, chosen, page)
    elif label.startswith("fig-") or {"fig-cap", "fig-alt"} & chosen.keys():
        figures(cell, chosen, page, folder)
        for key in ("label", "fig-cap", "fig-alt"):
            chosen.pop(key, None)
    if chosen:
        head = yaml.safe_dump(chosen, allow_unicode=True, width=10**6, sort_keys=False).rstrip().split("\n")
        code = "\n".join(f"#| {line}" for line in head) + "\n" + code
    cell["source"] = code


def spoken(notebook: dict) -> Iterator[tuple[dict, str]]:  # (where it is kept, under which key)
    "Every piece of Markdown of a notebook."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            yield cell, "source"
        for out in cell.get("outputs", []):
            if "text/markdown" in out.get("data", {}):
                yield out["data"], "text/markdown"


def resolve(
    notebook: dict,                       # changed in place
    references: dict[str, Reference],     # from `read_bibliography`
    folder: Path,                         # where the page's pictures are written; made when there is one
) -> list[str]:                           # one line for each reference that leads nowhere
    "Number what is labelled, link what is referred to, and end the page with what it cites."
    page = Page(references)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = number_prose(joined(cell["source"]), page)
        elif cell["cell_type"] == "code":
            code_cell(cell, page, folder)
    for holder, key in spoken(notebook):
        holder[key] = page.prose(joined(holder[key]))
    if entries := page.bibliography():
        notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": entries})
    return page.unknown
