# SPDX-License-Identifier: Apache-2.0
"""What the documentation names exists: marked regions, excerpts, links, taps, files of reference/."""

import csv
import fnmatch
import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
ROOMS = ["core", "reference", "conformance", "golden", "cli", "cuda/kernels"]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "reference" / "README.md", ROOT / "paper_notes.md"])
CHAPTERS = ["mhc", "attention", "rope", "compressor", "indexer", "moe", "mtp", "formats"]
SECTIONS = ["Problem", "Equation", "Shapes", "Code", "Taps", "What ports get wrong"]

FENCE = re.compile(r"^```(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
REGION = re.compile(r"\[docs:(\w+)\]")
TAP = re.compile(r"`((?:layers|mtp)\.[^`\s]*\.[^`\s]*)`")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def sources():
    return [p for room in ROOMS for p in sorted((ROOT / room).glob("*.[ch]pp"))]


def regions():
    """{name: text between [docs:name] and [/docs:name]}"""
    found = {}
    for path in sources():
        for match in re.finditer(
            r"// \[docs:(\w+)\]\n(.*?)// \[/docs:\1\]", path.read_text(encoding="utf-8"), re.DOTALL
        ):
            assert match[1] not in found, f"region {match[1]} occurs twice"
            found[match[1]] = match[2]
    return found


def tap_names():
    with open(ROOT / "core" / "taps.tsv", encoding="utf-8", newline="") as file:
        return [row["name"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def template(name):
    """layers.3.attn.qr -> layers.L.attn.qr"""
    for scope, letter in (("layers", "L"), ("mtp", "J"), ("experts", "E")):
        name = re.sub(rf"\b{scope}\.\d+(?=\.)", f"{scope}.{letter}", name)
    return name


def anchors(page):
    """The fragments that a forge makes from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def squeezed(text):
    return re.sub(r"\s+", " ", text).strip()


@pages
def test_every_region_named_exists(page):
    named = set(REGION.findall(page.read_text(encoding="utf-8"))) - {"x"}

    assert named <= set(regions())


@pages
def test_excerpts_are_verbatim(page):
    known = regions()
    texts = {}
    for path in sources():
        texts.setdefault(path.name, []).append(path.read_text(encoding="utf-8"))
    for info, body in FENCE.findall(page.read_text(encoding="utf-8")):
        words = info.split()
        if not words or words[0] != "cpp":
            continue
        assert len(words) == 2, f"an excerpt without its origin: {body[:60]!r}"
        region = REGION.fullmatch(words[1])
        candidates = [known[region[1]]] if region else texts[words[1]]
        assert any(squeezed(body) in squeezed(text) for text in candidates), f"{words[1]} no longer reads: {body}"


@pages
def test_relative_links_resolve(page):
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = file.is_relative_to(ROOT.resolve()) or file == page
        if not (inside and file.exists()) or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
            broken.append(target)

    assert not broken


@pages
def test_taps_named_exist(page):
    names = tap_names()
    beside = [n.removeprefix("<tap>") for n in names if n.startswith("<tap>")]
    unknown = []
    for name in TAP.findall(prose(page)):
        if name in ("layers.L.X", "mtp.J.X", "layers.(a−1).hc_ffn.out"):
            continue  # "any stage", "the layer before"
        stem = next((name.removesuffix(s) for s in beside if name.endswith(s)), name)
        if not fnmatch.filter(names, template(stem)):
            unknown.append(name)

    assert not unknown


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapters_have_their_parts_in_order(chapter):
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / f"{chapter}.md").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = [s for s in SECTIONS if not (chapter == "formats" and s in ("Equation", "Shapes"))]

    assert [h for h in headings if h in wanted] == wanted


def test_every_page_is_reachable_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {target.partition("#")[0] for target in LINK.findall(index)}

    assert not [p.name for p in (ROOT / "docs").glob("*.md") if p.name not in linked | {"index.md"}]


def test_every_header_of_the_reference_is_in_its_reading_order():
    readme = (ROOT / "reference" / "README.md").read_text(encoding="utf-8")

    assert not [p.name for p in (ROOT / "reference").glob("*.hpp") if f"({p.name})" not in readme]


def test_every_axis_letter_of_the_tap_table_is_explained():
    with open(ROOT / "core" / "taps.tsv", encoding="utf-8", newline="") as file:
        axes = {row["axes"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    letters = {a for spec in axes for a in spec.split(",") if len(a) == 1}
    explained = set(re.findall(r"^\| ([a-z]) \|", (ROOT / "reference" / "README.md").read_text(encoding="utf-8"), re.MULTILINE))

    assert letters == explained
