# SPDX-License-Identifier: Apache-2.0
"""The report as JUnit XML and as a page: the same results as the JSON, whatever is in the names."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import h5py
import pytest
from conftest import dsv4, tap


@pytest.fixture
def reports(made, model, tmp_path):
    """(JSON, JUnit root, HTML text) of a trace with a wrong row, an unknown name and a constant stage."""
    trace = tmp_path / 'a&b "<script>alert(1)</script>.h5'.replace("/", "_")
    shutil.copy(made / "trace.h5", trace)
    with h5py.File(trace, "r+") as f:
        rows = tap(f, 0, "layers.2.attn.qr")
        values = rows[:]
        values[3, 5] += 1e-3
        rows[:] = values
        tap(f, 0, "layers.1.attn.o")[...] = 0
        f["calls/0000/layers/1/attn/quer<y"] = [1.0]
    done = dsv4("verify", trace, "--model", model, "--json", "-q", "--junit", tmp_path / "r.xml", "--html", tmp_path / "r.html")
    assert done.returncode == 1
    return json.loads(done.stdout), ElementTree.parse(tmp_path / "r.xml").getroot(), (tmp_path / "r.html").read_text()


def embedded(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_junit_has_a_case_for_every_dataset_that_was_there(reports):
    report, root, _ = reports
    there = [r for r in report["results"] if r["verdict"] != "ABSENT"]
    cases = {(c.get("classname"), c.get("name")): c for c in root.iter("testcase")}
    assert len(cases) == len(there) == int(root.get("tests"))
    for r in there:
        case = cases[r["tap"], f"call {r['call']}"]
        kind = {"FAILED": "failure", "PASSED": None}.get(r["verdict"], "skipped")
        assert [child.tag for child in case] == ([kind] if kind else [])
    assert int(root.get("failures")) == report["counts"]["FAILED"] > 0
    assert int(root.get("skipped")) == len(there) - report["counts"]["PASSED"] - report["counts"]["FAILED"] > 0
    assert sum(int(s.get("tests")) for s in root) == len(there)


def test_a_junit_failure_says_what_and_how_to_see_it(reports):
    _, root, _ = reports
    (case,) = [c for c in root.iter("testcase") if c.get("classname") == "layers.2.attn.qr" and c.get("name") == "call 0"]
    failure = case.find("failure")
    assert "[3,5]" in failure.get("message") and "again: dsv4 verify" in failure.text and "layers.2.attn.wq_a.out" in failure.text


def test_the_page_holds_the_report(reports):
    report, _, page = reports
    inside = embedded(page)
    assert inside["counts"] == report["counts"] and inside["first_difference"] == report["first_difference"]
    assert [r["tap"] for r in inside["results"]] == [r["tap"] for r in report["results"]]
    assert all({"stage", "title", "again", "part"} <= r.keys() for r in inside["results"])


def test_the_page_needs_nothing_else_and_no_name_breaks_it(reports):
    _, _, page = reports
    assert not re.search(r'(src|href)\s*=|@import|url\(|https?://|fetch\(', page)
    assert page.count("</script>") == 2 and "alert(1)</script>" not in page and "__REPORT__" not in page


def test_a_report_that_cannot_be_written_is_an_error(made, model, tmp_path):
    for option in ("--junit", "--html"):
        done = dsv4("verify", made / "trace.h5", "--model", model, "-q", option, tmp_path / "no" / "such" / "file")
        assert done.returncode == 2 and "cannot be created" in done.stderr


def test_a_run_that_compared_nothing_is_not_green(made, model, tmp_path):
    done = dsv4("verify", made / "trace.h5", "--model", model, "-q", "--taps", "nope*", "--junit", tmp_path / "r.xml",
                "--html", tmp_path / "r.html")
    assert done.returncode == 3
    root = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "0", "1")
    (error,) = root.iter("error")
    assert error.get("message") == "nothing was compared"
    assert embedded((tmp_path / "r.html").read_text())["headline"] == "Nothing was compared"


def test_the_headline_says_what_was_found(reports, made, model, tmp_path):
    report, _, page = reports
    assert embedded(page)["headline"] == f"First difference: {report['first_difference']['tap']}"
    dsv4("verify", made / "trace.h5", "--model", model, "-q", "--html", tmp_path / "r.html")
    assert embedded((tmp_path / "r.html").read_text())["headline"] == "No difference found"
