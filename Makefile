# SPDX-License-Identifier: Apache-2.0
# The commands of the README. Everything is built by CMake; this file only says how to call it.
JOBS ?= $(shell nproc)
CTEST_ARGS ?=

.PHONY: all setup build verify test bench format lint sanitize long-double precision formats gpu clean

all: build

setup:            ## install what is missing (apt packages, a Python environment for the tests)
	@scripts/setup.sh

build: setup      ## build/dsv4, the libraries and the tests
	@cmake --preset release > build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset release -j $(JOBS)

verify: build     ## every bundled golden against the reference
	@scripts/verify_goldens.sh build/dsv4

test: build       ## all tests
	@ctest --preset release -j $(JOBS) $(CTEST_ARGS)

bench: build      ## the benchmarks, with a table
	@cmake --build --preset release -j $(JOBS) --target benches
	@for program in build/benchmarks/*_bench; do [ ! -x "$$program" ] || "$$program" || exit 1; done

format:           ## clang-format all C++ sources in place
	@scripts/lint.sh --fix

gpu:              ## what only a GPU can confirm: isa, kernels, sanitizers, benchmarks (needs nvcc and a GPU)
	@scripts/gpu_check

lint: setup       ## clang-format, clang-tidy, and what grep can tell
	@scripts/lint.sh

sanitize: setup   ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@cmake --preset sanitize && cmake --build --preset sanitize -j $(JOBS)
	@ctest --preset sanitize -j $(JOBS) $(CTEST_ARGS)

long-double: setup ## build/dsv4-long-double: the same sources with Real = long double
	@cmake --preset release > build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset release -j $(JOBS) --target long-double

precision: long-double ## the reference's own rounding error, stage by stage
	@cmake --build --preset release -j $(JOBS) --target dsv4
	@scripts/precision.py

formats: setup    ## every float32 through the encoders and through CUDA's conversion headers (minutes; no GPU)
	@cmake --preset release > build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset release -j $(JOBS) --target check_formats
	@build/check_formats

clean:
	@rm -rf build build-debug build-sanitize build-tidy build-gpu
