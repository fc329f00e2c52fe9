"""The website: built from a copy, read as files, and looked at in a browser where there is one."""

import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
# What the staging should have turned into links, numbers or boxes
LEFTOVER = re.compile(r"\[-?@\w|(?<!\w)@(?:fig|tbl|eq|sec)-|\{#[\w-]+|^#\||^:::|\$\$|\\begin\{", re.M)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    "The links, anchors, pictures and prose of one page."

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.fetched, self.pictures = path, set(), [], [], []
        self.words, self.maths, self.open = [], 0, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        classes = (attrs.get("class") or "").split()
        if tag not in VOID:
            self.open.append((tag, "math" in classes))
        self.maths += "math" in classes
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "link" and attrs.get("rel") in ("stylesheet", "icon"):
            self.fetched.append(attrs["href"])
        if attrs.get("src"):
            self.fetched.append(attrs["src"])
        if tag == "img":
            self.pictures.append(attrs)

    def handle_endtag(self, tag):
        names = [name for name, _ in self.open]
        if tag in names:
            del self.open[len(names) - 1 - names[::-1].index(tag) :]

    def handle_data(self, data):
        if not any(maths or tag in ("code", "pre", "script", "style") for tag, maths in self.open):
            self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site, and what its builder complained of."
    copy = tmp_path_factory.mktemp("site")
    for name in ("settings.ini", "_quarto.yml"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "nbs", copy / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".*"))
    # coverage and warning settings of this test run are no business of the build
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("COV", "PYTHONWARNINGS"))}
    command = [sys.executable, str(ROOT / "tools" / "docs.py"), "--fallback"]
    run = subprocess.run(command, cwd=copy, env=quiet, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-4000:]
    return copy / "_docs", [line for line in run.stderr.splitlines() if line.startswith("warning:")]


@pytest.fixture(scope="module")
def pages(site):
    return {path.resolve(): Page(path) for path in sorted(site[0].rglob("*.html")) if "site_libs" not in path.parts}


def target(page: Page, href: str) -> tuple[Path, str]:
    parts = urlsplit(href)
    path = page.path if not parts.path else page.path.parent / unquote(parts.path)
    path = path.resolve()
    return (path / "index.html" if path.is_dir() else path), unquote(parts.fragment)


def test_every_notebook_has_its_page_and_its_place_in_the_sidebar(site, pages):
    notebooks = [path.relative_to(ROOT / "nbs") for path in (ROOT / "nbs").rglob("*.ipynb")]
    hidden = [path for path in notebooks if any(part.startswith((".", "_")) for part in path.parts)]
    shown = [path for path in notebooks if path not in hidden]
    wanted = {path.with_name(re.sub(r"^\d+[a-z0-9]*_", "", path.stem.lower()) + ".html") for path in shown}
    assert {page.relative_to(site[0].resolve()) for page in pages} == wanted
    home = pages[(site[0] / "index.html").resolve()]
    assert {target(home, href)[0] for href in home.links if not urlsplit(href).scheme} >= set(pages)


def test_the_builder_has_nothing_to_complain_of(site):
    assert site[1] == []


def test_every_internal_link_leads_somewhere(pages):
    dead = []
    for page in pages.values():
        for href in {*page.links, *page.fetched}:
            if urlsplit(href).scheme or not href:
                continue
            path, anchor = target(page, href)
            if not path.is_file() or (anchor and path in pages and anchor not in pages[path].ids):
                dead.append(f"{page.path.name}: {href}")
    assert dead == []


def test_nothing_is_fetched_from_elsewhere(site, pages):
    fetched = [(page.path.name, href) for page in pages.values() for href in page.fetched]
    abroad = [f"{name}: {href}" for name, href in fetched if urlsplit(href).scheme not in ("", "data")]
    for style in site[0].rglob("*.css"):
        for href in re.findall(r"""(?:url\(|@import\s+)["']?(https?:[^"')]+)""", style.read_text(encoding="utf-8")):
            abroad.append(f"{style.name}: {href}")
    assert abroad == []


def test_pictures_have_words_and_prose_has_no_markup_left(pages):
    pictures = [(page.path.name, one) for page in pages.values() for one in page.pictures]
    silent = [f"{name}: {one['src'][:60]}" for name, one in pictures if not one.get("alt")]
    assert silent == []
    left = [f"{page.path.name}: {m.group()}" for page in pages.values() for m in LEFTOVER.finditer("".join(page.words))]
    assert left == []


@pytest.fixture
def crossref(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("crossref")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("@hezaveh2017", "Hezaveh et al. ([2017](#ref-hezaveh2017))"),
        ("@poh2025 [p. 3]", "Poh et al. ([2025](#ref-poh2025), p. 3)"),
        ("[-@tessore2015, eq. 13]", "([2015](#ref-tessore2015), eq. 13)"),
        (
            "[@narayan1996; see @lemos2023]",
            "([Narayan and Bartelmann 1996](#ref-narayan1996); see [Lemos et al. 2023](#ref-lemos2023))",
        ),
        ("@eq-a and [-@eq-a]", "[Equation\u00a01](#eq-a) and [1](#eq-a)"),
        ("`@eq-a`, $x@poh2025$, me@poh2025.org", "`@eq-a`, $x@poh2025$, me@poh2025.org"),
    ],
)
def test_references_in_the_forms_that_quarto_reads(crossref, tmp_path, written, read):
    references = crossref.read_bibliography(ROOT / "nbs" / "references.bib")
    cells = [{"cell_type": "markdown", "source": text} for text in ("$$a = b$$ {#eq-a}", written)]
    assert crossref.resolve({"cells": cells}, references, tmp_path) == []
    assert cells[1]["source"] == read


def test_a_reference_to_nothing_is_reported(crossref, tmp_path):
    cells = [{"cell_type": "markdown", "source": "@nobody1900, @fig-nowhere, [@poh2025; and others]"}]
    references = crossref.read_bibliography(ROOT / "nbs" / "references.bib")
    assert len(crossref.resolve({"cells": cells}, references, tmp_path)) == 3


# ---------------------------------------------------------------- in a browser

LOOK = """
const all = (where) => Array.from(document.querySelectorAll(where));
return {
  missing: all("img").filter((one) => !one.complete || one.naturalWidth === 0).map((one) => one.src.slice(-60)),
  raw: all(".math").filter((one) => !one.querySelector(".katex")).map((one) => one.textContent),
  wrong: all(".katex-error").map((one) => one.textContent),
  maths: all(".math .katex").length,
  fetched: performance.getEntriesByType("resource").map((one) => one.name),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
"""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()


@pytest.fixture(scope="module")
def address(site):
    "The site on a port of this machine."

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=site[0])) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def show(browser, url: str, width: int) -> dict:
    "Load a page in a window `width` pixels wide, and say what is in it."
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)
    seen = browser.execute_script(LOOK)
    log = [line["message"] for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    return seen | {"console": log}


@pytest.mark.parametrize("width", [390, 1300])
def test_every_page_in_a_browser(browser, address, site, pages, width):
    home, wrong = site[0].resolve(), []
    for path, page in pages.items():
        seen = show(browser, urljoin(address, path.relative_to(home).as_posix()), width)
        abroad = [name for name in seen["fetched"] if not name.startswith((address, "data:"))]
        found = {key: seen[key] for key in ("missing", "raw", "wrong", "console") if seen[key]}
        found |= {"abroad": abroad} if abroad else {}
        found |= {"maths": (seen["maths"], page.maths)} if seen["maths"] < page.maths else {}
        found |= {"wide": seen["wide"]} if seen["wide"] > 0 else {}
        if found:
            wrong.append((path.name, found))
    assert wrong == []


def test_a_page_opened_from_disk_and_the_search(browser, address, site):
    seen = show(browser, (site[0] / "index.html").resolve().as_uri(), 1300)
    assert not (seen["missing"] or seen["raw"] or seen["console"])
    show(browser, address, 1300)
    found = browser.execute_async_script("""
        const done = arguments[0], box = document.querySelector("#quarto-search input");
        box.value = "Einstein radius";
        box.dispatchEvent(new Event("input"));
        let left = 50;
        const look = () => {
          const hits = document.querySelectorAll("#quarto-search .search-result").length;
          if (hits || !left--) done(hits); else setTimeout(look, 100);
        };
        look();
    """)
    assert found > 0
