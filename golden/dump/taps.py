# SPDX-License-Identifier: Apache-2.0
"""The tap list of core/taps.tsv (the one place that names intermediates), and the choice of taps, layers and
rows."""

from __future__ import annotations

import csv
import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Sequence

from errors import DumpError

TAPS_FILE = Path(__file__).resolve().parents[2] / "core" / "taps.tsv"

# Read again by later rows, so kept whole when --rows selects: window keys and everything of the compressors.
ALWAYS_WHOLE = ("*.attn.kv", "*.compressor.*")


@dataclass(frozen=True)
class TapInfo:
    """One line of taps.tsv: `axes` like "s,h,c"; `optional` taps are written only on request."""

    name: str
    axes: str
    dtype: str
    site: str
    eq: str
    optional: bool
    quantised: bool = False


class TapList:
    """taps.tsv, looked up by concrete name ("layers.3.attn.qr")."""

    def __init__(self, path: Path = TAPS_FILE):
        if not path.is_file():
            raise DumpError(
                "the tap list is missing",
                where=path,
                hint="run the tool from a checkout, or give --tap-list FILE",
            )
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        self._order = {row["name"]: index for index, row in enumerate(rows)}
        self._taps = {row["name"]: self._info(row) for row in rows}

    @staticmethod
    def _info(row: dict[str, str]) -> TapInfo:
        note = row["note"] or ""
        optional = "optional" in note or "only when asked" in note or ".experts.E." in row["name"]
        return TapInfo(
            row["name"],
            row["axes"],
            row["dtype"],
            row["official_site"],
            "" if row["eq"] == "-" else row["eq"],
            optional,
            "quantise-dequantise" in note,
        )

    @staticmethod
    def pattern(name: str) -> str:
        """layers.3.ffn.experts.7.out -> layers.L.ffn.experts.E.out, the name in the list."""
        name = re.sub(r"^layers\.\d+\.", "layers.L.", name)
        name = re.sub(r"^mtp\.\d+\.", "mtp.J.", name)
        return re.sub(r"\.experts\.\d+\.", ".experts.E.", name)

    def find(self, name: str) -> Optional[TapInfo]:
        pattern = self.pattern(name)
        known = self._taps.get(pattern)
        stem, _, leaf = pattern.rpartition(".")
        beside = self._taps.get(stem)
        if known is not None or beside is None or not beside.quantised or leaf not in ("code", "scale"):
            return known
        axes = beside.axes if leaf == "code" else beside.axes.split(",")[0] + ",blocks"
        return TapInfo(pattern, axes, "uint8", beside.site, beside.eq, True)

    def quantised(self, name: str) -> bool:
        tap = self._taps.get(self.pattern(name))
        return tap is not None and tap.quantised

    def order(self, name: str) -> tuple[int, ...]:
        """Sort key: layers in order, inside a layer the order of the list."""
        numbers = [int(number) for number in re.findall(r"\.(\d+)\.", name)]
        kind = (
            0 if name == "embed" else 1 if name.startswith("layers.") else 3 if name.startswith("mtp.") else 2
        )
        block = numbers[0] if kind in (1, 3) else 0
        pattern = self.pattern(name)
        stem, _, leaf = pattern.rpartition(".")
        beside = pattern not in self._order  # codes and scales follow their tap
        return (kind, block, self._order[stem if beside else pattern], *numbers[1:], beside, leaf == "scale")


@dataclass
class Selection:
    """What to write: tap globs ("*" crosses dots), a layer range, absolute positions, optional taps or
    not."""

    taps: Sequence[str] = ()
    layers: Optional[tuple[int, int]] = None
    rows: Optional[frozenset[int]] = None
    optional: bool = False
    codes: bool = False  # codes and scales beside quantised taps
    whole: Sequence[str] = field(default=ALWAYS_WHOLE)

    def wants(self, name: str, tap: TapInfo) -> bool:
        """Is this tap to be written? A glob that is the tap's own name also asks for an optional one."""
        if tap.optional and not self.optional and not any(self._asks_for(glob, name) for glob in self.taps):
            return False
        if self.taps and not any(fnmatch.fnmatchcase(name, glob) for glob in self.taps):
            return False
        if self.layers is None:
            return True
        layer = re.match(r"layers\.(\d+)\.", name)
        return layer is not None and self.layers[0] <= int(layer.group(1)) <= self.layers[1]

    @staticmethod
    def _asks_for(glob: str, name: str) -> bool:
        """A glob asks for an optional tap when it spells its last part (*.kv_state, not *)."""
        return fnmatch.fnmatchcase(name, glob) and name.rpartition(".")[2] == glob.rpartition(".")[2]

    def kept_rows(self, name: str, axes: str, start_pos: int, count: int) -> Optional[list[int]]:
        """Indices of the call's rows to keep, None for all. Only taps with one row a token are thinned."""
        if (
            self.rows is None
            or not axes.startswith("s")
            or any(fnmatch.fnmatchcase(name, glob) for glob in self.whole)
        ):
            return None
        kept = [row for row in range(count) if start_pos + row in self.rows]
        return None if len(kept) == count else kept


def parse_positions(text: str) -> frozenset[int]:
    """ "0-2,5,195" -> {0, 1, 2, 5, 195}"""
    positions: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise DumpError("cannot read a list of positions", expected="like 0-2,5,195", found=text)
        positions.update(range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1))
    return frozenset(positions)


def parse_layers(text: str) -> tuple[int, int]:
    """ "2-4" -> (2, 4); "3" -> (3, 3)"""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match or int(match.group(2) or match.group(1)) < int(match.group(1)):
        raise DumpError("cannot read a range of layers", expected="like 2-4 or 3", found=text)
    return int(match.group(1)), int(match.group(2) or match.group(1))
