// SPDX-License-Identifier: Apache-2.0
// Scalars and number formats.
#pragma once

#include "cuda/isa_check/case.hpp"

namespace dsv4::isa_check {

// out[i] = f(in[i], in[i+1], in[i+2]) for every i.
inline constexpr int kScalarWords = 512;
template <class F>
DSV4_DEVICE void each_word(const Arguments& a, F&& f) {
  for (int i = isa::thread(); i < kScalarWords; i += isa::threads()) {
    const float x = isa::from_bits(isa::ld_global(a.in + i));
    const float y = isa::from_bits(isa::ld_global(a.in + (i + 1) % 1024));
    const float z = isa::from_bits(isa::ld_global(a.in + (i + 2) % 1024));
    isa::st_global(a.out + i, f(x, y, z));
  }
}

#define DSV4_SCALAR(NAME, FILL, EXPRESSION)                                          \
  struct NAME : Defaults {                                                           \
    static constexpr std::string_view name = #NAME;                                  \
    static constexpr Fill fill = Fill::FILL;                                         \
    static constexpr int out = kScalarWords;                                         \
    DSV4_DEVICE static void body(const Arguments& a) {                               \
      each_word(a, [](float x, [[maybe_unused]] float y, [[maybe_unused]] float z) { \
        return EXPRESSION;                                                           \
      });                                                                            \
    }                                                                                \
  };

DSV4_SCALAR(scalar_fma, bits, canonical(isa::fma(x, y, z)))
DSV4_SCALAR(scalar_add, bits, canonical(isa::add(x, y)))
DSV4_SCALAR(scalar_sub, bits, canonical(isa::sub(x, y)))
DSV4_SCALAR(scalar_mul, bits, canonical(isa::mul(x, y)))
DSV4_SCALAR(scalar_div, bits, canonical(isa::div(x, y)))
DSV4_SCALAR(scalar_sqrt, bits, canonical(isa::sqrt(x)))
DSV4_SCALAR(scalar_max, bits, canonical(isa::max(x, y)))
DSV4_SCALAR(scalar_min, bits, canonical(isa::min(x, y)))
DSV4_SCALAR(scalar_abs, bits, isa::to_bits(isa::abs(x)))
DSV4_SCALAR(scalar_below_infinity, bits, isa::abs(x) < isa::infinity() ? 1U : 0U)
DSV4_SCALAR(scalar_power_of_two, bits,
            isa::to_bits(isa::power_of_two(static_cast<int>(isa::to_bits(x) % 254U) - 126)))
DSV4_SCALAR(scalar_int_max, bits,
            static_cast<std::uint32_t>(isa::max(static_cast<int>(isa::to_bits(x)),
                                                static_cast<int>(isa::to_bits(y)))))
DSV4_SCALAR(scalar_int_min, bits,
            static_cast<std::uint32_t>(isa::min(static_cast<int>(isa::to_bits(x)),
                                                static_cast<int>(isa::to_bits(y)))))
DSV4_SCALAR(scalar_opaque, bits, isa::opaque(isa::to_bits(x)) + isa::to_bits(x))
DSV4_SCALAR(math_exp2, floats, canonical(isa::exp2_(40.0F * x)))
DSV4_SCALAR(math_exp, floats, canonical(isa::exp_(-8.0F * isa::abs(x))))
DSV4_SCALAR(math_log2, positive, canonical(isa::log2_(x)))
DSV4_SCALAR(math_rsqrt, positive, canonical(isa::rsqrt_(x)))
DSV4_SCALAR(math_sigmoid, floats, canonical(isa::sigmoid(4.0F * x)))
DSV4_SCALAR(math_sin, angles, canonical(isa::sin_cos(x).sin))
DSV4_SCALAR(math_cos, angles, canonical(isa::sin_cos(x).cos))
// The functions on anything: zeros, subnormals, infinities, NaN, the ends of their ranges.
DSV4_SCALAR(math_exp2_bits, bits, canonical(isa::exp2_(x)))
DSV4_SCALAR(math_exp_bits, bits, canonical(isa::exp_(x)))
DSV4_SCALAR(math_log2_bits, bits, canonical(isa::log2_(x)))
DSV4_SCALAR(math_rsqrt_bits, bits, canonical(isa::rsqrt_(x)))
DSV4_SCALAR(math_sigmoid_bits, bits, canonical(isa::sigmoid(x)))
DSV4_SCALAR(math_sin_bits, bits, canonical(isa::sin_cos(x).sin))
DSV4_SCALAR(math_cos_bits, bits, canonical(isa::sin_cos(x).cos))
DSV4_SCALAR(to_bf16, bits, std::uint32_t{isa::to_bf16(x).bits})
DSV4_SCALAR(to_bf16_floats, floats, isa::pack_bf16(x, y))
DSV4_SCALAR(round_bf16, bits, canonical(isa::round_bf16(x)))
DSV4_SCALAR(from_bf16, bits,
            canonical(isa::to_float(isa::Bf16{static_cast<std::uint16_t>(isa::to_bits(x))})))
DSV4_SCALAR(unpack_bf16, bits,
            canonical(isa::low_bf16(isa::to_bits(x))) ^
                (canonical(isa::high_bf16(isa::to_bits(x))) >> 16))
DSV4_SCALAR(to_e4m3, bits, std::uint32_t{isa::to_e4m3(x)})
DSV4_SCALAR(to_e4m3_floats, floats, std::uint32_t{isa::to_e4m3(0.01F * x)})
DSV4_SCALAR(to_e2m1, bits, std::uint32_t{isa::to_e2m1(x)})
DSV4_SCALAR(to_e2m1_floats, floats, std::uint32_t{isa::to_e2m1(x)})
DSV4_SCALAR(to_e8m0, bits, std::uint32_t{isa::to_e8m0(x)})
DSV4_SCALAR(from_e4m3, bits, canonical(isa::from_e4m3(static_cast<std::uint8_t>(isa::to_bits(x)))))
DSV4_SCALAR(from_e2m1, bits, canonical(isa::from_e2m1(isa::to_bits(x) & 15U)))
DSV4_SCALAR(from_e8m0, bits, canonical(isa::from_e8m0(static_cast<std::uint8_t>(isa::to_bits(x)))))
#undef DSV4_SCALAR

}  // namespace dsv4::isa_check
