// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/forked.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <omp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.hpp"

namespace dsv4::bugs {
namespace {

using Clock = std::chrono::steady_clock;

// Which job comes next, for all workers.
class Counter {
 public:
  Counter()
      : page_(mmap(nullptr, sizeof(Number), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                   0)) {
    if (page_ == MAP_FAILED) throw IoError("no memory for the processes of diagnose");
    next_ = new (page_) Number(0);
  }
  ~Counter() { munmap(page_, sizeof(Number)); }
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;
  std::size_t take() { return next_->fetch_add(1); }
  std::size_t taken() const { return next_->load(); }

 private:
  using Number = std::atomic<std::size_t>;
  static_assert(Number::is_always_lock_free);
  void* page_;
  Number* next_ = nullptr;
};

// What a worker writes: before a job with size 0, after it with the answer's size + 1.
struct Header {
  std::size_t job = 0;
  std::size_t size = 0;
};

struct Worker {
  pid_t process = -1;
  int from = -1;  // the reading end of its pipe
  std::string unread;
  bool busy = false;
  std::size_t job = 0;  // that it has begun, where busy
};

void write_all(int to, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = write(to, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(1);
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

class Pool {
 public:
  Pool(std::size_t count, const ForkLimits& limits,
       const std::function<std::string(std::size_t)>& answer, const std::function<void()>& tick)
      : count_(count), limits_(limits), answer_(answer), tick_(tick), jobs_(count) {}

  ~Pool() {
    for (Worker& w : workers_) end(w, true);
  }

  std::vector<Job> run() {
    const auto most = static_cast<std::size_t>(std::max(1, limits_.workers));
    while (workers_.size() < std::min(most, count_) && !late()) begin();
    while (!workers_.empty() && !late()) {
      wait();
      for (std::size_t i = workers_.size(); i-- > 0;)
        if (workers_[i].process < 0) replace(i);
    }
    for (Worker& w : workers_) end(w, true);
    workers_.clear();
    return std::move(jobs_);
  }

 private:
  bool late() const { return Clock::now() >= limits_.deadline; }

  void begin() {
    int ends[2];
    if (pipe(ends) != 0) refuse();
    const pid_t process = fork();
    if (process < 0) {
      close(ends[0]);
      close(ends[1]);
      if (workers_.empty()) refuse();
      return;
    }
    if (process == 0) {
      close(ends[0]);
      work(ends[1]);
    }
    close(ends[1]);
    workers_.push_back({process, ends[0], {}, false, 0});
  }

  [[noreturn]] static void refuse() {
    throw IoError(std::string("diagnose cannot start a process: ") + std::strerror(errno),
                  "is there a limit on processes or memory?");
  }

  // In the worker. Its parent's pool of threads does not exist here, and what a mistake has to say
  // before it ends its process is no news.
  [[noreturn]] void work(int to) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (const int nowhere = open("/dev/null", O_WRONLY); nowhere >= 0) dup2(nowhere, STDERR_FILENO);
    omp_set_num_threads(1);
    for (;;) {
      const std::size_t job = late() ? count_ : next_.take();
      if (job >= count_) _exit(0);
      const Header begun{job, 0};
      write_all(to, &begun, sizeof begun);
      try {
        const std::string answer = answer_(job);
        const Header done{job, answer.size() + 1};
        write_all(to, &done, sizeof done);
        write_all(to, answer.data(), answer.size());
      } catch (...) {
        _exit(1);
      }
    }
  }

  void wait() {
    std::vector<pollfd> fds;
    for (const Worker& w : workers_) fds.push_back({w.from, POLLIN, 0});
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(limits_.deadline - Clock::now());
    const auto patience = std::clamp<std::int64_t>(left.count() + 1, 0, 1000);
    if (poll(fds.data(), fds.size(), static_cast<int>(patience)) <= 0) return;
    for (std::size_t i = 0; i < fds.size(); ++i)
      if (fds[i].revents != 0) listen(workers_[i]);
  }

  void listen(Worker& w) {
    char buffer[1 << 16];
    const ssize_t n = read(w.from, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) return;
    if (n <= 0) {
      if (w.busy) finish(w.job, Job::End::died, {});
      return end(w, false);
    }
    w.unread.append(buffer, static_cast<std::size_t>(n));
    std::size_t at = 0;
    Header header;
    while (w.unread.size() - at >= sizeof header) {
      std::memcpy(&header, w.unread.data() + at, sizeof header);
      const std::size_t body = header.size == 0 ? 0 : header.size - 1;
      if (w.unread.size() - at < sizeof header + body) break;
      if (header.size > 0)
        finish(header.job, Job::End::answered, w.unread.substr(at + sizeof header, body));
      w.busy = header.size == 0;
      w.job = header.job;
      at += sizeof header + body;
    }
    w.unread.erase(0, at);
  }

  void finish(std::size_t job, Job::End how, std::string answer) {
    jobs_[job] = {how, std::move(answer)};
    if (tick_) tick_();
  }

  static void end(Worker& w, bool stop) {
    if (w.process < 0) return;
    if (stop) kill(w.process, SIGKILL);
    close(w.from);
    while (waitpid(w.process, nullptr, 0) < 0 && errno == EINTR) {
    }
    w.process = -1;
  }

  // A worker that a mistake has ended leaves the rest to another.
  void replace(std::size_t i) {
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
    if (next_.taken() < count_ && !late()) begin();
  }

  std::size_t count_;
  const ForkLimits& limits_;
  const std::function<std::string(std::size_t)>& answer_;
  const std::function<void()>& tick_;
  std::vector<Job> jobs_;
  Counter next_;
  std::vector<Worker> workers_;
};

}  // namespace

std::vector<Job> run_forked(std::size_t count, const ForkLimits& limits,
                            const std::function<std::string(std::size_t)>& answer,
                            const std::function<void()>& tick) {
  return Pool(count, limits, answer, tick).run();
}

}  // namespace dsv4::bugs
