# SPDX-License-Identifier: Apache-2.0
"""dsv4 diagnose: two mistakes in one trace are both named, also from the outputs of sublayers alone."""

import pytest

from conftest import diagnose

PAIRS = ["M13,M62b", "M01,M65", "M07,M63", "M11,M51", "M14,M66", "M18,M54", "M27,M73", "M30,M49", "M33,M67", "M37,M68", "M40,M58",
         "M45,M64", "M47,M56b", "M48,M52", "M02,M60", "M05,M74", "M12,M47b", "M20,M62", "M31,M65", "M39,M70", "M54,M71", "M51,M52"]
FROM_BLOCKS = ["M13,M62b", "M07,M63", "M30,M52", "M48,M65", "M02,M60"]


def both_are_named(found, pair):
    assert set(pair.split(",")) <= set(found.ids), found.json
    assert len(found.candidates[0]["parts"]) == 2
    assert found.candidates[0]["remaining_difference"] is None
    assert found.json["complete"]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_stacked_bugs_are_named(planted, model, pair):
    both_are_named(diagnose(planted(pair), model, "--seconds", "120"), pair)


@pytest.mark.parametrize("pair", FROM_BLOCKS)
def test_two_stacked_bugs_are_named_from_the_outputs_of_sublayers(planted, model, pair):
    path = planted(pair, "--taps", "*.hc_attn.out", "--taps", "*.hc_ffn.out", "--taps", "logits")

    both_are_named(diagnose(path, model, "--seconds", "120"), pair)
