#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies core/ and reference/ under the namespace dsv4_mutants and plants every bug of the catalogue
behind a run-time switch. A plant whose text no longer occurs exactly once is an error.

Usage: plant.py ROOT EMBEDDED_CPP OUT     (--list prints the files that would be written)
"""

import dataclasses
import pathlib
import re
import sys
import tomllib

# What the copy does not need: writers, synthetic models, the check of the processor.
LEFT_OUT = {"core/cpu_check.cpp", "core/cpu_check.hpp", "core/file_writer.cpp", "core/file_writer.hpp",
            "core/safetensors_writer.cpp", "core/checkpoint_writer.cpp", "core/checkpoint_writer.hpp",
            "core/convert.cpp", "core/convert.hpp", "core/synthetic.cpp", "core/synthetic.hpp",
            "core/synthetic_weights.cpp", "reference/memory.hpp"}
# Bugs live in the scalar definitions, so that each is planted once; they give the same bits.
SCALAR = {"core/dequantize.cpp", "core/quantize.cpp"}
CLASSES = {"reference", "loader", "equivalent", "harness", "not applicable"}
PLANTED = {"reference", "loader", "equivalent"}
TEXTS = ("id", "title", "class", "symptom", "cause", "fix", "trigger")


class PlantError(Exception):
    """Something in the catalogue does not hold."""


@dataclasses.dataclass(frozen=True)
class Plant:
    bug: str
    file: str
    right: str
    wrong: str
    within: tuple  # longer texts, each once in the one before, the last of which holds `right` once
    form: str     # expression | statement | whole | times: the text is multiplied by a number
    type: str     # of the expression, where both sides differ in type


# ---- the catalogue ----------------------------------------------------------------------------

def load(folder):
    """Every entry of the catalogue, in the order of the files' names."""
    bugs = []
    for path in sorted(folder.glob("*.toml")):
        with open(path, "rb") as file:
            for bug in tomllib.load(file).get("bug", []):
                check(bug, path.name)
                bug["variant"] = path.name == "variants.toml"
                bugs.append(bug)
    seen = set()
    for bug in bugs:
        if bug["id"] in seen:
            raise PlantError(f"{bug['id']} occurs twice")
        seen.add(bug["id"])
    return bugs


def hooks(folder):
    with open(folder / "hooks.toml", "rb") as file:
        return tomllib.load(file).get("hook", [])


def check(bug, where):
    name = f"{where}: {bug.get('id', '?')}"
    needed = ("id", "title", "class") if bug.get("systematic") else TEXTS
    for key in needed:
        if not bug.get(key) and not (key in ("fix", "trigger") and bug.get("class") not in PLANTED):
            raise PlantError(f"{name}: {key} is missing")
    if bug["class"] not in CLASSES:
        raise PlantError(f"{name}: class {bug['class']!r}, expected one of {sorted(CLASSES)}")
    planted = bug["class"] in PLANTED
    if bug["class"] == "equivalent" and not bug.get("reason"):
        raise PlantError(f"{name}: an equivalent mutant needs a reason")
    if planted and not (bug.get("plant") and bug.get("case") and bug.get("tap")):
        raise PlantError(f"{name}: a {bug['class']} bug needs a plant, a case and a tap")
    if not planted and (bug.get("plant") or not bug.get("reason")):
        raise PlantError(f"{name}: class {bug['class']} needs a reason and no plant")
    if (bug["class"] == "harness") != bool(bug.get("check")):
        raise PlantError(f"{name}: a harness bug needs a check, the test that the suite does not make it, and no other bug has one")
    if bug.get("check") and not re.fullmatch(r"tests/[\w/]+\.(py::test_\w+|cpp::\w+\.\w+)", bug["check"]):
        raise PlantError(f"{name}: check {bug['check']!r}, expected tests/ROOM/FILE.py::test_NAME or tests/ROOM/FILE.cpp::SUITE.NAME")


def plants_of(bugs):
    for bug in bugs:
        for p in bug.get("plant", []):
            unknown = set(p) - {"file", "right", "wrong", "within", "form", "type"}
            if unknown:
                raise PlantError(f"{bug['id']}: plant has unknown {sorted(unknown)}")
            within = p.get("within", [])
            within = [within.strip("\n")] if isinstance(within, str) else within
            yield Plant(bug["id"], p["file"], p["right"].strip("\n"), p["wrong"].strip("\n"),
                        tuple(within), p.get("form", "expression"), p.get("type", ""))


# ---- planting ---------------------------------------------------------------------------------

def place(text, plant):
    """(begin, end) of the right text; it must occur exactly once."""
    low, high = 0, len(text)
    for part in [*plant.within, plant.right]:
        count = text.count(part, low, high)
        if count != 1:
            raise PlantError(f"{plant.bug}: {plant.file}: expected exactly once, found {count} times:\n{part}")
        low = text.index(part, low, high)
        high = low + len(part)
    return low, high


def nested(spans):
    """Spans as a forest: [(begin, end, plants, children)]; equal spans share a node."""
    forest = []
    for (begin, end), plant in sorted(spans, key=lambda s: (s[0][0], -s[0][1])):
        level = forest
        while level and level[-1][0] <= begin and end <= level[-1][1] and level[-1][:2] != (begin, end):
            level = level[-1][3]
        if level and level[-1][:2] == (begin, end):
            level[-1][2].append(plant)
        elif level and begin < level[-1][1]:
            raise PlantError(f"{plant.bug} and {level[-1][2][0].bug} overlap in {plant.file}")
        else:
            level.append((begin, end, [plant], []))
    return forest


def thrown(plant, numbers):
    return f"::dsv4_mutants::thrown({numbers[plant.bug]} /* {plant.bug} */)"


def switched(right, plants, numbers):
    """The text that chooses between the right one and each wrong one at run time."""
    if plants[0].form == "whole":  # the wrong text says itself, by BUG, when it is wrong
        if len(plants) > 1:
            raise PlantError(f"{', '.join(p.bug for p in plants)}: one text, and one of them replaces it whole")
        return plants[0].wrong.replace("BUG", thrown(plants[0], numbers))
    if {p.form for p in plants} == {"statement"}:
        text = "{ " + right + " }"
        for p in reversed(plants):
            text = f"if ({thrown(p, numbers)}) {{ {p.wrong} }} else {text}"
        return text
    if not {p.form for p in plants} <= {"expression", "times"}:
        raise PlantError(f"{', '.join(p.bug for p in plants)}: one text in two forms")
    factors = [p for p in plants if p.form == "times"]
    plants = [p for p in plants if p.form == "expression"]
    for p in factors:
        right = f"(Real({thrown(p, numbers)} ? {p.wrong} : 1) * ({right}))"
    if not plants:
        return right
    types = {p.type for p in plants}
    kind = max(types)
    if len(types - {""}) > 1:
        raise PlantError(f"{', '.join(p.bug for p in plants)}: one text of two types")
    text = f"{kind}({right})"
    for p in reversed(plants):
        text = f"{thrown(p, numbers)} ? {kind}({p.wrong}) : {text}"
    return f"({text})"


def render(text, begin, end, forest, numbers):
    out, at = [], begin
    for low, high, plants, children in forest:
        out.append(text[at:low])
        if children and plants[0].form == "whole":
            raise PlantError(f"{children[0][2][0].bug} stands in a text that {plants[0].bug} replaces whole")
        out.append(switched(render(text, low, high, children, numbers), plants, numbers))
        at = high
    out.append(text[at:end])
    return "".join(out)


def renamed(text):
    text = re.sub(r'#include "(core|reference)/', r'#include "mutants/\1/', text)
    text = re.sub(r"\bnamespace dsv4\b", "namespace dsv4_mutants", text)
    return re.sub(r"\bdsv4::", "dsv4_mutants::", text)


def copy_of(name, text, plants, always, numbers):
    for hook in always:
        if text.count(hook["right"]) != 1:
            raise PlantError(f"hook in {name}: expected exactly once:\n{hook['right']}")
        text = text.replace(hook["right"], hook["with"])
    if name in SCALAR:
        text, count = re.subn(r"#if defined\(__AVX2__\)[^\n]*", "#if 0", text)
        if count == 0:
            raise PlantError(f"{name}: no vector code to leave out")
    forest = nested([(place(text, p), p) for p in plants])
    text = render(text, 0, len(text), forest, numbers)
    return '#include "mutants/switches.hpp"\n' + renamed(text)


# ---- the table for C++ ------------------------------------------------------------------------

def literal(text):
    return f'R"~({text})~"'


def flag(bug, key):
    return str(bool(bug.get(key))).lower()


def table(bugs):
    rows = []
    for bug in bugs:
        links = ", ".join(literal(link) for link in bug.get("links", []))
        rows.append("    {" + ", ".join(literal(bug.get(key, "")) for key in TEXTS + ("reason", "tap", "case", "seen_by_logits")) +
                    f", {{{links}}}, {flag(bug, 'systematic')}, {flag(bug, 'variant')}}},\n")
    return ('// SPDX-License-Identifier: Apache-2.0\n// Generated from conformance/bugs/*.toml.\n'
            '#include "conformance/bugs/mutants.hpp"\n\nnamespace dsv4::bugs {\n\n'
            "const std::vector<Bug>& catalogue() {\n  static const std::vector<Bug> bugs = {\n" + "".join(rows) +
            "  };\n  return bugs;\n}\n\n}  // namespace dsv4::bugs\n")


def sources(root):
    for room in ("core", "reference"):
        for path in sorted((root / room).glob("*.[ch]pp")):
            name = path.relative_to(root).as_posix()
            if name not in LEFT_OUT:
                yield name


def outputs(root, out):
    return [out / "mutants" / name for name in [*sources(root), "core/embedded.cpp", "switches.hpp", "catalogue.cpp"]]


def write(path, text):
    """Only when it changes, so that only what changed is compiled again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def generate(root, embedded, out):
    folder = root / "conformance" / "bugs"
    bugs = load(folder)
    numbers = {bug["id"]: number for number, bug in enumerate(bugs)}
    plants = list(plants_of(bugs))
    always = hooks(folder)
    names = list(sources(root))
    for item in [*plants]:
        if item.file not in names:
            raise PlantError(f"{item.bug}: no such file: {item.file}")
    for name in names:
        text = (root / name).read_text()
        mine = [p for p in plants if p.file == name]
        write(out / "mutants" / name,
              copy_of(name, text, mine, [h for h in always if h["file"] == name], numbers))
    write(out / "mutants/core/embedded.cpp", renamed(embedded.read_text()))
    write(out / "mutants/switches.hpp", (folder / "switches.hpp").read_text())
    write(out / "mutants/catalogue.cpp", table(bugs))


def main(arguments):
    if arguments[:1] == ["--list"]:
        print(";".join(str(p) for p in outputs(pathlib.Path(arguments[1]), pathlib.Path(arguments[2]))), end="")
        return 0
    root, embedded, out = map(pathlib.Path, arguments)
    try:
        generate(root, embedded, out)
    except PlantError as error:
        print(f"plant.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
