// SPDX-License-Identifier: Apache-2.0
// ldmatrix and mma.sync on a GPU.
#pragma once

#include "cuda/isa/device_core.hpp"

namespace dsv4::isa {
inline namespace device {

DSV4_DEVICE void ldmatrix(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DSV4_DEVICE void ldmatrix_trans(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DSV4_DEVICE void ldmatrix(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

#define DSV4_MMA(INSTRUCTION)                                                       \
  asm volatile(INSTRUCTION " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

DSV4_DEVICE void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                          std::uint32_t b1) {
  DSV4_MMA("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
}
// sm_89 and later.
DSV4_DEVICE void mma_e4m3(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                          std::uint32_t b1) {
  DSV4_MMA("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32");
}
DSV4_DEVICE void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                          std::uint32_t b1) {
  DSV4_MMA("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef DSV4_MMA

}  // namespace device
}  // namespace dsv4::isa
