// SPDX-License-Identifier: Apache-2.0
// Who may touch what, and when: bounds, alignment, and happens-before. What happens between the
// issue of an asynchronous operation and its end is in async_order.cpp.
#include <algorithm>
#include <cstdio>

#include "cuda/emulator/machine.hpp"

namespace dsv4::emulator {
namespace {

std::string address(const void* p, std::size_t bytes) {
  char text[64];
  std::snprintf(text, sizeof text, "%zu bytes at %p", bytes, p);
  return text;
}

constexpr std::int64_t kMostTexts =
    1000;  // a kernel with millions of races is reported all the same

void merge(Clock& to, const Clock& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

}  // namespace

// ---- clocks ---------------------------------------------------------------------------------

void Machine::join_warp(Warp& warp) {
  ++warp.time;
  for (unsigned l = 0; l < 32; ++l) {
    Thread& t = *threads_[warp.first_agent + l];
    if (t.own) merge(warp.base, *t.own);
    t.own.reset();
  }
  for (unsigned l = 0; l < 32; ++l) warp.base[warp.first_agent + l] = warp.time;
}

void Machine::release(Thread& t, Clock& to) {
  merge(to, clock_of(t));
  to[t.agent] = ++t.warp->time;
}

void Machine::acquire(Thread& t, const Clock& from) {
  if (!t.own) t.own = std::make_unique<Clock>(t.warp->base);
  merge(*t.own, from);
}

Access Machine::access(const Thread& t, Fence space, const char* operation, const Where& at) const {
  const auto fences = static_cast<std::uint32_t>(t.fences[static_cast<std::size_t>(space)].size());
  return {t.agent, t.warp->time, epoch_, fences, operation, at};
}

// Cells remember accesses of earlier launches; the end of a launch orders everything.
void Machine::refresh(Cell& c) const {
  if (c.written && c.write.epoch < first_epoch_) {
    c.write = {};
    c.write.epoch = 0;
    c.atomic = c.generic = false;
  }
  std::erase_if(c.readers, [&](const Reader& r) { return r.access.epoch < first_epoch_; });
  if (c.open_epoch != epoch_) c.landing = c.leaving = 0;  // of a kernel that was given up
}

bool Machine::ordered(const Thread& t, const Access& a, std::uint32_t lanes) const {
  if (a.epoch == 0) return true;  // before this launch
  if (a.epoch != epoch_) return false;
  const Clock& known = clock_of(t);
  if (lanes == 0) return a.agent == t.agent || known[a.agent] > a.time;
  for (std::uint32_t l = 0; l < 32; ++l) {
    if ((lanes >> l & 1U) == 0 || a.agent + l == t.agent) continue;
    if (known[a.agent + l] <= a.time) return false;
  }
  return true;
}

// ---- cells ----------------------------------------------------------------------------------

void Machine::race(const char* operation, const Where& at, const Access& other, const char* what) {
  if (report_.found > kMostTexts) {
    ++report_.found;
    return;
  }
  std::string by = "another cluster";
  if (other.epoch == epoch_) {
    by = other.agent < threads_.size() ? who(*threads_[other.agent]) : "an asynchronous unit";
  }
  found(Kind::race, operation, at,
        std::string(what) + ": " + by + ", " + other.operation + " at " + emulator::text(other.at));
}

void Machine::remember_reader(Thread& t, Cell& c, const Access& a) {
  for (Reader& r : c.readers) {
    if (r.lanes != 0 && r.access.agent == t.warp->first_agent && r.access.time == a.time &&
        r.access.epoch == a.epoch) {
      r.lanes |= 1U << t.lane;
      return;
    }
  }
  // What this thread knows to be over, every later writer that knows this thread knows too.
  std::erase_if(c.readers, [&](const Reader& r) { return ordered(t, r.access, r.lanes); });
  Access of_warp = a;
  of_warp.agent = t.warp->first_agent;
  c.readers.push_back({of_warp, 1U << t.lane});
}

void Machine::check_write(Thread& t, Cell& c, bool atomic, const char* operation, const Where& at) {
  if (c.landing > 0) race(operation, at, c.write, "writes where a copy is in flight");
  if (c.leaving > 0) {
    race(operation, at, c.readers.empty() ? c.write : c.readers.back().access,
         "writes what an asynchronous operation is still reading");
  }
  if (c.written && !(atomic && c.atomic) && !ordered(t, c.write, 0)) {
    race(operation, at, c.write, "writes what another wrote, and nothing orders the two");
  }
  for (const Reader& r : c.readers) {
    if (!ordered(t, r.access, r.lanes)) {
      return race(operation, at, r.access, "writes what another may still be reading");
    }
  }
}

void Machine::touch_cell(Thread& t, Cell& c, Touch kind, Fence space, const char* operation,
                         const Where& at) {
  refresh(c);
  const Access a = access(t, space, operation, at);
  if (kind == Touch::read) {
    if (c.landing > 0) return race(operation, at, c.write, "reads where a copy is in flight");
    if (space == Fence::shared && !c.written) {
      if (report_.found < kMostTexts) {
        found(Kind::uninitialised, operation, at, "reads shared memory that nobody wrote");
      }
      return remember_reader(t, c, a);
    }
    if (c.written && !ordered(t, c.write, 0)) {
      race(operation, at, c.write, "reads what another wrote, and nothing orders the two");
    }
    return remember_reader(t, c, a);
  }
  check_write(t, c, kind == Touch::atomic, operation, at);
  c.readers.clear();
  c.write = a;
  c.written = c.generic = true;
  c.atomic = kind == Touch::atomic;
}

// ---- addresses ------------------------------------------------------------------------------

std::size_t Machine::bounded_shared(const Block& owner, const void* p, std::size_t bytes,
                                    const char* operation, const Where& at) {
  const auto* b = static_cast<const std::byte*>(p);
  const bool dynamic = b >= owner.shared && b + bytes <= owner.shared + shape_.shared;
  const std::byte* statics = owner.shared + owner.dynamic_bytes;
  if (!dynamic && !(b >= statics && b + bytes <= statics + owner.static_bytes)) {
    fatal(Kind::out_of_bounds, operation, at, address(p, bytes) + ", outside of shared memory");
  }
  if (reinterpret_cast<std::uintptr_t>(p) % std::min<std::size_t>(bytes, 16) != 0) {
    fatal(Kind::misaligned, operation, at, address(p, bytes));
  }
  return static_cast<std::size_t>(b - owner.shared);
}

void Machine::touch_remote(const Block& owner, const void* p, std::size_t bytes, Touch kind,
                           const char* operation, const Where& at) {
  const std::size_t offset = bounded_shared(owner, p, bytes, operation, at);
  Thread& t = self();
  owner.shadow->each(offset, bytes,
                     [&](Cell& c) { touch_cell(t, c, kind, Fence::shared, operation, at); });
}

void Machine::touch_shared(const void* p, std::size_t bytes, Touch kind, const char* operation,
                           const Where& at) {
  touch_remote(block(), p, bytes, kind, operation, at);
  note_banks(p, bytes, operation, at);
}

void Machine::note_banks(const void* p, std::size_t bytes, const char* operation, const Where& at) {
  if (!options_.count_banks) return;
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(p) - block().shared);
  banks_.note(block().rank, self().in_block, offset, bytes, operation, at);
}

void Machine::check_global(const void* p, std::size_t bytes, std::size_t alignment, bool write,
                           const char* operation, const Where& at) {
  const Buffer* b = memory_.find(p);
  if (b == nullptr) {
    fatal(Kind::out_of_bounds, operation, at, address(p, bytes) + ", in no registered buffer");
  }
  if (static_cast<const std::byte*>(p) + bytes > b->data + b->bytes) {
    fatal(Kind::out_of_bounds, operation, at, address(p, bytes) + ", past the end of " + b->name);
  }
  if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0) {
    fatal(Kind::misaligned, operation, at, address(p, bytes) + " of " + b->name);
  }
  if (write && !b->shadow) {
    fatal(Kind::out_of_bounds, operation, at, "writes the constant " + b->name);
  }
}

void Machine::touch_global(const void* p, std::size_t bytes, Touch kind, const char* operation,
                           const Where& at) {
  check_global(p, bytes, bytes, kind != Touch::read, operation, at);
  Buffer* b = memory_.find(p);
  if (!b->shadow) return;
  Thread& t = self();
  b->shadow->each(static_cast<std::size_t>(static_cast<const std::byte*>(p) - b->data), bytes,
                  [&](Cell& c) { touch_cell(t, c, kind, Fence::global, operation, at); });
}

}  // namespace dsv4::emulator
