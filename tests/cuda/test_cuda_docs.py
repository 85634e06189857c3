# SPDX-License-Identifier: Apache-2.0
"""docs/cuda.md: its table of mutants is the catalogue, its table of benchmarks is the list of kernels."""

import os
import pathlib
import tomllib

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
PAGE = (ROOT / "docs/cuda.md").read_text(encoding="utf-8")


def test_every_mutant_is_in_the_table_as_in_the_catalogue():
    mutants = tomllib.loads((ROOT / "cuda/mutants/kernels.toml").read_text(encoding="utf-8"))["mutant"]
    for m in mutants:
        kernel = pathlib.Path(m["plant"][0]["file"]).stem
        failed = f"`{m['values']}` |" if "values" in m else "|"
        if "tap" in m:
            _, layer, tap = m["tap"].split(".", 2)
            failed = f"`{m['golden']}`, layer {layer}: `{tap}` |"
        assert f"| {m['id']} | {m['title']} | `{kernel}` | {m['caught']} | `{m['case']}` | {failed}\n" in PAGE
    assert PAGE.count("\n| K") == len(mutants)


def test_every_kernel_has_a_floor_a_prediction_and_a_measurement_or_owes_it():
    limits = [line.split("\t")[0] for line in (ROOT / "cuda/kernels/limits.tsv").read_text().splitlines()[1:]]
    table = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for kernel in limits:
        # A launcher takes the kernel for clusters where there are some: one row for both.
        rows = [line for line in table if line.startswith(f"| `{kernel.removesuffix('_cluster')}` |")]
        assert rows and all(len(line.split("|")) == 9 and line.split("|")[7].strip() for line in rows), kernel
