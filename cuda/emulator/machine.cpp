// SPDX-License-Identifier: Apache-2.0
// Clusters, blocks and threads: how they come to be, take turns, meet, and get stuck.
#include "cuda/emulator/machine.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <numeric>

namespace dsv4::emulator {
namespace {

thread_local Machine* machine = nullptr;
thread_local std::uint32_t epochs =
    0;  // never the same twice, so that old cells are seen to be old

constexpr std::size_t kAlign = 1024;  // of shared memory: the 128-byte swizzle counts on it

std::uint64_t next_random(std::uint64_t& state) {  // splitmix64
  std::uint64_t z = (state += 0x9E3779B97F4A7C15U);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

}  // namespace

Machine& Machine::current() {
  if (machine == nullptr) throw std::logic_error("a device operation outside of a kernel");
  return *machine;
}

Machine::Machine(const Shape& shape, const Options& options, GlobalMemory& memory)
    : shape_(shape), options_(options), memory_(memory), random_(options.seed) {
  if (shape.threads == 0 || shape.threads % 32 != 0 || shape.threads > 1024) {
    throw std::logic_error("threads per block: expected a multiple of 32 up to 1024");
  }
  if (shape.shared > kMostShared) throw std::logic_error("more shared memory than 227 KB");
  if (shape.cluster == 0 || shape.grid.x % shape.cluster != 0) {
    throw std::logic_error("the grid is not made of whole clusters");
  }
  const std::size_t groups = (shape.threads + 127) / 128;
  agents_ = shape.cluster * (shape.threads + groups + kMbarriers);
}

Report Machine::run(const std::function<void()>& kernel) {
  Machine* const outer = std::exchange(machine, this);
  first_epoch_ = epochs + 1;
  for (unsigned first = 0; first < shape_.grid.count() && !given_up_; first += shape_.cluster) {
    epoch_ = ++epochs;
    make_cluster(first, kernel);
    run_cluster();
    if (!given_up_) check_visits();
    blocks_.clear();
    threads_.clear();
  }
  machine = outer;
  report_.turns = banks_.turns();
  return std::move(report_);
}

void Machine::make_cluster(unsigned first, const std::function<void()>& kernel) {
  std::uint32_t extra = shape_.cluster * shape_.threads;  // agents that are no threads
  for (unsigned r = 0; r < shape_.cluster; ++r) {
    auto b = std::make_unique<Block>();
    const unsigned n = first + r;
    b->rank = r;
    b->index = {n % shape_.grid.x, n / shape_.grid.x % shape_.grid.y,
                n / (shape_.grid.x * shape_.grid.y)};
    b->dynamic_bytes = (shape_.shared + kAlign - 1) / kAlign * kAlign;
    b->bytes = b->dynamic_bytes + kStatic;
    b->memory = std::make_unique<std::byte[]>(b->bytes + kAlign);
    const auto at = reinterpret_cast<std::uintptr_t>(b->memory.get());
    b->shared = b->memory.get() + (kAlign - at % kAlign) % kAlign;
    std::memset(b->shared, 0xFF, b->bytes);  // a NaN in every format
    b->shadow = std::make_unique<Shadow>(b->bytes);
    b->warps.resize(shape_.threads / 32);
    b->groups.resize((shape_.threads + 127) / 128);
    for (Warpgroup& g : b->groups) g.agent = extra++;
    b->next_agent = extra;
    b->last_agent = extra += kMbarriers;
    for (unsigned w = 0; w < b->warps.size(); ++w) {
      Warp& warp = b->warps[w];
      warp.block = b.get();
      warp.index = w;
      warp.first_agent = r * shape_.threads + w * 32;
      warp.base = empty_clock();
    }
    blocks_.push_back(std::move(b));
  }
  for (std::uint32_t a = 0; a < shape_.cluster * shape_.threads; ++a) {
    auto t = std::make_unique<Thread>();
    t->block = blocks_[a / shape_.threads].get();
    t->in_block = a % shape_.threads;
    t->lane = t->in_block % 32;
    t->warp = &t->block->warps[t->in_block / 32];
    t->agent = a;
    t->fiber = std::make_unique<Fiber>([this, &kernel] { body(kernel); });
    threads_.push_back(std::move(t));
  }
  order_.resize(threads_.size());
  std::iota(order_.begin(), order_.end(), 0U);
}

void Machine::body(const std::function<void()>& kernel) {
  try {
    if (given_up_) return;
    kernel();
    check_exit(self());
  } catch (const Abandon&) {
  }
}

void Machine::check_exit(Thread& t) {
  const auto pending = [](const auto& open, const auto& groups) {
    return !open.empty() ||
           std::any_of(groups.begin(), groups.end(), [](const auto& g) { return !g.empty(); });
  };
  if (pending(t.open, t.groups)) {
    found(Kind::misuse, "exit", t.at, "ends with a cp.async that nobody waited for");
  }
  if (pending(t.open_stores, t.store_groups)) {
    found(Kind::misuse, "exit", t.at, "ends with a TMA store that nobody waited for");
  }
  if (t.in_block % 128 == 127 && t.block->groups.size() > t.in_block / 128) {
    const Warpgroup& g = t.block->groups[t.in_block / 128];
    if (pending(g.open, g.groups)) {
      found(Kind::misuse, "exit", t.at, "ends with a wgmma that nobody waited for");
    }
  }
}

bool Machine::runnable(const Thread& t) const {
  if (t.fiber->finished()) return false;
  return given_up_ || t.generation == nullptr || *t.generation != t.wanted;
}

bool Machine::step(Thread& t) {
  if (!runnable(t)) return false;
  running_ = &t;
  ++report_.switches;
  t.fiber->resume();
  return true;
}

// Lets every thread that can run do so in the order of the schedule; how many did.
int Machine::sweep() {
  int ran = 0;
  const auto warps = static_cast<unsigned>(threads_.size() / 32);
  switch (options_.schedule) {
    case Schedule::shuffled:
      for (std::size_t i = order_.size() - 1; i > 0; --i) {
        std::swap(order_[i], order_[next_random(random_) % (i + 1)]);
      }
      [[fallthrough]];
    case Schedule::round_robin:
      for (const unsigned t : order_) ran += step(*threads_[t]) ? 1 : 0;
      return ran;
    case Schedule::greedy_first:
    case Schedule::greedy_last:
      for (unsigned i = 0; i < warps; ++i) {
        const unsigned w = options_.schedule == Schedule::greedy_first ? i : warps - 1 - i;
        for (int before = -1; before != ran;) {
          before = ran;
          for (unsigned l = 0; l < 32; ++l) ran += step(*threads_[w * 32 + l]) ? 1 : 0;
        }
      }
      return ran;
  }
  return ran;
}

void Machine::run_cluster() {
  const auto unfinished = [&] {
    return std::any_of(threads_.begin(), threads_.end(),
                       [](const auto& t) { return !t->fiber->finished(); });
  };
  while (unfinished()) {
    if (sweep() > 0 || given_up_ || land_everything()) continue;
    report_deadlock();
    given_up_ = true;  // every fiber unwinds
  }
}

// Copies to shared memory arrive even if nobody is there to wait.
bool Machine::land_everything() {
  bool any = false;
  for (auto& b : blocks_) {
    for (auto& [at, m] : b->mbarriers) {
      auto copies = std::exchange(m.copies, {});
      any |= !copies.empty();
      for (auto& land : copies) land();
    }
  }
  return any;
}

void Machine::report_deadlock() {
  struct Group {
    const Thread* first;
    int count;
  };
  std::map<std::string, Group> waiting;
  for (const auto& t : threads_) {
    if (t->fiber->finished()) continue;
    auto [it, fresh] = waiting.try_emplace(
        std::string(t->operation) + " at " + emulator::text(t->at), Group{t.get(), 0});
    ++it->second.count;
  }
  std::string out = "nothing can run";
  for (const auto& [what, group] : waiting) {
    out += "; " + std::to_string(group.count) + " threads, first " + who(*group.first) +
           ", wait in " + what;
  }
  report_.add(Kind::deadlock, out);
}

void Machine::wait(const std::uint64_t& generation, const char* operation, const Where& at) {
  Thread& t = self();
  t.generation = &generation;
  t.wanted = generation;
  t.operation = operation;
  t.at = at;
  while (*t.generation == t.wanted) {
    t.fiber->yield();
    if (given_up_) throw Abandon{};
  }
  t.generation = nullptr;
}

bool Machine::enter(Meeting& m, int count, int lane, void* argument, const char* operation,
                    const Where& at) {
  Thread& t = self();
  t.operation = operation;
  t.at = at;
  if (m.arrived == 0) {
    m.operation = operation;
    m.at = at;
  } else if (std::strcmp(m.operation, operation) != 0 || m.at.line() != at.line() ||
             std::strcmp(m.at.file_name(), at.file_name()) != 0) {
    fatal(Kind::divergence, operation, at,
          "while other lanes are in " + std::string(m.operation) + " at " + emulator::text(m.at));
  }
  m.arguments[static_cast<std::size_t>(lane)] = argument;
  if (++m.arrived == count) return true;
  wait(m.generation, operation, at);
  return false;
}

std::string Machine::who(const Thread& t) const {
  const Dim3& b = t.block->index;
  const std::string rest = b.y > 0 || b.z > 0 ? fmt::format(",{},{}", b.y, b.z) : "";
  return fmt::format("thread {} of block {}{}", t.in_block, b.x, rest);
}

void Machine::found(Kind kind, const char* operation, const Where& at, const std::string& text) {
  report_.add(kind, who(self()) + ", " + operation + " at " + emulator::text(at) + ": " + text);
}

void Machine::fatal(Kind kind, const char* operation, const Where& at, const std::string& text) {
  found(kind, operation, at, text);
  given_up_ = true;
  throw Abandon{};
}

Report run(const Shape& shape, const Options& options, GlobalMemory& memory,
           const std::function<void()>& kernel) {
  return Machine(shape, options, memory).run(kernel);
}

Report launch(const Shape& shape, const Options& options, GlobalMemory& memory,
              const std::function<void()>& kernel) {
  Report report = run(shape, options, memory, kernel);
  if (!report.clean()) throw Fault(std::move(report));
  return report;
}

}  // namespace dsv4::emulator
