// SPDX-License-Identifier: Apache-2.0
#include "cuda/emulator/fiber.hpp"

#include <utility>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the emulator's switch of stacks is written for x86-64 (System V)"
#endif

// Saves the registers that a callee must keep, stores the stack pointer in *save and continues on
// the stack `load`.
extern "C" void dsv4_fiber_switch(void** save, void* load);
asm(R"(
.text
.globl dsv4_fiber_switch
.type dsv4_fiber_switch,@function
dsv4_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dsv4_fiber_switch,.-dsv4_fiber_switch
)");

namespace dsv4::emulator {
namespace {

// Sanitizers put red zones around every local and need more room.
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kStack = std::size_t{256} * 1024;
#else
constexpr std::size_t kStack = std::size_t{64} * 1024;
#endif
constexpr int kSavedRegisters = 6;

thread_local Fiber* starting = nullptr;

void before_switch([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack,
                   [[maybe_unused]] std::size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake, stack, size);
#endif
}

void after_switch([[maybe_unused]] void* fake, [[maybe_unused]] const void** stack,
                  [[maybe_unused]] std::size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, stack, size);
#endif
}

}  // namespace

Fiber::Fiber(std::function<void()> body)
    : body_(std::move(body)), stack_(new std::byte[kStack]) {  // not cleared: most is never touched
  // The stack looks as if `enter` had been about to be returned to: aligned as after a call.
  std::byte* top = stack_.get() + kStack;
  top -= reinterpret_cast<std::uintptr_t>(top) % 64;
  void** words = reinterpret_cast<void**>(top);
  *--words = nullptr;  // the end for whoever walks the stack
  *--words = reinterpret_cast<void*>(&Fiber::enter);
  for (int i = 0; i < kSavedRegisters; ++i) *--words = nullptr;
  own_ = words;
}

Fiber::~Fiber() {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_.get(), kStack);
#endif
}

void Fiber::resume() {
  starting = this;
  before_switch(&outside_fake_, stack_.get(), kStack);
  dsv4_fiber_switch(&outside_, own_);
  after_switch(outside_fake_, nullptr, nullptr);
}

void Fiber::yield() {
  before_switch(&own_fake_, outside_stack_, outside_size_);
  dsv4_fiber_switch(&own_, outside_);
  after_switch(own_fake_, &outside_stack_, &outside_size_);
}

void Fiber::enter() {
  Fiber* self = starting;
  after_switch(nullptr, &self->outside_stack_, &self->outside_size_);
  self->run();
}

void Fiber::run() {
  body_();
  finished_ = true;
  before_switch(nullptr, outside_stack_, outside_size_);  // this stack is given up
  dsv4_fiber_switch(&own_, outside_);
  __builtin_unreachable();
}

}  // namespace dsv4::emulator
