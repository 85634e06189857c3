// SPDX-License-Identifier: Apache-2.0
// What asynchronous operations may touch between their issue and their end, what the async proxy
// sees of ordinary stores, and how long the shared memory of a block lives.
#include <algorithm>
#include <fmt/format.h>

#include "cuda/emulator/machine.hpp"

namespace dsv4::emulator {

// ---- fences ---------------------------------------------------------------------------------

void Machine::fence(Fence kind) {
  self().fences[static_cast<std::size_t>(kind)].push_back(self().warp->time);
}

// A fence of the accessing thread came after its first `fences`, and before what t does now. The
// PTX ISA would take one of a later thread too; the CUDA guide and this rule do not.
bool Machine::fenced(const Thread& t, const Access& a, std::uint32_t fences, Fence kind) const {
  if (a.agent >= threads_.size()) return true;  // the end of an asynchronous unit's work is one
  const auto& times = threads_[a.agent]->fences[static_cast<std::size_t>(kind)];
  if (times.size() <= fences) return false;
  return a.agent == t.agent || clock_of(t)[a.agent] > times[fences];
}

void Machine::remember_init(Mbarrier& m, const char* operation, const Where& at) {
  const Thread& t = self();
  const auto& times = t.fences[static_cast<std::size_t>(Fence::barrier_init)];
  m.init = access(t, Fence::shared, operation, at);
  m.init_fences = static_cast<std::uint32_t>(times.size());
}

void Machine::check_init(const Mbarrier& m, bool by_tma, bool by_other_block, const char* operation,
                         const Where& at) {
  const Thread& t = self();
  if (!ordered(t, m.init, 0)) {
    return race(operation, at, m.init, "uses an mbarrier, and nothing orders its init before");
  }
  if (!by_tma && !by_other_block) return;
  if (fenced(t, m.init, m.init_fences, Fence::barrier_init)) return;
  if (!by_other_block && fenced(t, m.init, m.init.fences, Fence::shared)) return;
  race(operation, at, m.init,
       by_other_block ? "uses another block's mbarrier without a fence of mbarrier inits after its"
                      : "makes TMA use an mbarrier without a fence after its init");
}

// ---- places ---------------------------------------------------------------------------------

Extent Machine::shared_extent(const Block& owner, const void* p, std::size_t bytes,
                              const char* operation, const Where& at) {
  return {owner.shadow.get(), bounded_shared(owner, p, bytes, operation, at), bytes, Fence::shared};
}

Extent Machine::global_extent(const void* p, std::size_t bytes, std::size_t alignment, bool write,
                              const char* operation, const Where& at) {
  check_global(p, bytes, alignment, write, operation, at);
  const Buffer* b = memory_.find(p);
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(p) - b->data);
  return {b->shadow.get(), offset, bytes, Fence::global};
}

// ---- accesses -------------------------------------------------------------------------------

void Machine::begin_write(const Extent& to, bool generic, const char* operation, const Where& at) {
  Thread& t = self();
  to.each([&](Cell& c) {
    refresh(c);
    check_write(t, c, false, operation, at);
    if (!generic && c.written && c.generic && c.landing == 0 && ordered(t, c.write, 0) &&
        !fenced(t, c.write, c.write.fences, to.space)) {
      race(operation, at, c.write,
           "writes through the async proxy what was stored without a proxy fence after it");
    }
    c.readers.clear();
    c.write = access(t, to.space, operation, at);
    ++c.landing;
    c.open_epoch = epoch_;
  });
}

void Machine::end_write(const Extent& to, bool generic, std::uint32_t agent, std::uint32_t time,
                        const char* operation, const Where& at) {
  const std::size_t fences =
      agent < threads_.size() ? threads_[agent]->fences[static_cast<std::size_t>(to.space)].size()
                              : 0;
  to.each([&](Cell& c) {
    if (c.landing > 0) --c.landing;
    c.write = {agent, time, epoch_, static_cast<std::uint32_t>(fences), operation, at};
    c.written = true;
    c.atomic = false;
    c.generic = generic;
  });
}

void Machine::begin_read(const Extent& from, bool generic, const char* operation, const Where& at) {
  Thread& t = self();
  from.each([&](Cell& c) {
    refresh(c);
    if (c.landing > 0) return race(operation, at, c.write, "reads where a copy is in flight");
    if (from.space == Fence::shared && !c.written) {
      return found(Kind::uninitialised, operation, at, "reads shared memory that nobody wrote");
    }
    if (c.written && !ordered(t, c.write, 0)) {
      race(operation, at, c.write, "reads what another wrote, and nothing orders the two");
    } else if (!generic && c.written && c.generic && c.write.epoch == epoch_ &&
               !fenced(t, c.write, c.write.fences, from.space)) {
      race(operation, at, c.write,
           "reads through the async proxy what was stored without a proxy fence after it");
    }
    ++c.leaving;
    c.open_epoch = epoch_;
  });
}

void Machine::end_read(const Extent& from, std::uint32_t agent, std::uint32_t time,
                       const char* operation, const Where& at) {
  const Access a{agent, time, epoch_, 0, operation, at};
  from.each([&](Cell& c) {
    if (c.leaving > 0) --c.leaving;
    // Who is ordered after the later read of an agent is ordered after the earlier ones.
    std::erase_if(c.readers, [&](const Reader& r) {
      return r.lanes == 0 && r.access.agent == agent && r.access.epoch == epoch_;
    });
    c.readers.push_back({a, 0});
  });
}

// ---- the life of a block's shared memory ----------------------------------------------------

void Machine::stay_for(Block& owner, std::uint32_t agent, std::uint32_t time, const char* operation,
                       const Where& at) {
  owner.visits[agent] = {agent, time, epoch_, 0, operation, at};
}

// Before the first barrier of a cluster its other blocks may not have begun.
void Machine::check_begun(const Block& other, const char* operation, const Where& at) {
  const Thread& t = self();
  if (&other == t.block) return;
  const auto first = clock_of(t).begin() + std::ptrdiff_t{other.rank} * shape_.threads;
  if (std::all_of(first, first + shape_.threads, [](std::uint32_t time) { return time == 0; })) {
    found(Kind::race, operation, at,
          fmt::format("block {} may not have begun: no barrier of the cluster came before",
                      other.index.x));
  }
}

void Machine::visit(Block& other, const char* operation, const Where& at) {
  if (&other == &block()) return;
  check_begun(other, operation, at);
  stay_for(other, self().agent, self().warp->time, operation, at);
}

// A block ends with its last thread: one of them must know that the visit is over.
void Machine::check_visits() {
  const auto over = [&](const Block& b, const Access& a) {
    return std::any_of(threads_.begin(), threads_.end(), [&](const auto& t) {
      return t->block == &b && clock_of(*t)[a.agent] > a.time;
    });
  };
  for (const auto& b : blocks_) {
    for (const auto& [agent, a] : b->visits) {
      if (over(*b, a)) continue;
      const std::string by = agent < threads_.size() ? who(*threads_[agent]) : "nobody waits";
      report_.add(Kind::race,
                  fmt::format("{}, {} at {}: block {} may have ended, and its shared memory with "
                              "it: no barrier or wait of that block comes after",
                              by, a.operation, emulator::text(a.at), b->index.x));
    }
  }
}

}  // namespace dsv4::emulator
