#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `dsv4 diagnose` names, mistake by mistake: each planted one that was reported is thrown on the ids and calls of
the golden that kills it, and its trace is diagnosed whole, from the outputs of blocks alone, and from logits and
log-probabilities alone. Half an hour on two cores.

Usage: named.py DSV4 [ID …] > conformance/bugs/named.tsv

yes: among the first candidate's ids. nobody: no candidate. other: somebody else. unseen: the trace does not differ.
none: its case is no golden, and nothing can be diagnosed from it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import h5py

from plant import PLANTED, load

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMS = {"whole": [], "blocks": ["--taps", "*.hc_ffn.out"], "logits": ["--taps", "logits_all", "--taps", "logprobs", "--taps", "logits"]}


def request(golden):
    """The arguments of `dsv4 trace` that repeat a golden's run."""
    with h5py.File(ROOT / "golden" / f"{golden}.h5") as file:
        ids = file["inputs/input_ids"][()].ravel().tolist()
        starts = [int(file["calls"][call].attrs["start_pos"]) for call in sorted(file["calls"])]
        rounding = file.attrs.get("rounding", "exact")
        mtp = any("mtp" in file["calls"][call] for call in file["calls"])
    if isinstance(rounding, bytes):
        rounding = rounding.decode()
    end = len(ids) - (1 if mtp else 0)
    lengths = [b - a for a, b in zip(starts, [*starts[1:], end])]
    ids = ids[:end + 1] if mtp else ids[:end]
    model = "wide" if "wide" in golden else "tiny"
    return (model, ["--ids", ",".join(map(str, ids)), "--chunks", ",".join(map(str, lengths)), "--rounding", rounding,
                    *(["--mtp"] if mtp else [])])


def named(program, bug, golden, form, folder):
    model, arguments = request(golden)
    checkpoint, trace = ROOT / "golden/models" / model, pathlib.Path(folder) / "trace.h5"
    trace.unlink(missing_ok=True)
    made = subprocess.run([program, "trace", "--model", checkpoint, *arguments, *FORMS[form], "--backend", f"bug:{bug}",
                           "-o", trace, "--quiet"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return "stops: " + made.stderr.strip().splitlines()[0][:60]
    done = subprocess.run([program, "diagnose", trace, "--model", checkpoint, "--json", "--quiet"], capture_output=True,
                          text=True, check=False)
    found = json.loads(done.stdout)
    if found["first_difference"] is None:
        return "unseen"
    ids = [i for c in found["candidates"][:1] for i in c["ids"]]
    return "yes" if bug in ids else "other" if ids else "nobody"


def main(program, *wanted):
    print("bug", *FORMS, sep="\t")
    with tempfile.TemporaryDirectory() as folder:
        for bug in load(pathlib.Path(__file__).parent):
            if bug.get("systematic") or bug["class"] not in PLANTED or (wanted and bug["id"] not in wanted):
                continue
            case = bug["case"]
            row = ["none"] * 3 if "/" in case else [named(program, bug["id"], case, form, folder) for form in FORMS]
            print(bug["id"], *row, sep="\t", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
