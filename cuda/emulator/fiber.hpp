// SPDX-License-Identifier: Apache-2.0
// A fiber: one GPU thread of the emulator, with a stack of its own. Switching saves the
// callee-saved registers and nothing else; sanitizers are told of every switch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace dsv4::emulator {

class Fiber {
 public:
  explicit Fiber(std::function<void()> body);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();  // from outside: runs the body until it yields or ends
  void yield();   // from inside the body
  bool finished() const { return finished_; }

 private:
  static void enter();
  void run();

  std::function<void()> body_;
  std::unique_ptr<std::byte[]> stack_;
  void* own_ = nullptr;  // stack pointers while the other side runs
  void* outside_ = nullptr;
  bool finished_ = false;
  void* own_fake_ = nullptr;  // what AddressSanitizer keeps per stack
  void* outside_fake_ = nullptr;
  const void* outside_stack_ = nullptr;
  std::size_t outside_size_ = 0;
};

}  // namespace dsv4::emulator
