# SPDX-License-Identifier: Apache-2.0
"""conformance/bugs/named.tsv, from which traces of its own golden each reported mistake is named: complete, as the catalogue says, and some rows measured again."""

import sys

import pytest

from conftest import PROGRAM, ROOT

sys.path.insert(0, str(ROOT / "conformance" / "bugs"))

import named  # noqa: E402

BUGS = {bug["id"]: bug for bug in named.reported()}
TABLE = named.table()
SHOWN = {bug for bug, row in TABLE.items() if row["golden"] != "-"}
# The draft tensors that a port drops leave no difference, only a note.
NOTED = {"M84"}


def test_every_reported_mistake_was_measured_on_the_golden_that_kills_it():
    assert set(TABLE) == set(BUGS)
    assert {bug: row["golden"] for bug, row in TABLE.items()} == {i: named.golden_of(b) or "-" for i, b in BUGS.items()}


def test_each_is_named_from_every_trace_that_differs():
    verdicts = {bug: [row[form] for form in named.FORMS] for bug, row in TABLE.items() if bug in SHOWN - NOTED}

    assert {bug for bug, of in verdicts.items() if not set(of) <= {"yes", "unseen"} or of[0] != "yes"} == set()
    assert [TABLE[bug]["whole"] for bug in sorted(NOTED)] == ["note"]
    assert {TABLE[bug]["whole"] for bug in set(TABLE) - SHOWN} == {"none"}


def test_the_catalogue_says_which_logits_show_nothing():
    unseen = {bug for bug in SHOWN if TABLE[bug]["logits"] == "unseen"}

    assert unseen == {bug for bug in SHOWN if BUGS[bug].get("seen_by_logits") == "no"}


@pytest.mark.parametrize("form", named.FORMS)
@pytest.mark.parametrize("bug", sorted(SHOWN)[3::22])
def test_a_sample_of_the_table_is_so(bug, form, tmp_path):
    assert named.named(PROGRAM, bug, TABLE[bug]["golden"], form, tmp_path) == TABLE[bug][form]
