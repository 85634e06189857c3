// SPDX-License-Identifier: Apache-2.0
// Behind cuda/isa/emulated_core.hpp: barriers, warps, cp.async.
#include <algorithm>

#include "cuda/isa/emulated_core.hpp"

namespace dsv4::isa {
inline namespace emulated {
namespace {

using emulator::Kind;

void land(const emulator::Copy& c) {
  if (c.valid) {
    std::memcpy(c.to, c.from, c.bytes);
  } else {
    std::memset(c.to, 0, c.bytes);
  }
}

constexpr const char* kCopy = "cp.async";

emulator::Extent source(Machine& m, const void* from, std::size_t bytes, Where at) {
  return m.global_extent(from, bytes, bytes, false, kCopy, at);
}

}  // namespace

void* static_place(const void* object, std::size_t bytes, std::size_t alignment, Where at) {
  Machine& m = Machine::current();
  emulator::Block& b = m.block();
  const auto known = b.statics.find(object);
  if (known != b.statics.end()) return b.shared + known->second;
  const std::size_t offset = (b.static_bytes + alignment - 1) / alignment * alignment;
  if (offset + bytes > Machine::kStatic) {
    m.fatal(Kind::misuse, "static shared memory", at, "more than 48 KB");
  }
  b.static_bytes = offset + bytes;
  b.statics[object] = b.dynamic_bytes + offset;
  return b.shared + b.dynamic_bytes + offset;
}

// The warp meets first (bar.sync is .aligned), then counts as 32 threads.
void barrier(int number, int count, bool waits, const char* operation, Where at) {
  Machine& m = Machine::current();
  emulator::Thread& t = m.self();
  emulator::Barrier& b = m.block().barriers[static_cast<std::size_t>(number)];
  struct Argument {
    const std::uint64_t* generation;
    std::uint64_t value;
  } own{};
  const auto expected = static_cast<unsigned>(count);
  m.meet_warp(own, operation, at, [&](Argument** lanes) {
    if (count <= 0 || count % 32 != 0) {
      m.fatal(Kind::misuse, operation, at, "the count is not a multiple of 32");
    }
    if (b.arrived > 0 && b.expected != expected) {
      m.fatal(Kind::misuse, operation, at,
              "others came to this barrier with another number of threads");
    }
    m.join_warp(*t.warp);
    if (b.arrived == 0) b.clock = m.empty_clock();
    b.expected = expected;
    b.arrived += 32;
    for (std::size_t i = 0; i < b.clock.size(); ++i) {
      b.clock[i] = std::max(b.clock[i], t.warp->base[i]);
    }
    if (waits) b.waiting.push_back(t.warp);
    for (int l = 0; l < 32; ++l) *lanes[l] = {&b.generation, b.generation};
    if (b.arrived < b.expected) return;
    for (emulator::Warp* w : b.waiting) w->base = b.clock;
    b.waiting.clear();
    b.arrived = 0;
    ++b.generation;
  });
  if (waits && *own.generation == own.value) m.wait(b.generation, operation, at);
}

void sync_warp(Where at) {
  Machine& m = Machine::current();
  int nothing = 0;
  m.meet_warp(nothing, "bar.warp.sync", at, [&](int**) { m.join_warp(*m.self().warp); });
}

std::uint32_t shuffle_bits(std::uint32_t v, int source, const char* operation, Where at) {
  struct Argument {
    std::uint32_t in;
    int source;
    std::uint32_t out;
  } own{v, source, 0};
  Machine::current().meet_warp(own, operation, at, [](Argument** lanes) {
    for (int l = 0; l < 32; ++l) lanes[l]->out = lanes[lanes[l]->source]->in;
  });
  return own.out;
}

std::uint32_t ballot(bool v, Where at) {
  struct Argument {
    bool in;
    std::uint32_t out;
  } own{v, 0};
  Machine::current().meet_warp(own, "vote", at, [](Argument** lanes) {
    std::uint32_t bits = 0;
    for (int l = 0; l < 32; ++l) bits |= (lanes[l]->in ? 1U : 0U) << l;
    for (int l = 0; l < 32; ++l) lanes[l]->out = bits;
  });
  return own.out;
}

void copy_async_bytes(void* to, const void* from, std::uint32_t bytes, bool valid, Where at) {
  Machine& m = Machine::current();
  if (valid) m.begin_read(source(m, from, bytes, at), true, kCopy, at);
  m.begin_write(m.shared_extent(m.block(), to, bytes, kCopy, at), true, kCopy, at);
  m.note_banks(to, bytes, kCopy, at);
  const emulator::Copy copy{static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes,
                            valid, at};
  if (m.options().copies == emulator::Copies::early) land(copy);
  m.self().open.push_back(copy);
}

void copy_commit(Where) {
  emulator::Thread& t = Machine::current().self();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void copy_wait_groups(std::size_t left, Where) {
  Machine& m = Machine::current();
  emulator::Thread& t = m.self();
  while (t.groups.size() > left) {
    for (const emulator::Copy& c : t.groups.front()) {
      if (m.options().copies == emulator::Copies::late) land(c);
      const emulator::Extent to = m.shared_extent(*t.block, c.to, c.bytes, kCopy, c.at);
      m.end_write(to, true, t.agent, t.warp->time, kCopy, c.at);
      if (!c.valid) continue;
      m.end_read(source(m, c.from, c.bytes, c.at), t.agent, t.warp->time, kCopy, c.at);
    }
    t.groups.pop_front();
  }
}

}  // namespace emulated
}  // namespace dsv4::isa
