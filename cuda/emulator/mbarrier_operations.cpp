// SPDX-License-Identifier: Apache-2.0
// Behind cuda/isa/emulated_hopper.hpp: mbarriers, TMA and clusters.
#include <algorithm>

#include "cuda/isa/emulated_hopper.hpp"
#include "cuda/isa/fragments.hpp"

namespace dsv4::isa {
inline namespace emulated {
namespace {

using emulator::Block;
using emulator::Copies;
using emulator::Extent;
using emulator::Kind;
using emulator::Mbarrier;

Mbarrier& mbarrier(Block& owner, const void* bar, bool by_tma, const char* operation, Where at) {
  Machine& machine = Machine::current();
  const auto it = owner.mbarriers.find(bar);
  if (it == owner.mbarriers.end()) {
    machine.fatal(Kind::misuse, operation, at, "no mbarrier was initialised there");
  }
  machine.check_init(it->second, by_tma, &owner != &machine.block(), operation, at);
  return it->second;
}

void complete_if_done(Mbarrier& m) {
  if (m.pending > 0 || m.bytes != 0) return;
  m.done = std::move(m.clock);
  m.clock = Machine::current().empty_clock();
  m.pending = m.expected;
  ++m.time;  // what copies wrote in this phase is older than this
  ++m.phase;
}

void arrive(Block& owner, const void* bar, std::uint32_t bytes, const char* operation, Where at) {
  Machine& machine = Machine::current();
  Mbarrier& m = mbarrier(owner, bar, false, operation, at);
  if (m.pending == 0) {
    machine.fatal(Kind::misuse, operation, at, "more arrivals than the barrier was made for");
  }
  machine.release(machine.self(), m.clock);
  m.bytes += bytes;
  --m.pending;
  complete_if_done(m);
}

void land_all(Mbarrier& m) {
  auto copies = std::exchange(m.copies, {});
  for (auto& land : copies) land();
}

// The same place in block `rank`'s shared memory.
std::byte* place_in(Block& other, const void* p) {
  const Block& own = Machine::current().block();
  return other.shared + (static_cast<const std::byte*>(p) - own.shared);
}

Block& block_of(int rank, const char* operation, Where at) {
  Machine& m = Machine::current();
  if (rank < 0 || rank >= cluster_size()) {
    m.fatal(Kind::out_of_bounds, operation, at, "the cluster has no such block");
  }
  return *m.blocks()[static_cast<std::size_t>(rank)];
}

TensorShape shape_of(const TensorMap& map) {
  TensorShape shape;
  static_assert(sizeof(TensorShape) <= sizeof(TensorMap));
  std::memcpy(&shape, &map, sizeof shape);
  return shape;
}

// The elements of a box: visit(offset in shared memory, address or null, bytes), null outside of
// the tensor.
template <class F>
void each_piece(const TensorShape& s, int x, int y, F&& visit) {
  const int row = s.box_width * s.element_bytes;
  const auto* base = static_cast<const std::byte*>(s.base);
  for (int r = 0; r < s.box_height; ++r) {
    for (int b = 0; b < row; b += s.element_bytes) {
      const int column = x + b / s.element_bytes;
      const bool inside = y + r >= 0 && y + r < s.height && column >= 0 && column < s.width;
      const std::byte* from = inside ? base + std::ptrdiff_t{y + r} * s.row_bytes +
                                           std::ptrdiff_t{column} * s.element_bytes
                                     : nullptr;
      visit(tma_place(r, b, row, s.swizzle == Swizzle::bytes128), from, s.element_bytes);
    }
  }
}

// The places in global memory that a box has.
template <class F>
void each_inside(const TensorShape& s, int x, int y, bool write, const char* operation, Where at,
                 F&& visit) {
  Machine& m = Machine::current();
  each_piece(s, x, y, [&](int, const std::byte* p, int n) {
    if (p == nullptr) return;
    visit(m.global_extent(p, static_cast<std::size_t>(n), 1, write, operation, at));
  });
}

constexpr const char* kLoad = "cp.async.bulk.tensor (load)";
constexpr const char* kStore = "cp.async.bulk.tensor (store)";

int box_bytes(const TensorShape& s, const void* shared, const char* operation, Where at) {
  Machine& m = Machine::current();
  const auto address = static_cast<const std::byte*>(shared) - m.block().shared;
  const bool wide = s.swizzle == Swizzle::bytes128;
  if (wide && s.box_width * s.element_bytes != 128) {
    m.fatal(Kind::misuse, operation, at, "with this swizzle a box is 128 bytes wide");
  }
  if (address % (wide ? 1024 : 128) != 0) {
    m.fatal(Kind::misaligned, operation, at, "a tile starts at 128 bytes, a swizzled one at 1024");
  }
  if (s.box_width * s.element_bytes % 16 != 0) {
    m.fatal(Kind::misuse, operation, at, "a box is a multiple of 16 bytes wide");
  }
  return s.box_width * s.box_height * s.element_bytes;
}

void load_to(Block& owner, void* to, const TensorShape& s, int x, int y, std::uint64_t* bar,
             Where at) {
  Machine& machine = Machine::current();
  Mbarrier& m = mbarrier(owner, bar, true, kLoad, at);
  auto* first = static_cast<std::byte*>(to);
  const std::byte* alike = machine.block().shared + (first - owner.shared);
  const int bytes = box_bytes(s, alike, kLoad, at);
  const Extent box =
      machine.shared_extent(owner, first, static_cast<std::size_t>(bytes), kLoad, at);
  machine.stay_for(owner, m.agent, m.time, kLoad, at);
  machine.begin_write(box, false, kLoad, at);
  each_inside(s, x, y, false, kLoad, at,
              [&](const Extent& from) { machine.begin_read(from, false, kLoad, at); });
  auto land = [&machine, &m, box, first, s, x, y, bytes, at] {
    each_piece(s, x, y, [&](int offset, const std::byte* from, int n) {
      if (from != nullptr) {
        std::memcpy(first + offset, from, static_cast<std::size_t>(n));
      } else {
        std::memset(first + offset, 0, static_cast<std::size_t>(n));
      }
    });
    machine.end_write(box, false, m.agent, m.time, kLoad, at);
    each_inside(s, x, y, false, kLoad, at,
                [&](const Extent& from) { machine.end_read(from, m.agent, m.time, kLoad, at); });
    m.clock[m.agent] = m.time + 1;
    m.bytes -= bytes;
    complete_if_done(m);
  };
  if (machine.options().copies == Copies::early) return land();
  m.copies.emplace_back(std::move(land));
}

}  // namespace

void mbarrier_init(std::uint64_t* bar, std::uint32_t count, Where at) {
  Machine& machine = Machine::current();
  machine.touch_shared(bar, sizeof *bar, Touch::write, "mbarrier.init", at);
  Block& b = machine.block();
  Mbarrier m;
  m.expected = m.pending = count;
  m.clock = m.done = machine.empty_clock();
  if (b.next_agent == b.last_agent) {
    machine.fatal(Kind::misuse, "mbarrier.init", at, "more than 64 barriers in a block");
  }
  m.agent = b.next_agent++;
  machine.remember_init(m, "mbarrier.init", at);
  b.mbarriers.insert_or_assign(bar, std::move(m));
}

void mbarrier_arrive(std::uint64_t* bar, Where at) {
  arrive(Machine::current().block(), bar, 0, "mbarrier.arrive", at);
}

void mbarrier_expect(std::uint64_t* bar, std::uint32_t bytes, Where at) {
  arrive(Machine::current().block(), bar, bytes, "mbarrier.arrive.expect_tx", at);
}

void mbarrier_arrive_cluster(std::uint64_t* bar, int rank, Where at) {
  Block& other = block_of(rank, "mbarrier.arrive (cluster)", at);
  Machine::current().visit(other, "mbarrier.arrive (cluster)", at);
  arrive(other, place_in(other, bar), 0, "mbarrier.arrive (cluster)", at);
}

void mbarrier_wait(std::uint64_t* bar, int parity, Where at) {
  Machine& machine = Machine::current();
  Mbarrier& m = mbarrier(machine.block(), bar, false, "mbarrier.try_wait", at);
  const auto running = [&] { return static_cast<int>(m.phase & 1U) == parity; };
  if (running() && m.pending == 0) land_all(m);  // nothing but the copies is missing
  if (running()) machine.wait(m.phase, "mbarrier.try_wait", at);
  machine.acquire(machine.self(), m.done);
}

TensorMap make_tensor_map(const TensorShape& shape) {
  TensorMap map{};
  std::memcpy(&map, &shape, sizeof shape);
  return map;
}

void tma_load(void* to, const TensorMap* map, int x, int y, std::uint64_t* bar, Where at) {
  load_to(Machine::current().block(), to, shape_of(*map), x, y, bar, at);
}

void tma_load_multicast(void* to, const TensorMap* map, int x, int y, std::uint64_t* bar,
                        std::uint16_t blocks, Where at) {
  for (int rank = 0; rank < 16; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    Block& other = block_of(rank, kLoad, at);
    Machine::current().check_begun(other, kLoad, at);
    load_to(other, place_in(other, to), shape_of(*map), x, y,
            reinterpret_cast<std::uint64_t*>(place_in(other, bar)), at);
  }
}

void tma_store(const TensorMap* map, int x, int y, const void* from, Where at) {
  Machine& machine = Machine::current();
  const TensorShape s = shape_of(*map);
  const auto bytes = static_cast<std::size_t>(box_bytes(s, from, kStore, at));
  const auto* first = static_cast<const std::byte*>(from);
  const Extent box = machine.shared_extent(machine.block(), from, bytes, kStore, at);
  machine.begin_read(box, false, kStore, at);
  each_inside(s, x, y, true, kStore, at,
              [&](const Extent& to) { machine.begin_write(to, false, kStore, at); });
  const auto copy = [first, s, x, y] {
    each_piece(s, x, y, [&](int offset, const std::byte* to, int n) {
      if (to == nullptr) return;
      std::memcpy(const_cast<std::byte*>(to), first + offset, static_cast<std::size_t>(n));
    });
  };
  const bool late = machine.options().copies == Copies::late;
  if (!late) copy();
  emulator::Thread& t = machine.self();
  auto land = [&machine, &t, copy, box, s, x, y, late, at] {
    if (late) copy();
    each_inside(s, x, y, true, kStore, at, [&](const Extent& to) {
      machine.end_write(to, false, t.agent, t.warp->time, kStore, at);
    });
    machine.end_read(box, t.agent, t.warp->time, kStore, at);
  };
  t.open_stores.push_back({std::move(land)});
}

void tma_store_commit() {
  emulator::Thread& t = Machine::current().self();
  t.store_groups.push_back(std::move(t.open_stores));
  t.open_stores.clear();
}

void tma_store_wait_groups(std::size_t left) {
  emulator::Thread& t = Machine::current().self();
  while (t.store_groups.size() > left) {
    for (auto& store : t.store_groups.front()) store.land();
    t.store_groups.pop_front();
  }
}

// A barrier of every warp of every block.
void cluster_sync(Where at) {
  Machine& machine = Machine::current();
  emulator::Barrier& b = machine.cluster_barrier();
  emulator::Thread& t = machine.self();
  std::uint64_t before = 0;
  struct Argument {
    std::uint64_t* before;
  } own{&before};
  machine.meet_warp(own, "barrier.cluster", at, [&](Argument** lanes) {
    machine.join_warp(*t.warp);
    if (b.arrived == 0) b.clock = machine.empty_clock();
    b.arrived += 32;
    for (std::size_t i = 0; i < b.clock.size(); ++i) {
      b.clock[i] = std::max(b.clock[i], t.warp->base[i]);
    }
    b.waiting.push_back(t.warp);
    for (int l = 0; l < 32; ++l) *lanes[l]->before = b.generation;
    if (b.arrived < machine.threads_per_block() * machine.shape().cluster) return;
    for (emulator::Warp* w : b.waiting) w->base = b.clock;
    b.waiting.clear();
    b.arrived = 0;
    ++b.generation;
  });
  if (b.generation == before) machine.wait(b.generation, "barrier.cluster", at);
}

void* remote(const void* p, int rank, std::size_t bytes, Touch kind, const char* operation,
             Where at) {
  Block& other = block_of(rank, operation, at);
  std::byte* there = place_in(other, p);
  Machine::current().visit(other, operation, at);
  Machine::current().touch_remote(other, there, bytes, kind, operation, at);
  return there;
}

}  // namespace emulated
}  // namespace dsv4::isa
