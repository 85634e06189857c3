// SPDX-License-Identifier: Apache-2.0
// Jobs in processes of their own: every answer arrives, one that ends its process takes no other
// with it, and the deadline holds.
#include "conformance/bugs/forked.hpp"

#include <csignal>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <thread>

namespace {

using namespace std::chrono_literals;
using dsv4::bugs::ForkLimits;
using dsv4::bugs::Job;
using dsv4::bugs::run_forked;
using Clock = std::chrono::steady_clock;

ForkLimits limits(int workers, std::chrono::milliseconds time) {
  return {workers, Clock::now() + time};
}

TEST(Forked, EveryAnswerBelongsToItsJob) {
  for (const int workers : {1, 3}) {
    int ended = 0;

    const auto jobs = run_forked(
        40, limits(workers, 60s),
        [](std::size_t i) { return std::string(i * 5000, static_cast<char>('a' + i % 26)); },
        [&] { ++ended; });

    EXPECT_EQ(ended, 40);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      EXPECT_EQ(jobs[i].end, Job::End::answered) << i;
      EXPECT_EQ(jobs[i].answer, std::string(i * 5000, static_cast<char>('a' + i % 26))) << i;
    }
  }
}

TEST(Forked, AJobThatEndsItsProcessTakesNoOtherWithIt) {
  const auto jobs = run_forked(12, limits(2, 60s), [](std::size_t i) {
    if (i % 4 == 1) std::raise(SIGKILL);
    if (i % 4 == 2) throw std::runtime_error("wrong");
    return std::to_string(i);
  });

  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const bool dies = i % 4 == 1 || i % 4 == 2;
    EXPECT_EQ(jobs[i].end, dies ? Job::End::died : Job::End::answered) << i;
  }
}

TEST(Forked, WhatIsNotDoneByTheDeadlineIsUntried) {
  const auto begin = Clock::now();

  const auto jobs = run_forked(4, limits(2, 300ms), [](std::size_t i) {
    if (i > 0) std::this_thread::sleep_for(600s);
    return std::string("done");
  });

  EXPECT_LT(Clock::now() - begin, 60s);
  EXPECT_EQ(jobs[0].end, Job::End::answered);
  for (std::size_t i = 1; i < jobs.size(); ++i) EXPECT_EQ(jobs[i].end, Job::End::untried) << i;
}

TEST(Forked, AfterTheDeadlineNothingIsBegun) {
  const auto jobs = run_forked(3, limits(2, 0ms), [](std::size_t) { return std::string("done"); });

  for (const Job& job : jobs) EXPECT_EQ(job.end, Job::End::untried);
}

}  // namespace
