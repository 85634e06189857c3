#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies cuda/kernels and what runs them under the namespace planted_kernels and plants every mutant of kernels.toml
behind a run-time switch, with the means of conformance/bugs/plant.py. A text that no longer occurs exactly once is an
error.

Usage: plant_kernels.py ROOT OUT     (--list prints the files that would be written)
"""

import pathlib
import re
import sys
import tomllib

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "conformance" / "bugs"))
from plant import Plant, PlantError, literal, nested, place, render, write  # noqa: E402

CAUGHT = {"race", "barrier", "bounds", "value"}
STAGES = ["launchers.hpp", "run.hpp", "run_attention.hpp", "stages_of.hpp", "on_emulator.cpp"]
SWITCHES = """// SPDX-License-Identifier: Apache-2.0
// Generated. Which mutant of kernels.toml is thrown.
#pragma once
#include <cstddef>
namespace dsv4_mutants {
inline std::size_t& thrown_kernel() {
  static std::size_t number = static_cast<std::size_t>(-1);
  return number;
}
inline bool thrown(std::size_t number) { return number == thrown_kernel(); }
}  // namespace dsv4_mutants
"""


def load(file):
    with open(file, "rb") as toml:
        mutants = tomllib.load(toml)["mutant"]
    for number, mutant in enumerate(mutants):
        if mutant["caught"] not in CAUGHT:
            raise PlantError(f"{mutant['id']}: caught by {mutant['caught']!r}, expected one of {sorted(CAUGHT)}")
        if mutant["id"] in {m["id"] for m in mutants[:number]}:
            raise PlantError(f"{mutant['id']} occurs twice")
        judges = [key for key in ("golden", "tap", "values") if key in mutant]
        expected = [["golden", "tap"], ["values"]] if mutant["caught"] == "value" else [[]]
        if judges not in expected:
            raise PlantError(f"{mutant['id']}: caught by {mutant['caught']}, so expected the keys "
                             f"{' or '.join(map(str, expected))}, found {judges}")
    return mutants


def plants_of(mutants):
    for mutant in mutants:
        for p in mutant["plant"]:
            within = (p["within"],) if "within" in p else ()
            yield Plant(mutant["id"], "cuda/" + p["file"], p["right"], p["wrong"], within, p["form"], "")


def sources(root):
    kernels = sorted((root / "cuda/kernels").glob("*.hpp"))
    return [p.relative_to(root).as_posix() for p in kernels] + [f"cuda/stages/{name}" for name in STAGES]


def renamed(text):
    text = re.sub(r'#include "cuda/kernels/', '#include "planted/cuda/kernels/', text)
    text = re.sub(r'#include "cuda/stages/(launchers|run|run_attention|stages_of)\.hpp"', r'#include "planted/cuda/stages/\1.hpp"', text)
    text = text.replace("namespace dsv4::kernels", "namespace dsv4::planted_kernels")
    text = text.replace("std::unique_ptr<Stages> on_emulator(", "std::unique_ptr<Stages> on_planted_emulator(")
    return re.sub(r"\bkernels::", "planted_kernels::", text)


def catalogue(mutants):
    keys = ("id", "title", "caught", "case", "golden", "tap", "values")
    rows = "".join("    {" + ", ".join(literal(m.get(key, "")) for key in keys) + "},\n" for m in mutants)
    return ('// SPDX-License-Identifier: Apache-2.0\n// Generated from cuda/mutants/kernels.toml.\n'
            '#include "cuda/mutants/mutants.hpp"\n#include "planted/switches.hpp"\n\nnamespace dsv4::planted_kernels {\n\n'
            "const std::vector<Mutant>& catalogue() {\n  static const std::vector<Mutant> list = {\n" + rows +
            "  };\n  return list;\n}\n\nvoid throw_switch(std::size_t mutant) { dsv4_mutants::thrown_kernel() = mutant; }\n\n"
            "}  // namespace dsv4::planted_kernels\n")


def outputs(root, out):
    return [out / "planted" / name for name in [*sources(root), "switches.hpp", "catalogue.cpp"]]


def generate(root, out):
    mutants = load(root / "cuda/mutants/kernels.toml")
    numbers = {m["id"]: number for number, m in enumerate(mutants)}
    plants = list(plants_of(mutants))
    for name in sources(root):
        text = (root / name).read_text()
        forest = nested([(place(text, p), p) for p in plants if p.file == name])
        text = render(text, 0, len(text), forest, numbers)
        # A switch is a function of the host; under g++ a kernel body is one too.
        text = text.replace("#pragma once\n", '#pragma once\n\n#include "planted/switches.hpp"\n', 1)
        write(out / "planted" / name, renamed(text))
    missing = {p.file for p in plants} - set(sources(root))
    if missing:
        raise PlantError(f"no such file: {sorted(missing)}")
    write(out / "planted/switches.hpp", SWITCHES)
    write(out / "planted/catalogue.cpp", catalogue(mutants))


def main(arguments):
    if arguments[:1] == ["--list"]:
        print(";".join(str(p) for p in outputs(pathlib.Path(arguments[1]), pathlib.Path(arguments[2]))), end="")
        return 0
    try:
        generate(*map(pathlib.Path, arguments))
    except PlantError as error:
        print(f"plant_kernels.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
