// SPDX-License-Identifier: Apache-2.0
// Behind cuda/isa/emulated_mma.hpp.
#include "cuda/isa/emulated_mma.hpp"
#include "cuda/isa/fragments.hpp"

namespace dsv4::isa {
inline namespace emulated {

using emulator::Operand;
using emulator::Part;

void load_matrices(std::uint32_t* r, int count, const void* row, bool transposed, Where at) {
  struct Argument {
    std::uint32_t* r;
    const std::byte* row;
  } own{r, static_cast<const std::byte*>(row)};
  const char* operation = transposed ? "ldmatrix.trans" : "ldmatrix";
  Machine& m = Machine::current();
  if (lane() < 8 * count) m.touch_shared(row, 16, Touch::read, operation, at);
  m.meet_warp(own, operation, at, [&](Argument** lanes) {
    for (int i = 0; i < count; ++i) {
      for (int l = 0; l < 32; ++l) {
        std::uint16_t e[2];
        for (int j = 0; j < 2; ++j) {
          const int r_ = transposed ? l % 4 * 2 + j : l / 4;
          const int c = transposed ? l / 4 : l % 4 * 2 + j;
          std::memcpy(&e[j], lanes[i * 8 + r_]->row + std::ptrdiff_t{2} * c, 2);
        }
        std::memcpy(&lanes[l]->r[i], e, 4);
      }
    }
  });
}

namespace {

int bytes_of(Operand format) {
  return format == Operand::bf16 ? 2 : format == Operand::e4m3 ? 1 : 4;
}

Part element(Operand format, std::uint32_t word, int part) {
  const int bits = 8 * bytes_of(format);
  const std::uint32_t u = word >> (part * bits % 32);
  return take_apart(format, bits == 32 ? u : u & ((1U << bits) - 1));
}

}  // namespace

void multiply(float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1, Operand format,
              const char* operation, Where at) {
  struct Argument {
    float* d;
    const std::uint32_t* a;
    std::uint32_t b[2];
  } own{d, a, {b0, b1}};
  Machine& m = Machine::current();
  m.meet_warp(own, operation, at, [&](Argument** lanes) {
    const int bytes = bytes_of(format);
    const int k = 32 / bytes;
    Part left[16][32];
    Part right[8][32];
    for (int l = 0; l < 32; ++l) {
      for (int part = 0; part < 4 / bytes; ++part) {
        for (int i = 0; i < 4; ++i) {
          const Place p = mma_a(l, i, part, bytes);
          left[p.row][p.column] = element(format, lanes[l]->a[i], part);
        }
        for (int i = 0; i < 2; ++i) {
          const Place p = mma_b(l, i, part, bytes);
          right[p.column][p.row] = element(format, lanes[l]->b[i], part);
        }
      }
    }
    const auto n = static_cast<std::size_t>(k);
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        const Place p = mma_d(l, i);
        lanes[l]->d[i] = dot(m.options().tensor_core, emulator::Unit::mma, format, {left[p.row], n},
                             {right[p.column], n}, lanes[l]->d[i]);
      }
    }
    m.report().mma += std::int64_t{16} * 8 * k;
  });
}

}  // namespace emulated
}  // namespace dsv4::isa
