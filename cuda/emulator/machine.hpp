// SPDX-License-Identifier: Apache-2.0
// One emulated GPU running one kernel: clusters one after the other, the threads of a cluster as
// fibers. The operations of cuda/isa are written in terms of this; kernels never see it.
#pragma once

#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/emulator/banks.hpp"
#include "cuda/emulator/fiber.hpp"
#include "cuda/emulator/memory.hpp"
#include "cuda/emulator/options.hpp"
#include "cuda/emulator/report.hpp"

namespace dsv4::emulator {

struct Block;
struct Warp;

// A place where a fixed number of lanes must meet; the last to come does the work of all.
struct Meeting {
  int arrived = 0;
  std::uint64_t generation = 0;
  const char* operation = nullptr;
  Where at;
  std::array<void*, 128> arguments{};
};

// One 16-byte (or smaller) cp.async.
struct Copy {
  std::byte* to;
  const std::byte* from;
  std::uint32_t bytes;
  bool valid;  // else zeros are written
  Where at;
};

// A tile on its way from shared to global memory.
struct Store {
  std::function<void()> land;  // copies, unless that is done already; ends both accesses
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  unsigned in_block = 0, lane = 0;
  std::uint32_t agent = 0;
  std::unique_ptr<Clock> own;                 // what it learned alone since its warp last met
  const std::uint64_t* generation = nullptr;  // waits until this differs from `wanted`
  std::uint64_t wanted = 0;
  const char* operation = "";
  Where at;
  std::array<std::vector<std::uint32_t>, kFences> fences;  // by kind: when
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
  std::vector<Store> open_stores;
  std::deque<std::vector<Store>> store_groups;
  std::vector<const float*> wgmma_fenced;  // accumulators
};

struct Warp {
  Block* block = nullptr;
  unsigned index = 0;  // in its block
  std::uint32_t first_agent = 0;
  std::uint32_t time = 1;
  Clock base;  // what all lanes know
  Meeting meeting;
};

// bar.sync / bar.arrive number n.
struct Barrier {
  unsigned expected = 0, arrived = 0;  // threads
  std::uint64_t generation = 0;
  Clock clock;
  std::vector<Warp*> waiting;
};

struct Mbarrier {
  std::uint32_t expected = 0, pending = 0;
  std::int64_t bytes = 0;  // announced and not yet landed
  std::uint64_t phase = 0;
  Clock clock, done;  // of the running phase, of the last complete one
  std::uint32_t agent = 0, time = 1;
  std::vector<std::function<void()>> copies;  // in flight
  Access init;
  std::uint32_t init_fences = 0;  // of mbarrier inits, by the same thread, before it
};

// One wgmma that was issued and not yet waited for.
struct Product {
  std::function<void()> compute;
  std::function<void()> release;  // the operands may be overwritten from here on
  std::uint32_t time = 0;
};

// The registers of a thread that wgmma owns: what they hold, and products in flight. They are the
// thread's again once no product is in flight and a wait names them.
struct Accumulator {
  std::vector<float> value;
  int users = 0;
};

struct Warpgroup {
  Meeting meeting;
  std::uint32_t agent = 0, time = 1;
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
  std::map<float*, Accumulator> accumulators;
  int registers = 0;  // last setmaxnreg, 0: none
};

struct Block {
  unsigned rank = 0;  // in its cluster
  Dim3 index;
  std::unique_ptr<std::byte[]> memory;
  std::byte* shared = nullptr;  // dynamic first, then static
  std::size_t dynamic_bytes = 0, bytes = 0;
  std::unique_ptr<Shadow> shadow;
  std::vector<Warp> warps;
  std::vector<Warpgroup> groups;
  std::array<Barrier, 16> barriers;
  std::map<const void*, Mbarrier> mbarriers;
  std::map<const void*, std::size_t> statics;  // which object -> offset
  std::size_t static_bytes = 0;
  std::uint32_t next_agent = 0, last_agent = 0;  // for mbarriers
  std::map<std::uint32_t, Access> visits;  // by agent: the latest access that must not outlive it
};

class Machine {
 public:
  static constexpr std::size_t kMostShared = 227 * 1024;
  static constexpr std::size_t kStatic = 48 * 1024;
  static constexpr std::uint32_t kMbarriers = 64;  // per block

  Machine(const Shape& shape, const Options& options, GlobalMemory& memory);
  Report run(const std::function<void()>& kernel);

  static Machine& current();
  Thread& self() { return *running_; }
  Block& block() { return *running_->block; }
  const Shape& shape() const { return shape_; }
  const Options& options() const { return options_; }
  Report& report() { return report_; }
  unsigned threads_per_block() const { return shape_.threads; }
  std::vector<std::unique_ptr<Block>>& blocks() { return blocks_; }
  Barrier& cluster_barrier() { return cluster_barrier_; }

  // ---- waiting and meeting
  void wait(const std::uint64_t& generation, const char* operation, const Where& at);
  // All 32 lanes (128 threads): each leaves its arguments, the last one calls work(pointers).
  template <class A, class F>
  void meet(Meeting& m, int count, int lane, A& argument, const char* operation, const Where& at,
            F&& work) {
    if (!enter(m, count, lane, &argument, operation, at)) return;
    std::array<A*, 128> all{};
    for (int i = 0; i < count; ++i) {
      all[static_cast<std::size_t>(i)] = static_cast<A*>(m.arguments[static_cast<std::size_t>(i)]);
    }
    work(all.data());
    m.arrived = 0;
    ++m.generation;
  }
  template <class A, class F>
  void meet_warp(A& argument, const char* operation, const Where& at, F&& work) {
    Thread& t = self();
    meet(t.warp->meeting, 32, static_cast<int>(t.lane), argument, operation, at, work);
  }
  Warpgroup& group() { return block().groups[self().in_block / 128]; }
  template <class A, class F>
  void meet_group(A& argument, const char* operation, const Where& at, F&& work) {
    meet(group().meeting, 128, static_cast<int>(self().in_block % 128), argument, operation, at,
         work);
  }

  // ---- order
  void join_warp(Warp& warp);                  // what one lane did or knows, all know
  void release(Thread& t, Clock& to);          // what t did so far goes into the clock
  void acquire(Thread& t, const Clock& from);  // … and out of it
  void fence(Fence kind);
  Clock empty_clock() const { return Clock(agents_, 0); }

  // ---- memory. Each checks bounds and alignment, which end the kernel, and order, which does not.
  void touch_shared(const void* p, std::size_t bytes, Touch kind, const char* operation,
                    const Where& at);
  void note_banks(const void* p, std::size_t bytes, const char* operation, const Where& at);
  void touch_remote(const Block& owner, const void* p, std::size_t bytes, Touch kind,
                    const char* operation, const Where& at);
  void touch_global(const void* p, std::size_t bytes, Touch kind, const char* operation,
                    const Where& at);
  void check_global(const void* p, std::size_t bytes, std::size_t alignment, bool write,
                    const char* operation, const Where& at);

  // ---- asynchronous accesses (async_order.cpp). `generic`: cp.async, else through the async
  // proxy.
  Extent shared_extent(const Block& owner, const void* p, std::size_t bytes, const char* operation,
                       const Where& at);
  Extent global_extent(const void* p, std::size_t bytes, std::size_t alignment, bool write,
                       const char* operation, const Where& at);
  // A write begins (nobody may touch the place), and ends as an access of `agent`.
  void begin_write(const Extent& to, bool generic, const char* operation, const Where& at);
  void end_write(const Extent& to, bool generic, std::uint32_t agent, std::uint32_t time,
                 const char* operation, const Where& at);
  // A read begins (nobody may write), and ends as a read of `agent`.
  void begin_read(const Extent& from, bool generic, const char* operation, const Where& at);
  void end_read(const Extent& from, std::uint32_t agent, std::uint32_t time, const char* operation,
                const Where& at);
  void remember_init(Mbarrier& m, const char* operation, const Where& at);
  // The initialisation of `m` is ordered before this use, and fenced for TMA and for other blocks.
  void check_init(const Mbarrier& m, bool by_tma, bool by_other_block, const char* operation,
                  const Where& at);
  // The running thread uses another block's shared memory: that block has begun, and does not end
  // before. A copy to it is an agent of its own.
  void visit(Block& other, const char* operation, const Where& at);
  void check_begun(const Block& other, const char* operation, const Where& at);
  void stay_for(Block& owner, std::uint32_t agent, std::uint32_t time, const char* operation,
                const Where& at);

  // ---- findings
  void found(Kind kind, const char* operation, const Where& at, const std::string& text);
  [[noreturn]] void fatal(Kind kind, const char* operation, const Where& at,
                          const std::string& text);
  std::string who(const Thread& t) const;

 private:
  struct Abandon {};  // unwinds a fiber of a kernel that is given up

  bool enter(Meeting& m, int count, int lane, void* argument, const char* operation,
             const Where& at);
  void make_cluster(unsigned first, const std::function<void()>& kernel);
  void body(const std::function<void()>& kernel);
  bool runnable(const Thread& t) const;
  bool step(Thread& t);
  int sweep();
  void run_cluster();
  bool land_everything();
  void report_deadlock();
  void check_exit(Thread& t);
  void check_visits();
  const Clock& clock_of(const Thread& t) const { return t.own ? *t.own : t.warp->base; }
  bool ordered(const Thread& t, const Access& a, std::uint32_t lanes) const;
  void refresh(Cell& c) const;
  void touch_cell(Thread& t, Cell& c, Touch kind, Fence space, const char* operation,
                  const Where& at);
  void check_write(Thread& t, Cell& c, bool atomic, const char* operation, const Where& at);
  void remember_reader(Thread& t, Cell& c, const Access& a);
  void race(const char* operation, const Where& at, const Access& other, const char* what);
  bool fenced(const Thread& t, const Access& a, std::uint32_t fences, Fence kind) const;
  Access access(const Thread& t, Fence space, const char* operation, const Where& at) const;
  std::size_t bounded_shared(const Block& owner, const void* p, std::size_t bytes,
                             const char* operation, const Where& at);

  Shape shape_;
  Options options_;
  GlobalMemory& memory_;
  Report report_;
  Banks banks_;
  std::vector<std::unique_ptr<Block>> blocks_;  // of the running cluster
  std::vector<std::unique_ptr<Thread>> threads_;
  Barrier cluster_barrier_;
  Thread* running_ = nullptr;
  std::size_t agents_ = 0;
  std::uint32_t first_epoch_ = 0, epoch_ = 0;
  std::uint64_t random_ = 0;
  std::vector<unsigned> order_;
  bool given_up_ = false;
};

// Runs the kernel and returns what was found.
Report run(const Shape& shape, const Options& options, GlobalMemory& memory,
           const std::function<void()>& kernel);
// The same; throws Fault unless the report is clean.
Report launch(const Shape& shape, const Options& options, GlobalMemory& memory,
              const std::function<void()>& kernel);

}  // namespace dsv4::emulator
