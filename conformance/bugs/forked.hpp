// SPDX-License-Identifier: Apache-2.0
// Jobs in processes of their own. The switches of the planted bugs are global, so two mutants
// cannot share a process; a mistake may end its process; and one that takes too long can be
// stopped.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace dsv4::bugs {

struct Job {
  enum class End { untried, answered, died };  // untried: not begun, or cut by the deadline
  End end = End::untried;
  std::string answer;
};

struct ForkLimits {
  int workers = 1;  // at a time
  std::chrono::steady_clock::time_point deadline;
};

// answer(i) for each i below `count`, begun in this order; `tick` is called in this process
// whenever one has ended. The jobs see this process's memory as it was, run on one thread each, and
// must not read files that this process has open unless there is one worker. Throws IoError when
// the system gives no process.
std::vector<Job> run_forked(std::size_t count, const ForkLimits& limits,
                            const std::function<std::string(std::size_t)>& answer,
                            const std::function<void()>& tick = {});

}  // namespace dsv4::bugs
