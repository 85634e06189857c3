// SPDX-License-Identifier: Apache-2.0
// Memory that kernels may touch, and who touched it: bounds, and a shadow of one cell per 16 bytes
// that is split into one per byte once somebody touches a part of it.
//
// Order is happens-before with vector clocks. Every warp has a time; an access carries the agent
// (a thread, an mbarrier's copies, a warpgroup's wgmma) and the time. An access is ordered before a
// thread's next step if the thread's clock holds a later time for that agent. Clocks travel through
// barriers, mbarriers and __syncwarp, and through nothing else: a shuffle orders no memory.
//
// An asynchronous access is open from its issue until somebody waits for it; then it becomes an
// access of the agent whose completion the wait sees. TMA and wgmma use the async proxy: what a
// thread stored before is theirs only after a proxy fence of that thread, for that memory, that is
// ordered before them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/emulator/report.hpp"

namespace dsv4::emulator {

using Clock = std::vector<std::uint32_t>;  // per agent: accesses before this time are ordered

enum class Touch : std::uint8_t { read, write, atomic };

// What a fence makes visible to TMA and wgmma: shared memory, global memory, initialised mbarriers.
enum class Fence : std::uint8_t { shared, global, barrier_init };
inline constexpr std::size_t kFences = 3;

// One access, as a cell remembers it.
struct Access {
  std::uint32_t agent = 0;
  std::uint32_t time = 0;
  std::uint32_t epoch = 0;   // launch and cluster; other clusters are never ordered
  std::uint32_t fences = 0;  // proxy fences of the accessing thread for this memory so far
  const char* operation = "";
  Where at;
};

struct Reader {
  Access access;
  std::uint32_t lanes = 0;  // of the agent's warp; 0: the agent itself
};

struct Cell {
  Access write;
  std::vector<Reader> readers;
  bool written = false;
  bool atomic = false;           // the last write was atomic
  bool generic = false;          // … and went through the generic proxy (not TMA)
  std::uint16_t landing = 0;     // copies in flight to it
  std::uint16_t leaving = 0;     // asynchronous reads in flight
  std::uint32_t open_epoch = 0;  // of the cluster that these two belong to
};

class Shadow {
 public:
  explicit Shadow(std::size_t bytes) : granules_((bytes + kGranule - 1) / kGranule) {}
  static constexpr std::size_t kGranule = 16;

  // Calls f(cell) for every cell that [offset, offset + bytes) covers.
  template <class F>
  void each(std::size_t offset, std::size_t bytes, F&& f) {
    for (std::size_t at = offset; at < offset + bytes;) {
      const std::size_t in = at % kGranule;
      const std::size_t take = std::min(kGranule - in, offset + bytes - at);
      Granule& g = granules_[at / kGranule];
      if (take < kGranule && !g.parts) split(g);
      if (!g.parts) {
        f(g.whole);
      } else {
        for (std::size_t i = 0; i < take; ++i) f((*g.parts)[in + i]);
      }
      at += take;
    }
  }

 private:
  struct Granule {
    Cell whole;
    std::unique_ptr<std::array<Cell, kGranule>> parts;
  };
  static void split(Granule& g) {
    g.parts = std::make_unique<std::array<Cell, kGranule>>();
    g.parts->fill(g.whole);
  }
  std::vector<Granule> granules_;
};

// A place in memory, for asynchronous operations.
struct Extent {
  Shadow* shadow = nullptr;  // none: a constant
  std::size_t offset = 0, bytes = 0;
  Fence space = Fence::shared;

  template <class F>
  void each(F&& f) const {
    if (shadow != nullptr) shadow->each(offset, bytes, f);
  }
};

// A buffer in global memory. Kernels get its address; whoever made it reads it back.
struct Buffer {
  std::string name;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::unique_ptr<Shadow> shadow;  // none: a constant
};

// The global memory of one emulated GPU: the only places that ld/st global may touch.
class GlobalMemory {
 public:
  // A buffer of its own, filled with 0xff (a NaN in every format).
  template <class T>
  T* make(std::string name, std::size_t count) {
    owned_.push_back(std::make_unique<std::byte[]>(count * sizeof(T) + 2 * kGuard));
    auto* data = align(owned_.back().get());
    std::memset(data, 0xFF, count * sizeof(T));
    add({std::move(name), data, count * sizeof(T), std::make_unique<Shadow>(count * sizeof(T))});
    return reinterpret_cast<T*>(data);
  }
  template <class T>
  T* make(std::string name, std::span<const T> values) {
    T* out = make<T>(std::move(name), values.size());
    std::memcpy(out, values.data(), values.size_bytes());
    return out;
  }
  // Somebody else's memory, which kernels may only read.
  template <class T>
  const T* constant(std::string name, std::span<const T> values) {
    // Addresses are used for looking up; nothing writes through this pointer.
    auto* data = const_cast<std::byte*>(reinterpret_cast<const std::byte*>(values.data()));
    add({std::move(name), data, values.size_bytes(), nullptr});
    return values.data();
  }
  Buffer* find(const void* address);

 private:
  static constexpr std::size_t kGuard = 256;  // alignment of cudaMalloc
  static std::byte* align(std::byte* p);
  void add(Buffer buffer);

  std::vector<std::unique_ptr<std::byte[]>> owned_;
  std::map<const std::byte*, Buffer> buffers_;  // by first address
  Buffer* last_ = nullptr;
};

}  // namespace dsv4::emulator
