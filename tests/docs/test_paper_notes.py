# SPDX-License-Identifier: Apache-2.0
"""paper_notes.md, the comments of reference/ and core/taps.tsv speak of the same equations."""

import csv
import fnmatch
import os
import pathlib
import re

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
EQUATIONS = range(1, 29)

# "eq. 9-12", "Eq. 19, 26, 27": numbers and ranges, also where a comment breaks its line in between.
CITATION = re.compile(r"\b[Ee]q\.\s+(\d+(?:-\d+)?(?:,\s*\d+(?:-\d+)?)*)")
COMMENT_BREAK = re.compile(r"\s*\n\s*//\s*")
FUNCTION = re.compile(r"`([\w./]+\.[ch]pp):(\w+)`")
BACKTICKED = re.compile(r"`([^`]+)`")


def numbers(text):
    """'3-5, 9' -> {3, 4, 5, 9}"""
    found = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def notes():
    return (ROOT / "paper_notes.md").read_text(encoding="utf-8")


def rows():
    """{equation: cells of its row}"""
    table = {}
    for line in notes().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        match = re.fullmatch(r"eq:(\d+)", cells[0])
        if line.startswith("|") and match:
            assert int(match[1]) not in table, f"two rows for {cells[0]}"
            assert len(cells) == 5, f"{cells[0]}: {len(cells)} columns"
            table[int(match[1])] = cells
    return table


def taps():
    with open(ROOT / "core" / "taps.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def sources():
    folder = ROOT / "reference"
    return sorted([*folder.glob("*.hpp"), *folder.glob("*.cpp")])


def cited_in_sources():
    for path in sources():
        text = COMMENT_BREAK.sub(" ", path.read_text(encoding="utf-8"))
        for match in CITATION.finditer(text):
            yield path.name, numbers(match[1])


def test_all_28_equations_have_a_row_in_order():
    assert list(rows()) == list(EQUATIONS)


def test_the_parser_of_citations_reads_what_the_sources_write():
    text = COMMENT_BREAK.sub(" ", "// c^-1/2. Eq.\n// 19, 26, 27. The sink; eq. 3-8 and A X of\n// eq. 1.")

    found = [numbers(match[1]) for match in CITATION.finditer(text)]

    assert found == [{19, 26, 27}, {3, 4, 5, 6, 7, 8}, {1}]


def test_every_equation_cited_in_a_comment_has_a_row():
    citations = list(cited_in_sources())
    assert citations, "no comment of reference/ cites an equation"

    unknown = [(name, n) for name, cited in citations for n in cited if n not in rows()]

    assert not unknown


def test_every_equation_that_is_implemented_is_cited_in_a_source():
    cited = set().union(*(numbers_ for _, numbers_ in cited_in_sources()))
    implemented = {n for n, cells in rows().items() if FUNCTION.search(cells[3])}

    # 18 is a plain product that needs no comment; 24 and 25 repeat 13 and 18 for HCA.
    assert implemented - cited - {18, 24, 25} == set()


def test_every_equation_of_the_tap_table_has_a_row_that_names_the_tap():
    missing = []
    for tap in taps():
        if tap["eq"] == "-" or not tap["name"].startswith("layers.L."):
            continue
        for n in numbers(tap["eq"]):
            globs = BACKTICKED.findall(rows()[n][4]) if n in rows() else []
            if not any(fnmatch.fnmatchcase(tap["name"], glob) for glob in globs):
                missing.append((n, tap["name"]))

    assert not missing


def test_every_tap_named_in_the_tables_exists():
    names = [tap["name"] for tap in taps()]
    named = set(re.findall(r"`((?:layers\.L|mtp\.J|hc_head|norm)\.[\w.*]+|embed|logits\w*)`", notes()))
    assert len(named) > 30

    assert not [name for name in named if not fnmatch.filter(names, name)]


def test_every_function_named_in_the_notes_exists():
    named = set(FUNCTION.findall(notes()))
    assert len(named) > 20

    missing = []
    for file, function in sorted(named):
        path = ROOT / file
        if not path.is_file() or not re.search(rf"\b{function}\s*(?:<[^<>]*>)?\(", path.read_text(encoding="utf-8")):
            missing.append(f"{file}:{function}")

    assert not missing
