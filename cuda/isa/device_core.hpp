// SPDX-License-Identifier: Apache-2.0
// Indices, memory, barriers, warps and cp.async on a GPU: one instruction each.
#pragma once

#include "cuda/isa/types.hpp"

namespace dsv4::isa {
inline namespace device {

// ---- indices --------------------------------------------------------------------------------

DSV4_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
DSV4_DEVICE int lane() { return static_cast<int>(threadIdx.x & 31U); }
DSV4_DEVICE int warp() { return static_cast<int>(threadIdx.x >> 5); }
DSV4_DEVICE int threads() { return static_cast<int>(blockDim.x); }
DSV4_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
DSV4_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
DSV4_DEVICE int grid_x() { return static_cast<int>(gridDim.x); }

// The same word, of which the compiler knows nothing: what is made of it is made again where it is
// needed, and does not stay in a register until then.
DSV4_DEVICE std::uint32_t opaque(std::uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}

// ---- shared memory --------------------------------------------------------------------------

template <class T>
DSV4_DEVICE T* dynamic_shared() {
  extern __shared__ __align__(1024) std::uint8_t dsv4_dynamic_shared[];
  return reinterpret_cast<T*>(dsv4_dynamic_shared);
}
template <class T, int kId = 0>
DSV4_DEVICE T& static_shared() {
  __shared__ T object;
  return object;
}
DSV4_DEVICE std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// The bits of a value as machine words, and back.
template <class To, class From>
DSV4_DEVICE To recast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return *reinterpret_cast<const To*>(&from);
}

// One load or store, by the size of the type. clang-format off: the rows read as a table.
// clang-format off
#define DSV4_LOAD(T, INSTRUCTION, ADDRESS, CONSTRAINT)                                            \
  if constexpr (sizeof(T) == 16) {                                                                \
    Words4 v;                                                                                     \
    asm volatile(INSTRUCTION ".v4.b32 {%0,%1,%2,%3}, [%4];"                                       \
        : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : CONSTRAINT(ADDRESS) : "memory"); \
    return recast<T>(v);                                                                          \
  } else if constexpr (sizeof(T) == 8) {                                                          \
    Words2 v;                                                                                     \
    asm volatile(INSTRUCTION ".v2.b32 {%0,%1}, [%2];"                                             \
        : "=r"(v.w[0]), "=r"(v.w[1]) : CONSTRAINT(ADDRESS) : "memory");                           \
    return recast<T>(v);                                                                          \
  } else if constexpr (sizeof(T) == 4) {                                                          \
    std::uint32_t v;                                                                              \
    asm volatile(INSTRUCTION ".b32 %0, [%1];" : "=r"(v) : CONSTRAINT(ADDRESS) : "memory");        \
    return recast<T>(v);                                                                          \
  } else if constexpr (sizeof(T) == 2) {                                                          \
    std::uint16_t v;                                                                              \
    asm volatile(INSTRUCTION ".b16 %0, [%1];" : "=h"(v) : CONSTRAINT(ADDRESS) : "memory");        \
    return recast<T>(v);                                                                          \
  } else {                                                                                        \
    std::uint32_t v;                                                                              \
    asm volatile(INSTRUCTION ".u8 %0, [%1];" : "=r"(v) : CONSTRAINT(ADDRESS) : "memory");         \
    return recast<T>(static_cast<std::uint8_t>(v));                                               \
  }
#define DSV4_STORE(T, INSTRUCTION, ADDRESS, CONSTRAINT, VALUE)                                    \
  if constexpr (sizeof(T) == 16) {                                                                \
    const Words4 v = recast<Words4>(VALUE);                                                       \
    asm volatile(INSTRUCTION ".v4.b32 [%0], {%1,%2,%3,%4};"                                       \
        :: CONSTRAINT(ADDRESS), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3]) : "memory");   \
  } else if constexpr (sizeof(T) == 8) {                                                          \
    const Words2 v = recast<Words2>(VALUE);                                                       \
    asm volatile(INSTRUCTION ".v2.b32 [%0], {%1,%2};"                                             \
        :: CONSTRAINT(ADDRESS), "r"(v.w[0]), "r"(v.w[1]) : "memory");                             \
  } else if constexpr (sizeof(T) == 4) {                                                          \
    asm volatile(INSTRUCTION ".b32 [%0], %1;"                                                     \
        :: CONSTRAINT(ADDRESS), "r"(recast<std::uint32_t>(VALUE)) : "memory");                    \
  } else if constexpr (sizeof(T) == 2) {                                                          \
    asm volatile(INSTRUCTION ".b16 [%0], %1;"                                                     \
        :: CONSTRAINT(ADDRESS), "h"(recast<std::uint16_t>(VALUE)) : "memory");                    \
  } else {                                                                                        \
    asm volatile(INSTRUCTION ".u8 [%0], %1;"                                                      \
        :: CONSTRAINT(ADDRESS), "r"(static_cast<std::uint32_t>(recast<std::uint8_t>(VALUE)))      \
        : "memory");                                                                              \
  }
// clang-format on

// The value's type comes from the pointer alone.
template <class T>
struct Same {
  using Type = T;
};

template <class T>
DSV4_DEVICE T ld_shared(const T* p) {
  DSV4_LOAD(T, "ld.shared", shared_address(p), "r")
}
template <class T>
DSV4_DEVICE void st_shared(T* p, typename Same<T>::Type value) {
  DSV4_STORE(T, "st.shared", shared_address(p), "r", value)
}

// ---- global memory --------------------------------------------------------------------------

template <class T>
DSV4_DEVICE T ld_global(const T* p) {
  DSV4_LOAD(T, "ld.global", p, "l")
}
// Read once, by nobody else: not kept in L1.
template <class T>
DSV4_DEVICE T ld_stream(const T* p){DSV4_LOAD(T, "ld.global.L1::no_allocate", p, "l")}
// Into L2, for a load to come; no register waits for it.
DSV4_DEVICE void prefetch(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p) : "memory");
}
template <class T>
DSV4_DEVICE void st_global(T* p, typename Same<T>::Type value) {
  DSV4_STORE(T, "st.global", p, "l", value)
}
template <class T>
DSV4_DEVICE void st_stream(T* p, typename Same<T>::Type value){
    DSV4_STORE(T, "st.global.cs", p, "l", value)}

DSV4_DEVICE std::uint32_t atomic_add(std::uint32_t* p, std::uint32_t v) {
  std::uint32_t old;
  asm volatile("atom.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
  return old;
}
DSV4_DEVICE std::uint32_t atomic_max(std::uint32_t* p, std::uint32_t v) {
  std::uint32_t old;
  asm volatile("atom.global.max.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
  return old;
}
DSV4_DEVICE std::uint32_t atomic_add_shared(std::uint32_t* p, std::uint32_t v) {
  std::uint32_t old;
  asm volatile("atom.shared.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "r"(shared_address(p)), "r"(v)
               : "memory");
  return old;
}

// ---- barriers -------------------------------------------------------------------------------

DSV4_DEVICE void sync() { asm volatile("bar.sync 0;" ::: "memory"); }
template <int kNumber>
DSV4_DEVICE void barrier_sync(int count) {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "r"(count) : "memory");
}
template <int kNumber>
DSV4_DEVICE void barrier_arrive(int count) {
  asm volatile("bar.arrive %0, %1;" ::"n"(kNumber), "r"(count) : "memory");
}
DSV4_DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// ---- the warp -------------------------------------------------------------------------------

template <class T>
DSV4_DEVICE T shuffle(T v, int source) {
  std::uint32_t out;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;"
               : "=r"(out)
               : "r"(recast<std::uint32_t>(v)), "r"(source & 31));
  return recast<T>(out);
}
template <class T>
DSV4_DEVICE T shuffle_xor(T v, int mask) {
  std::uint32_t out;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;"
               : "=r"(out)
               : "r"(recast<std::uint32_t>(v)), "r"(mask));
  return recast<T>(out);
}
template <class T>
DSV4_DEVICE T shuffle_down(T v, int by) {
  std::uint32_t out;
  asm volatile("shfl.sync.down.b32 %0, %1, %2, 31, 0xffffffff;"
               : "=r"(out)
               : "r"(recast<std::uint32_t>(v)), "r"(by));
  return recast<T>(out);
}
DSV4_DEVICE std::uint32_t ballot(bool v) {
  std::uint32_t out;
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff; }"
               : "=r"(out)
               : "r"(static_cast<std::uint32_t>(v)));
  return out;
}
DSV4_DEVICE bool any(bool v) { return ballot(v) != 0; }
DSV4_DEVICE bool all(bool v) { return ballot(v) == 0xFFFFFFFFU; }

// ---- cp.async -------------------------------------------------------------------------------

template <int kBytes = 16>
DSV4_DEVICE void copy_async(void* to, const void* from, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const int take = valid ? kBytes : 0;  // the rest becomes zeros
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(take)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(from), "n"(kBytes), "r"(take)
                 : "memory");
  }
}
DSV4_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
DSV4_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace device
}  // namespace dsv4::isa
