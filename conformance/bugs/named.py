#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `dsv4 diagnose` names, mistake by mistake: each planted one is thrown on the ids, calls and numerics of the golden
that kills it, and its trace is diagnosed whole, from the outputs of the sublayers alone, and from the logits of each call's
last position alone. About an hour and a half of one core.

Usage: named.py DSV4 [ID …] > conformance/bugs/named.tsv
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np

from plant import load

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
FORMS = {"whole": [], "blocks": ["*.hc_attn.out", "*.hc_ffn.out", "logits"], "logits": ["logits"]}
MEANING = {
    "yes": "it is among the ids of the first candidate",
    "equal": "another mistake is named or noted, and its own trace holds the same numbers",
    "note": "the trace differs nowhere, and a note says what it may lack",
    "nobody": "no candidate",
    "other": "another mistake is named, and its numbers are others",
    "unseen": "this form of the trace differs nowhere",
    "stops": "the run ends with an error",
    "none": "no golden shows it",
}


def planted():
    return [bug for bug in load(FOLDER) if "plant" in bug and bug["class"] != "equivalent"]


def kills():
    """{case: ids that it kills}"""
    rows = (line.split("\t") for line in (FOLDER / "kills.tsv").read_text().splitlines())
    return {case: ids.split(",") for case, ids in rows}


def golden_of(bug):
    """The golden that the catalogue names; for a case of one component the first golden that kills it too, or None."""
    if "/" not in bug["case"]:
        return bug["case"]
    return next((case for case, ids in kills().items() if "/" not in case and bug["id"] in ids), None)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def request(golden, form):
    """Model and arguments of `dsv4 trace` that repeat a golden's run, with its optional taps where all are wanted."""
    with h5py.File(ROOT / "golden" / f"{golden}.h5") as file:
        calls = [file["calls"][call] for call in sorted(file["calls"])]
        ids = file["inputs/input_ids"][()].ravel().tolist()
        starts = [int(call.attrs["start_pos"]) for call in calls]
        rounding = text(file.attrs.get("rounding", "exact"))
        mtp = any("mtp" in call for call in calls)
        experts = "layers/0/ffn/experts" in calls[0]
    end = len(ids) - (1 if mtp else 0)
    lengths = [b - a for a, b in zip(starts, [*starts[1:], end])]
    taps = FORMS[form] or (["*", "*.experts.*"] if experts else [])
    arguments = ["--ids", ",".join(map(str, ids)), "--chunks", ",".join(map(str, lengths)), "--rounding", rounding,
                 *(["--mtp"] if mtp else []), *(word for tap in taps for word in ("--taps", tap))]
    return "wide" if "wide" in golden else "tiny", arguments


def traced(program, bug, golden, form, trace):
    """The checkpoint, and whether the run went through."""
    model, arguments = request(golden, form)
    checkpoint = ROOT / "golden/models" / model
    trace.unlink(missing_ok=True)
    made = subprocess.run([program, "trace", "--model", checkpoint, *arguments, "--backend", f"bug:{bug}", "-o", trace,
                           "--quiet"], capture_output=True, check=False)
    return checkpoint, made.returncode == 0


def diagnosed(program, checkpoint, trace):
    done = subprocess.run([program, "diagnose", trace, "--model", checkpoint, "--json", "--quiet", "--seconds", "600"],
                          capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


def datasets(trace):
    found = {}
    with h5py.File(trace) as file:
        file["calls"].visititems(lambda name, node: found.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None)
    return found


def same_numbers(one, other):
    """Whether two traces hold the same datasets, up to the rounding of a sum in another order."""
    one, other = datasets(one), datasets(other)
    return one.keys() == other.keys() and all(
        one[n].shape == other[n].shape and np.allclose(one[n], other[n], rtol=1e-9, atol=1e-12, equal_nan=True) for n in one)


def named(program, bug, golden, form, folder):
    """The verdict on one trace, a word of MEANING."""
    if not golden:
        return "none"
    trace, other = pathlib.Path(folder) / f"{bug}.{form}.h5", pathlib.Path(folder) / f"{bug}.{form}.other.h5"
    checkpoint, complete = traced(program, bug, golden, form, trace)
    if not complete:
        return "stops"
    found = diagnosed(program, checkpoint, trace)
    differs = found["first_difference"] is not None
    ids = ([i for c in found["candidates"][:1] for i in c["ids"]] if differs else
           [i for note in found["notes"] for i in re.findall(r"\((M\d+\w*)\)", note)])
    if not ids:
        return "nobody" if differs else "unseen"
    if bug in ids:
        return "yes" if differs else "note"
    traced(program, ids[0], golden, form, other)
    return "equal" if same_numbers(trace, other) else "other"


def table():
    """{bug: {"golden": …, form: verdict}} as measured."""
    head, *rows = (line.split("\t") for line in (FOLDER / "named.tsv").read_text().splitlines())
    return {row[0]: dict(zip(head[1:], row[1:])) for row in rows}


def main(program, *wanted):
    print("bug", "golden", *FORMS, sep="\t")
    for bug in planted():
        if wanted and bug["id"] not in wanted:
            continue
        golden = golden_of(bug)
        with tempfile.TemporaryDirectory() as folder:  # of one mistake: whole traces are large
            row = [named(program, bug["id"], golden, form, folder) for form in FORMS]
        print(bug["id"], golden or "-", *row, sep="\t", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
