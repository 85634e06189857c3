# SPDX-License-Identifier: Apache-2.0
"""The tap list and the choice of taps and rows."""

import pytest

from errors import DumpError
from record import read_sites
from taps import TAPS_FILE, Selection, TapList, parse_layers, parse_positions

SITES = TAPS_FILE.parents[1] / "golden" / "dump" / "official_sites.tsv"
TAPS = TapList()


def test_concrete_names_are_found():
    assert TAPS.find("layers.12.attn.qr").axes == "s,q"
    assert TAPS.find("mtp.0.ffn.experts.300.out").optional
    assert TAPS.find("layers.1.nonsense") is None


def test_order_is_that_of_the_forward_pass():
    names = ["logits", "mtp.0.x", "layers.10.attn.qr", "layers.2.hc_ffn.out", "layers.2.attn.qr", "embed"]

    assert sorted(names, key=TAPS.order) == names[::-1][:3] + ["layers.10.attn.qr", "logits", "mtp.0.x"]


def wants(selection, name):
    return selection.wants(name, TAPS.find(name))


def test_optional_taps_are_written_only_on_request():
    state = "layers.2.attn.compressor.kv_state"

    assert not wants(Selection(), state) and not wants(Selection(taps=["*"]), state)
    assert wants(Selection(optional=True), state) and wants(Selection(taps=["*.kv_state"]), state)


def test_a_layer_range_leaves_out_everything_else():
    selection = Selection(layers=(1, 2))

    assert wants(selection, "layers.2.attn.qr")
    assert not wants(selection, "layers.3.attn.qr") and not wants(selection, "embed")


def test_rows_thin_only_what_later_rows_do_not_read():
    selection = Selection(rows=frozenset({10, 12}))

    assert selection.kept_rows("layers.2.attn.q", "s,h,c", 9, 5) == [1, 3]
    assert selection.kept_rows("layers.2.attn.q", "s,h,c", 12, 1) is None
    assert selection.kept_rows("layers.2.attn.q", "s,h,c", 13, 1) == []
    assert selection.kept_rows("layers.2.attn.kv", "s,c", 9, 5) is None
    assert selection.kept_rows("logits", "v", 9, 5) is None


def test_positions_and_layers_are_parsed():
    assert parse_positions("0-2,5") == {0, 1, 2, 5}
    assert parse_layers("2-4") == (2, 4) and parse_layers("3") == (3, 3)
    for text in ("", "a", "4-2"):
        with pytest.raises(DumpError):
            parse_layers(text)


def test_every_tap_of_the_official_code_has_a_site():
    """Taps that name a place in the official code end like one of the sites' targets."""
    endings = [site.tap.replace("{i}", "E")[1:] for site in read_sites(SITES)]
    known = [line.split("\t") for line in TAPS_FILE.read_text(encoding="utf-8").splitlines()[1:]]

    lost = [
        row[0]
        for row in known
        if not row[3].startswith("(not in") and not any(f".{row[0]}".endswith(f".{end}") for end in endings)
    ]

    assert lost == []
