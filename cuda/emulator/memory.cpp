// SPDX-License-Identifier: Apache-2.0
#include "cuda/emulator/memory.hpp"

#include <algorithm>

namespace dsv4::emulator {

std::byte* GlobalMemory::align(std::byte* p) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  return p + (kGuard - at % kGuard) % kGuard;
}

void GlobalMemory::add(Buffer buffer) {
  last_ = nullptr;
  const std::byte* first = buffer.data;
  buffers_.insert_or_assign(first, std::move(buffer));
}

Buffer* GlobalMemory::find(const void* address) {
  const auto* p = static_cast<const std::byte*>(address);
  const auto holds = [p](const Buffer& b) { return p >= b.data && p < b.data + b.bytes; };
  if (last_ != nullptr && holds(*last_)) return last_;
  auto it = buffers_.upper_bound(p);
  if (it == buffers_.begin()) return nullptr;
  --it;
  if (!holds(it->second)) return nullptr;
  return last_ = &it->second;
}

}  // namespace dsv4::emulator
