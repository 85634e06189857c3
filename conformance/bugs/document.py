#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/bugs.md from the catalogue, from kills.tsv, which `build/tests/dsv4_bug_table --all` measures, and from
named.tsv, which named.py measures.

Usage: document.py ROOT [--check]
"""

import pathlib
import sys

import named
from plant import load

HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by conformance/bugs/document.py; not to be edited. -->
# Known bugs, and which case kills which

{reported} mistakes that ports of DeepSeek-V4 really had, or that this suite must not make itself, in the words of
[`conformance/bugs/`](../conformance/bugs), and {systematic} more that nobody reported: rules of `systematic.py` applied to every
matching place of the reference. {planted} of them are *planted*: the build copies `core/` and `reference/`, puts each wrong text
beside the right one behind a run-time switch, and refuses to build when a right text no longer occurs exactly once. `ctest -L mutants`
throws every switch and demands that the case named here fails, first at the tap named here. [`dsv4 diagnose`](diagnose.md) throws the
same switches on your trace; `dsv4 trace --backend bug:M13` writes a trace with one.

| class | bugs | meaning |
|---|---|---|
{classes}

## Bug by bug

*Named from* says from which traces of the run of its case (or of the first golden that kills it) `dsv4 diagnose` names the mistake:
*whole*, the outputs of the *blocks'* sublayers and the logits alone, the last position's *logits* of each call alone. What is left out
computes the same there. A mistake whose numbers only a case of one component shows is in no golden's trace.

| bug | mistake | class | seen first at | case | other cases that kill it | named from | links |
|---|---|---|---|---|---|---|---|
{bugs}

## Not planted

| bug | mistake | class | why |
|---|---|---|---|
{others}

## Case by case

Without a case in this list the bugs that only it kills would survive. Cases of one component are in
[`golden/cases/`](../golden/cases/schema.md); the others are whole traces in `golden/`.

| case | reported bugs killed | systematic ones | only this case kills |
|---|---|---|---|
{cases}

## Systematic mutants

`dsv4 diagnose` on their traces, made as above:

| verdict | {forms} |
|---|{dashes}|
{verdicts}

Where nobody is named, or another one, a loop over queries is cut that runs for each tile of 32 of them as long as nobody watches the
scores, and for the whole call where somebody does, as diagnose. In calls of at most 32 tokens they are named.

{killed} of {systematic} are killed; the others cannot be told from the right code:

| mutant | what it changes | why it is equivalent |
|---|---|---|
{equivalent}
"""
MEANING = {
    "reference": "in the model's code; planted",
    "loader": "in reading config, weights or number formats; planted",
    "equivalent": "a systematic mutant that computes the same",
    "harness": "a mistake of comparisons, which the suite must not make",
    "not applicable": "cannot be planted in one run of one sequence; the reason is below",
}


def kills(path):
    """{case: [ids]}"""
    out = {}
    for line in path.read_text().splitlines():
        case, _, ids = line.partition("\t")
        out[case] = [i for i in ids.split(",") if i]
    return out


def link(path):
    parts = path.split("/")
    short = f"{parts[0]}/{parts[1]}" + (f"#{parts[3]}" if len(parts) > 3 else "")
    return f"[{short}](https://github.com/{path})"


def cell(text):
    return text.replace("|", "\\|")


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def named_from(bug, measured):
    row_of = measured[bug["id"]]
    forms = [form for form in named.FORMS if row_of[form] == "yes"]
    return ", ".join(forms) or {"note": "a note", "none": "-"}[row_of["whole"]]


def verdict_row(verdict, made, measured):
    """How many systematic mutants got this verdict from each form of trace, or nothing."""
    counts = [sum(measured[b["id"]][form] == verdict for b in made if b["id"] in measured) for form in named.FORMS]
    return [row(named.MEANING[verdict], *map(str, counts))] if any(counts) else []


def bug_row(bug, by_case, measured):
    others = [case for case, ids in by_case.items() if bug["id"] in ids and case != bug["case"]]
    return row(bug["id"], cell(bug["title"]), bug["class"], f"`{bug['tap']}`", bug["case"], ", ".join(others) or "-",
               named_from(bug, measured), " ".join(link(x) for x in bug.get("links", [])))


def case_row(case, ids, by_case, systematic):
    only = [i for i in ids if sum(i in other for other in by_case.values()) == 1]
    return row(case, str(sum(i not in systematic for i in ids)), str(sum(i in systematic for i in ids)), ", ".join(only) or "-")


def document(root):
    folder = root / "conformance" / "bugs"
    bugs = load(folder)
    by_case = kills(folder / "kills.tsv")
    measured = named.table()
    made = [b for b in bugs if b.get("systematic")]
    reported = [b for b in bugs if not b.get("systematic")]
    systematic = {b["id"] for b in made}
    classes = [row(c, str(sum(b["class"] == c for b in bugs)), MEANING[c]) for c in MEANING]
    return HEAD.format(
        reported=len(reported), systematic=len(made), planted=sum("plant" in b for b in bugs), classes="\n".join(classes),
        bugs="\n".join(bug_row(b, by_case, measured) for b in reported if "plant" in b),
        others="\n".join(row(b["id"], cell(b["title"]), b["class"], cell(b["reason"])) for b in reported if "plant" not in b),
        cases="\n".join(case_row(case, ids, by_case, systematic) for case, ids in by_case.items()),
        forms=" | ".join(named.FORMS), dashes="|".join("---" for _ in named.FORMS),
        verdicts="\n".join(line for verdict in named.MEANING for line in verdict_row(verdict, made, measured)),
        killed=sum(b["class"] != "equivalent" for b in made),
        equivalent="\n".join(row(f"`{b['id']}`", cell(b["title"]), cell(b["reason"])) for b in made if b["class"] == "equivalent"))


def main(arguments):
    root = pathlib.Path(arguments[0]).resolve()
    page = root / "docs" / "bugs.md"
    text = document(root)
    if "--check" in arguments:
        return 0 if page.exists() and page.read_text() == text else 1
    page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
