# SPDX-License-Identifier: Apache-2.0
"""conformance/bugs/named.tsv, from which traces of its own golden each planted mistake is named: complete, as the catalogue says, and some rows measured again."""

import sys

import pytest

from conftest import PROGRAM, ROOT, ok

sys.path.insert(0, str(ROOT / "conformance" / "bugs"))

import named  # noqa: E402

BUGS = {bug["id"]: bug for bug in named.planted()}
TABLE = named.table()
SHOWN = {bug for bug, row in TABLE.items() if row["golden"] != "-"}
REPORTED = {bug for bug in SHOWN if not BUGS[bug].get("systematic")}
# Draft tensors that a port drops leave no difference, only a note.
NOTED = {"M84"}
# Loops over queries that these cut are run for each tile of 32 where nobody watches the scores; diagnose watches them.
TILED = {"S-top_k-last-1", "S-top_k-last-2", "S-top_k-first-1", "S-top_k-first-2", "S-score_rows-first-1"}


def verdicts(bugs):
    return {bug: [TABLE[bug][form] for form in named.FORMS] for bug in bugs}


def test_every_planted_mistake_was_measured_on_the_golden_that_kills_it():
    assert set(TABLE) == set(BUGS)
    assert {bug: row["golden"] for bug, row in TABLE.items()} == {i: named.golden_of(b) or "-" for i, b in BUGS.items()}


def test_each_is_named_from_every_trace_that_differs():
    odd = {bug: of for bug, of in verdicts(REPORTED - NOTED).items() if not set(of) <= {"yes", "unseen"} or of[0] != "yes"}

    assert odd == {}
    assert [TABLE[bug]["whole"] for bug in sorted(NOTED)] == ["note"]
    assert {TABLE[bug]["whole"] for bug in set(TABLE) - SHOWN} == {"none"}


def test_each_systematic_one_is_named_or_another_of_its_numbers():
    odd = {bug for bug, of in verdicts(SHOWN - REPORTED).items() if not set(of) <= {"yes", "equal", "unseen"}}

    assert odd == TILED
    assert {TABLE[bug]["whole"] for bug in SHOWN - REPORTED} == {"yes", "equal"}


@pytest.mark.parametrize("bug", sorted(TILED))
def test_one_that_acts_in_each_tile_is_named_where_there_is_one_tile(bug, tmp_path):
    trace, model = tmp_path / "t.h5", ROOT / "golden/models/tiny"
    ids = ",".join(map(str, range(1, 32)))
    ok("trace", "--model", model, "--ids", ids, "--chunks", "30,1", "--taps", "logits", "--backend", f"bug:{bug}", "-o", trace)

    assert bug in named.diagnosed(PROGRAM, model, trace)["candidates"][0]["ids"]


def test_the_catalogue_says_which_logits_show_nothing():
    unseen = {bug for bug in REPORTED if TABLE[bug]["logits"] == "unseen"}

    assert unseen == {bug for bug in REPORTED if BUGS[bug].get("seen_by_logits") == "no"}


@pytest.mark.parametrize("form", named.FORMS)
@pytest.mark.parametrize("bug", [*sorted(REPORTED)[3::22], *sorted(SHOWN - REPORTED)[5::47]])
def test_a_sample_of_the_table_is_so(bug, form, tmp_path):
    assert named.named(PROGRAM, bug, TABLE[bug]["golden"], form, tmp_path) == TABLE[bug][form]
