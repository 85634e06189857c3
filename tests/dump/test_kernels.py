# SPDX-License-Identifier: Apache-2.0
"""The stand-ins for the official kernels, against numbers worked out by hand."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the stand-ins need torch, which CI does not install")

import kernels  # noqa: E402
from round_once import RoundOnce, narrow  # noqa: E402


@pytest.fixture(autouse=True)
def _restore():
    yield
    kernels.install("exact")


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    "x, expected",
    [
        (0.25, 0),
        (0.75, 1),
        (1.25, 1),
        (1.75, 2),
        (2.5, 2),
        (3.5, 4),
        (5, 4),
        (0.2501, 0.5),
        (-3.5, -4),
        (6, 6),
    ],
)
def test_e2m1_ties_go_to_even(x, expected):
    assert kernels.round_e2m1(float64(x)).item() == expected


@pytest.mark.parametrize("largest, expected", [(448.0, 1), (449.0, 2), (1.0, 2.0**-8), (1e-4, 2.0**-22)])
def test_scales_are_the_next_power_of_two(largest, expected):
    assert kernels.power_of_two_scale(torch.tensor(largest), 1 / 448).item() == expected


def test_act_quant_rounds_to_e4m3_with_one_scale_a_block():
    kernels.install("official")
    x = torch.zeros(1, 128, dtype=torch.bfloat16)
    x[0, :3], x[0, 64] = torch.tensor([448.0, 17.0, 19.0]), 1.0

    kernels.act_quant(x, 64, "ue8m0", torch.float8_e8m0fnu, True)

    assert x[0, :3].tolist() == [448.0, 16.0, 20.0]  # between 16 and 32 the step is 2; ties go to even
    assert x[0, 64] == 1.0


def test_exact_mode_quantises_nothing():
    kernels.install("exact")
    x = torch.randn(2, 128, dtype=torch.float64)

    assert torch.equal(kernels.act_quant(x.clone(), 64, "ue8m0", torch.float8_e8m0fnu, True), x)
    assert torch.equal(kernels.fp4_act_quant(x.clone(), 32, True), x)


def test_fp4_act_quant_by_hand():
    kernels.install("official")
    x = torch.zeros(1, 32, dtype=torch.bfloat16)
    x[0, :4] = torch.tensor([12.0, 5.0, -7.0, 0.4])  # scale 2: 6, 2.5 -> 2, -3.5 -> -4, 0.2 -> 0

    kernels.fp4_act_quant(x, 32, True)

    assert x[0, :4].tolist() == [12.0, 4.0, -8.0, 0.0]


def test_products_with_quantised_weights_are_exact():
    kernels.install("exact")
    weight = torch.ones(1, 256).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 4.0]]).to(torch.float8_e8m0fnu)
    x = torch.cat([torch.full((1, 128), 0.5), torch.full((1, 128), 2.0)], 1).double()

    result = kernels.fp8_gemm(*kernels.act_quant(x), weight, scale)

    assert result.item() == 128 * 0.5 + 128 * 2.0 * 4


def test_attention_with_a_sink_by_hand():
    kernels.install("exact")
    q, kv = float64(1.0, 0.0).view(1, 1, 1, 2), float64(0.0, 5.0, math.log(2), 1.0).view(1, 2, 2)

    o = kernels.sparse_attn(q, kv, float64(0.0), torch.tensor([[[0, 1, -1]]]), 1.0)

    torch.testing.assert_close(o.flatten(), float64(2 * math.log(2) / 4, 7 / 4))  # weights 1, 2; sink 1


def test_online_softmax_agrees_with_the_plain_one_up_to_bf16():
    generator = torch.Generator().manual_seed(0)
    q, kv = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((1, 3, 2, 8), (1, 150, 8)))
    index, sink = torch.randint(-1, 150, (1, 3, 130), generator=generator), torch.zeros(2)

    kernels.install("official")
    rounded = kernels.sparse_attn(q, kv, sink, index, 0.5)
    kernels.install("exact")
    plain = kernels.sparse_attn(q.double(), kv.double(), sink.double(), index, 0.5)

    assert (rounded.double() - plain).abs().max() < 2.0**-7 * plain.abs().max()


def test_sinkhorn_columns_sum_to_one():
    mixes = torch.randn(1, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    pre, post, comb = kernels.hc_split_sinkhorn(mixes, float64(1, 1, 1), torch.zeros(24, dtype=torch.float64))

    torch.testing.assert_close(comb.sum(-2), torch.ones(1, 5, 4, dtype=torch.float64), atol=2e-6, rtol=0)
    torch.testing.assert_close(pre, torch.sigmoid(mixes[..., :4]) + 1e-6)
    torch.testing.assert_close(post, 2 * torch.sigmoid(mixes[..., 4:8]))


def test_hadamard_of_four_by_hand_and_twice_is_the_identity():
    kernels.install("exact")

    assert kernels.hadamard_transform(float64(1, 2, 3, 4)).tolist() == [10, -2, -4, 0]
    x = torch.randn(3, 128, dtype=torch.float64)
    twice = kernels.hadamard_transform(kernels.hadamard_transform(x, 128**-0.5), 128**-0.5)
    torch.testing.assert_close(twice, x)


def test_narrow_goes_through_float32():
    just_below_half = float64(1 + 3 * 2.0**-8 - 2.0**-40)

    assert narrow(just_below_half).item() == 1 + 2.0**-6  # float32 makes it the halfway point: ties to even


def test_bf16_reductions_round_once():
    x = torch.full((257,), 1.0, dtype=torch.bfloat16)

    with RoundOnce():
        assert x.sum().item() == 256.0 and torch.rsqrt(torch.full((9,), 2.0).bfloat16()).unique().numel() == 1
