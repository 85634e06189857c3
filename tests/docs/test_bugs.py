# SPDX-License-Identifier: Apache-2.0
"""docs/bugs.md is what the catalogue and the measured kills give; the catalogue says nothing that is not so."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import h5py
import pytest

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BUGS = ROOT / "conformance" / "bugs"
sys.path.insert(0, str(BUGS))

import document  # noqa: E402
import plant  # noqa: E402

CATALOGUE = plant.load(BUGS)
PLANTED = [b for b in CATALOGUE if "plant" in b]
KILLS = document.kills(BUGS / "kills.tsv")


def cases():
    goldens = {p.stem for p in (ROOT / "golden").glob("*.h5")}
    return goldens | {f"cases/{p.stem}" for p in (ROOT / "golden" / "cases").glob("*.h5")}


def test_the_page_is_up_to_date():
    assert document.document(ROOT) == (ROOT / "docs" / "bugs.md").read_text(), "run conformance/bugs/document.py ."


def test_the_systematic_mutants_are_up_to_date():
    done = subprocess.run([sys.executable, BUGS / "systematic.py", ROOT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_case_was_measured_and_kills_something():
    assert set(KILLS) == cases()
    assert [case for case, ids in KILLS.items() if not ids] == []


@pytest.mark.parametrize("bug", PLANTED, ids=lambda b: b["id"])
def test_a_planted_bug_names_a_case_that_kills_it(bug):
    killed = bug["id"] in KILLS[bug["case"]]

    assert killed == (bug["class"] != "equivalent")


def test_taps_of_the_catalogue_exist():
    with open(ROOT / "core" / "taps.tsv", encoding="utf-8", newline="") as file:
        taps = {row["name"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    assert [b["id"] for b in PLANTED if not b["case"].startswith("cases/") and b["tap"] not in taps] == []


def test_every_reported_number_has_an_entry():
    numbers = {int(m[1]) for b in CATALOGUE if (m := re.match(r"M(\d+)", b["id"]))}
    assert numbers == set(range(1, 87))


def test_reported_bugs_have_links_of_the_right_form():
    """Or they say where else they were seen."""
    for bug in CATALOGUE:
        if bug.get("systematic"):
            continue
        assert bug.get("links") or bug.get("source"), bug["id"]
        for link in bug.get("links", []):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+(/(pull|issues)/\d+)?", link), (bug["id"], link)


@pytest.mark.parametrize("bug", [b for b in CATALOGUE if b["class"] == "harness"], ids=lambda b: b["id"])
def test_the_check_of_a_harness_bug_exists(bug):
    file, _, name = bug["check"].partition("::")
    suite, _, test = name.partition(".")

    wanted = f"TEST({suite}, {test})" if test else f"def {name}("
    assert wanted in (ROOT / file).read_text()


@pytest.mark.parametrize("change, problem", [({"check": ""}, "needs a check"), ({"check": "somewhere"}, "expected tests/"),
                                             ({"class": "not applicable"}, "no other bug has one")])
def test_a_harness_bug_without_a_check_is_an_error(change, problem):
    bug = next(b for b in CATALOGUE if b["class"] == "harness")

    with pytest.raises(plant.PlantError, match=problem):
        plant.check({**bug, **change}, "x.toml")


def test_no_expected_value_comes_from_the_code_under_test():
    """Goldens name their producer twice, in the bundle and in the file; cases are made by code that neither includes nor runs ours."""
    producers = {"official": "official model.py ", "transformers": "transformers "}
    bundle = json.loads((ROOT / "golden" / "bundle.json").read_text())["goldens"]
    assert {ROOT / file for file in bundle} == set((ROOT / "golden").glob("*.h5"))
    for file, golden in bundle.items():
        with h5py.File(ROOT / file) as trace:
            assert str(trace.attrs["producer"]).startswith(producers[golden["producer"]]), file

    for case in json.loads((ROOT / "golden" / "cases" / "index.json").read_text())["cases"]:
        assert re.fullmatch(r"(ml_dtypes [\d.]+( and )?)?(scalar twin)?", case["producer"]), case["id"]
    makers = {path.stem for path in (ROOT / "golden" / "cases").glob("*.py")}
    for path in (ROOT / "golden" / "cases").glob("*.py"):
        imported = set(re.findall(r"^(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE))
        assert imported <= makers | {"hashlib", "heapq", "itertools", "json", "math", "os", "pathlib", "h5py", "ml_dtypes", "numpy"}


def planted(**changes):
    return {"file": "f.cpp", "right": "a + b", "wrong": "a - b", **changes}


@pytest.mark.parametrize("text, problem", [("a + b; a + b;", "found 2 times"), ("a+b;", "found 0 times")])
def test_a_text_that_is_not_there_once_is_an_error(text, problem):
    made = list(plant.plants_of([{"id": "X", "plant": [planted()]}]))

    with pytest.raises(plant.PlantError, match=problem):
        plant.copy_of("f.cpp", text, made, [], {"X": 0})


def test_a_plant_is_a_switch_between_both_texts():
    made = list(plant.plants_of([{"id": "X", "plant": [planted()]}, {"id": "Y", "plant": [planted(right="b", wrong="2 * b")]}]))

    text = plant.copy_of("f.cpp", "namespace dsv4 { return a + b; }", made, [], {"X": 3, "Y": 4})

    assert "namespace dsv4_mutants {" in text
    assert "thrown(3 /* X */) ? (a - b) : (a + (::dsv4_mutants::thrown(4 /* Y */) ? (2 * b) : (b)))" in text


def test_overlapping_plants_are_an_error():
    made = list(plant.plants_of([{"id": "X", "plant": [planted()]}, {"id": "Y", "plant": [planted(right="b; c")]}]))

    with pytest.raises(plant.PlantError, match="overlap"):
        plant.copy_of("f.cpp", "return a + b; c", made, [], {"X": 0, "Y": 1})
