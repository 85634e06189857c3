#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `dsv4 diagnose` names, mistake by mistake: each planted one that was reported is thrown on the ids, calls and
numerics of the golden that kills it, and its trace is diagnosed whole, from the outputs of the sublayers alone, and from
the logits of each call's last position alone. About half an hour of one core.

Usage: named.py DSV4 [ID …] > conformance/bugs/named.tsv
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import h5py

from plant import PLANTED, load

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
FORMS = {"whole": [], "blocks": ["*.hc_attn.out", "*.hc_ffn.out", "logits"], "logits": ["logits"]}
MEANING = {
    "yes": "it is among the ids of the first candidate",
    "note": "the trace differs nowhere, and a note says what it may lack",
    "nobody": "no candidate",
    "other": "another mistake is named",
    "unseen": "this form of the trace differs nowhere",
    "stops": "the run ends with an error",
    "none": "no golden shows it",
}


def reported():
    return [bug for bug in load(FOLDER) if not bug.get("systematic") and bug["class"] in PLANTED]


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


def diagnosed(program, bug, golden, form, folder):
    """The JSON of diagnose, or the line with which a run stopped."""
    model, arguments = request(golden, form)
    checkpoint, trace = ROOT / "golden/models" / model, pathlib.Path(folder) / f"{bug}.{form}.h5"
    trace.unlink(missing_ok=True)
    made = subprocess.run([program, "trace", "--model", checkpoint, *arguments, "--backend", f"bug:{bug}", "-o", trace,
                           "--quiet"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return made.stderr.strip().splitlines()[0]
    done = subprocess.run([program, "diagnose", trace, "--model", checkpoint, "--json", "--quiet", "--seconds", "600"],
                          capture_output=True, text=True, check=False)
    trace.unlink()
    return json.loads(done.stdout)


def verdict(bug, found):
    if isinstance(found, str):
        return "stops"
    if found["first_difference"] is None:
        return "note" if any(bug in note for note in found["notes"]) else "unseen"
    ids = [i for c in found["candidates"][:1] for i in c["ids"]]
    return "yes" if bug in ids else "other" if ids else "nobody"


def named(program, bug, golden, form, folder):
    return verdict(bug, diagnosed(program, bug, golden, form, folder)) if golden else "none"


def table():
    """{bug: {"golden": …, form: verdict}} as measured."""
    head, *rows = (line.split("\t") for line in (FOLDER / "named.tsv").read_text().splitlines())
    return {row[0]: dict(zip(head[1:], row[1:])) for row in rows}


def main(program, *wanted):
    print("bug", "golden", *FORMS, sep="\t")
    with tempfile.TemporaryDirectory() as folder:
        for bug in reported():
            if wanted and bug["id"] not in wanted:
                continue
            golden = golden_of(bug)
            row = [named(program, bug["id"], golden, form, folder) for form in FORMS]
            print(bug["id"], golden or "-", *row, sep="\t", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
