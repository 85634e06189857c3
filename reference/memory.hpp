// SPDX-License-Identifier: Apache-2.0
// What a program that runs the model should tell the allocator.
#pragma once

#include <cstdlib>  // defines __GLIBC__
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace dsv4::reference {

// A layer's activations are matrices of up to hundreds of megabytes that live for milliseconds. By
// default glibc maps each from the system and hands it back, and the page faults cost a quarter of
// a product; here freed memory stays for the next matrix. Call it first thing in main().
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

}  // namespace dsv4::reference
