// SPDX-License-Identifier: Apache-2.0
// Behind cuda/isa/emulated_hopper.hpp: wgmma. As pessimistic as the rules allow: operands are read
// when somebody waits, and the accumulator's registers hold NaN until a wait names them.
#include <algorithm>
#include <bit>
#include <limits>

#include "cuda/isa/emulated_hopper.hpp"
#include "cuda/isa/fragments.hpp"

namespace dsv4::isa {
inline namespace emulated {
namespace {

using emulator::Kind;
using emulator::Operand;
using emulator::Part;
using emulator::Warpgroup;

struct Layout {
  int start, leading, stride;  // bytes, from the start of shared memory
  bool swizzled;
};

Layout layout_of(Descriptor d) {
  const auto bytes = [d](int at) { return static_cast<int>(d >> at & 0x3FFF) << 4; };
  return {bytes(0), bytes(16), bytes(32), d >> 62 == 1};
}

std::byte* chunk_at(const Layout& l, int r, int c) {
  return Machine::current().block().shared +
         wgmma_place(l.start, l.leading, l.stride, l.swizzled, r, c);
}

template <class F>
void each_chunk(const Layout& l, int rows, F&& f) {
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < 2; ++c) f(chunk_at(l, r, c));
  }
}

// Row r of an operand, taken apart: 32 bytes of it are one instruction's k.
void read_row(const Layout& l, int r, Operand format, Part* out) {
  const int bytes = format == Operand::bf16 ? 2 : 1;
  for (int c = 0; c < 2; ++c) {
    const std::byte* from = chunk_at(l, r, c);
    for (int i = 0; i < 16 / bytes; ++i) {
      std::uint32_t u = 0;
      std::memcpy(&u, from + i * bytes, static_cast<std::size_t>(bytes));
      *out++ = take_apart(format, u);
    }
  }
}

void compute(const Layout& a, const Layout& b, int n, Operand format, bool accumulate,
             const std::vector<float*>& d, Warpgroup& group) {
  Machine& m = Machine::current();
  const std::size_t k = format == Operand::bf16 ? 16 : 32;
  std::vector<Part> left(64 * k);
  std::vector<Part> right(static_cast<std::size_t>(n) * k);
  for (int r = 0; r < 64; ++r) read_row(a, r, format, &left[static_cast<std::size_t>(r) * k]);
  for (int r = 0; r < n; ++r) read_row(b, r, format, &right[static_cast<std::size_t>(r) * k]);
  for (int t = 0; t < kWarpgroup; ++t) {
    auto& held = group.accumulators[d[static_cast<std::size_t>(t)]].value;
    for (int i = 0; i < n / 2; ++i) {
      const Place p = wgmma_d(t, i);
      float& c = held[static_cast<std::size_t>(i)];
      c = dot(m.options().tensor_core, emulator::Unit::wgmma, format,
              {&left[static_cast<std::size_t>(p.row) * k], k},
              {&right[static_cast<std::size_t>(p.column) * k], k}, accumulate ? c : 0.0F);
    }
  }
  m.report().mma += 64 * n * static_cast<int>(k);
}

}  // namespace

Descriptor wgmma_descriptor(const void* shared, int leading, int stride, Swizzle swizzle,
                            Where at) {
  Machine& m = Machine::current();
  const auto start =
      static_cast<std::uint64_t>(static_cast<const std::byte*>(shared) - m.block().shared);
  if (start % 16 != 0 || leading % 16 != 0 || stride % 16 != 0) {
    m.fatal(Kind::misaligned, "wgmma descriptor", at, "addresses and strides count 16 bytes");
  }
  const std::uint64_t kind = swizzle == Swizzle::bytes128 ? 1 : 0;
  return (start >> 4 & 0x3FFF) | (static_cast<std::uint64_t>(leading) >> 4 & 0x3FFF) << 16 |
         (static_cast<std::uint64_t>(stride) >> 4 & 0x3FFF) << 32 | kind << 62;
}

void wgmma_fence_registers(const float* d, Where at) {
  Machine& m = Machine::current();
  int nothing = 0;
  m.meet_group(nothing, "wgmma.fence", at, [](int**) {});
  m.self().wgmma_fenced.push_back(d);
}

void wgmma_issue(float* d, int n, Descriptor a, Descriptor b, bool accumulate, Operand format,
                 const char* operation, Where at) {
  Machine& m = Machine::current();
  const auto& fenced = m.self().wgmma_fenced;
  if (std::find(fenced.begin(), fenced.end(), d) == fenced.end()) {
    m.fatal(Kind::misuse, operation, at,
            "no wgmma.fence names these registers since they were last free to change");
  }
  m.meet_group(*d, operation, at, [&](float** lanes) {
    Warpgroup& group = m.group();
    std::vector<float*> registers;
    for (int t = 0; t < kWarpgroup; ++t) {
      float* r = lanes[t];
      registers.push_back(r);
      const bool fresh = !group.accumulators.contains(r);
      emulator::Accumulator& held = group.accumulators[r];
      ++held.users;
      if (!fresh) continue;
      held.value.assign(r, r + n / 2);
      std::fill_n(r, n / 2, std::numeric_limits<float>::quiet_NaN());
    }
    const Layout left = layout_of(a);
    const Layout right = layout_of(b);
    const auto extent = [=, &m](const std::byte* p) {
      return m.shared_extent(m.block(), p, 16, operation, at);
    };
    const auto begin = [&](const std::byte* p) { m.begin_read(extent(p), false, operation, at); };
    each_chunk(left, 64, begin);
    each_chunk(right, n, begin);
    const std::uint32_t time = group.time++;
    emulator::Product product;
    product.time = time;
    product.compute = [=, &group] {
      compute(left, right, n, format, accumulate, registers, group);
      for (float* r : registers) --group.accumulators[r].users;
    };
    product.release = [=, &m, &group] {
      const auto end = [&](const std::byte* p) {
        m.end_read(extent(p), group.agent, time, operation, at);
      };
      each_chunk(left, 64, end);
      each_chunk(right, n, end);
    };
    group.open.push_back(std::move(product));
  });
}

void wgmma_commit(Where at) {
  Machine& m = Machine::current();
  int nothing = 0;
  m.meet_group(nothing, "wgmma.commit_group", at, [&](int**) {
    Warpgroup& group = m.group();
    group.groups.push_back(std::move(group.open));
    group.open.clear();
  });
}

// Registers that no product in flight uses are the thread's again.
void give_back(Warpgroup& group, float* d) {
  const auto it = group.accumulators.find(d);
  if (it == group.accumulators.end() || it->second.users > 0) return;
  std::copy(it->second.value.begin(), it->second.value.end(), d);
  group.accumulators.erase(it);
}

void wgmma_wait_groups(std::size_t left, float* d, Where at) {
  Machine& m = Machine::current();
  struct Argument {
    float* d;
    std::uint32_t done;
  } own{d, 0};
  m.meet_group(own, "wgmma.wait_group", at, [&](Argument** lanes) {
    Warpgroup& group = m.group();
    std::uint32_t done = 0;
    while (group.groups.size() > left) {
      for (auto& product : group.groups.front()) {
        product.compute();
        product.release();
        done = product.time + 1;
      }
      group.groups.pop_front();
    }
    for (int t = 0; t < kWarpgroup; ++t) {
      give_back(group, lanes[t]->d);
      lanes[t]->done = done;
    }
  });
  m.self().wgmma_fenced.clear();
  if (own.done == 0) return;
  emulator::Clock known = m.empty_clock();  // those products are over, for whoever waited
  known[m.group().agent] = own.done;
  m.acquire(m.self(), known);
}

void set_max_registers(int count, bool increase, Where at) {
  Machine& m = Machine::current();
  int nothing = 0;
  const char* operation = increase ? "setmaxnreg.inc" : "setmaxnreg.dec";
  m.meet_group(nothing, operation, at, [&](int**) {
    Warpgroup& group = m.group();
    if (group.registers != 0 && increase != (count > group.registers)) {
      m.fatal(Kind::misuse, operation, at, "goes the other way");
    }
    group.registers = count;
  });
}

}  // namespace emulated
}  // namespace dsv4::isa
