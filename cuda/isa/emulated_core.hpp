// SPDX-License-Identifier: Apache-2.0
// Indices, memory, barriers, warps and cp.async on the emulator.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/emulator/machine.hpp"
#include "cuda/isa/types.hpp"

namespace dsv4::isa {
inline namespace emulated {

using emulator::Machine;
using emulator::Touch;
using emulator::Where;

// ---- indices --------------------------------------------------------------------------------

inline int thread() { return static_cast<int>(Machine::current().self().in_block); }
inline int lane() { return static_cast<int>(Machine::current().self().lane); }
inline int warp() { return static_cast<int>(Machine::current().self().warp->index); }
inline int threads() { return static_cast<int>(Machine::current().threads_per_block()); }
inline int block_x() { return static_cast<int>(Machine::current().block().index.x); }
inline int block_y() { return static_cast<int>(Machine::current().block().index.y); }
inline int grid_x() { return static_cast<int>(Machine::current().shape().grid.x); }

// ---- shared memory --------------------------------------------------------------------------

inline std::uint32_t opaque(std::uint32_t v) { return v; }

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(Machine::current().block().shared);
}

void* static_place(const void* object, std::size_t bytes, std::size_t alignment, Where at);

// The same object for every thread of a block; a type and a number name it.
template <class T, int kId = 0>
T& static_shared(Where at = Where::current()) {
  static_assert(std::is_trivially_default_constructible_v<T>);
  static const char object = 0;
  return *static_cast<T*>(static_place(&object, sizeof(T), alignof(T), at));
}

template <class T>
T ld_shared(const T* p, Where at = Where::current()) {
  Machine::current().touch_shared(p, sizeof(T), Touch::read, "ld.shared", at);
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}
template <class T>
void st_shared(T* p, std::type_identity_t<T> v, Where at = Where::current()) {
  Machine::current().touch_shared(p, sizeof(T), Touch::write, "st.shared", at);
  std::memcpy(p, &v, sizeof(T));
}

// ---- global memory --------------------------------------------------------------------------

template <class T>
T ld_global(const T* p, Where at = Where::current()) {
  Machine::current().touch_global(p, sizeof(T), Touch::read, "ld.global", at);
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}
template <class T>
T ld_stream(const T* p, Where at = Where::current()) {
  return ld_global(p, at);
}
// Reads nothing: an address outside of any buffer is no fault.
inline void prefetch(const void* /*p*/) {}
template <class T>
void st_global(T* p, std::type_identity_t<T> v, Where at = Where::current()) {
  Machine::current().touch_global(p, sizeof(T), Touch::write, "st.global", at);
  std::memcpy(p, &v, sizeof(T));
}
template <class T>
void st_stream(T* p, std::type_identity_t<T> v, Where at = Where::current()) {
  st_global(p, v, at);
}

// Integers only: their sums and maxima do not depend on the order. The old value is returned; what
// it is does depend on the order.
inline std::uint32_t atomic_add(std::uint32_t* p, std::uint32_t v, Where at = Where::current()) {
  Machine::current().touch_global(p, sizeof *p, Touch::atomic, "atom.add", at);
  const std::uint32_t old = *p;
  *p += v;
  return old;
}
inline std::uint32_t atomic_max(std::uint32_t* p, std::uint32_t v, Where at = Where::current()) {
  Machine::current().touch_global(p, sizeof *p, Touch::atomic, "atom.max", at);
  const std::uint32_t old = *p;
  if (v > old) *p = v;
  return old;
}
inline std::uint32_t atomic_add_shared(std::uint32_t* p, std::uint32_t v,
                                       Where at = Where::current()) {
  Machine::current().touch_shared(p, sizeof *p, Touch::atomic, "atom.shared.add", at);
  const std::uint32_t old = *p;
  *p += v;
  return old;
}

// ---- barriers -------------------------------------------------------------------------------

void barrier(int number, int count, bool waits, const char* operation, Where at);

inline void sync(Where at = Where::current()) { barrier(0, threads(), true, "bar.sync 0", at); }
// `count` threads in all, a multiple of 32, whole warps.
template <int kNumber>
void barrier_sync(int count, Where at = Where::current()) {
  static_assert(kNumber > 0 && kNumber < 16);
  barrier(kNumber, count, true, "bar.sync", at);
}
template <int kNumber>
void barrier_arrive(int count, Where at = Where::current()) {
  static_assert(kNumber > 0 && kNumber < 16);
  barrier(kNumber, count, false, "bar.arrive", at);
}
void sync_warp(Where at = Where::current());

// ---- the warp -------------------------------------------------------------------------------

std::uint32_t shuffle_bits(std::uint32_t v, int source, const char* operation, Where at);

template <class T>
T shuffle_from(T v, int source, const char* operation, Where at) {
  static_assert(sizeof(T) == 4);
  std::uint32_t u;
  std::memcpy(&u, &v, 4);
  u = shuffle_bits(u, source, operation, at);
  std::memcpy(&v, &u, 4);
  return v;
}
template <class T>
T shuffle(T v, int source, Where at = Where::current()) {
  return shuffle_from(v, source & 31, "shfl.idx", at);
}
template <class T>
T shuffle_xor(T v, int mask, Where at = Where::current()) {
  return shuffle_from(v, lane() ^ mask, "shfl.bfly", at);
}
// Lanes without a source keep their own value.
template <class T>
T shuffle_down(T v, int by, Where at = Where::current()) {
  return shuffle_from(v, lane() + by < 32 ? lane() + by : lane(), "shfl.down", at);
}
std::uint32_t ballot(bool v, Where at = Where::current());
inline bool any(bool v, Where at = Where::current()) { return ballot(v, at) != 0; }
inline bool all(bool v, Where at = Where::current()) { return ballot(v, at) == 0xFFFFFFFFU; }

// ---- cp.async -------------------------------------------------------------------------------

void copy_async_bytes(void* to, const void* from, std::uint32_t bytes, bool valid, Where at);

// 4, 8 or 16 bytes from global to shared memory; zeros where not valid (`from` is not read then).
template <int kBytes = 16>
void copy_async(void* to, const void* from, bool valid = true, Where at = Where::current()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  copy_async_bytes(to, from, kBytes, valid, at);
}
void copy_commit(Where at = Where::current());
void copy_wait_groups(std::size_t left, Where at);
template <int kLeft>
void copy_wait(Where at = Where::current()) {
  copy_wait_groups(kLeft, at);
}

}  // namespace emulated
}  // namespace dsv4::isa
