// SPDX-License-Identifier: Apache-2.0
// Unit roundoffs, the ceiling of fp64, and what storage in a coarser type adds.
#include "conformance/tolerance.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <string>

#include "core/error.hpp"

namespace dsv4::conformance {
namespace {

Precision precision(int bits, const std::string& dtype, bool integer = false) {
  golden::DatasetInfo d;
  d.bits = bits;
  d.dtype = dtype;
  d.integer = integer;
  return precision_of(d);
}

TEST(Tolerance, UnitRoundoffs) {
  EXPECT_EQ(unit_roundoff("fp64"), std::ldexp(1.0, -53));
  EXPECT_EQ(unit_roundoff("fp32"), std::ldexp(1.0, -24));
  EXPECT_EQ(unit_roundoff("fp16"), std::ldexp(1.0, -11));
  EXPECT_EQ(unit_roundoff("bf16"), std::ldexp(1.0, -8));
  EXPECT_EQ(unit_roundoff("int"), 0);
  EXPECT_THROW(unit_roundoff("fp7"), TraceError);
}

TEST(Tolerance, AnAttributeSaysHowValuesWereComputedElseTheStoredTypeDoes) {
  EXPECT_EQ(precision(64, "").unit, unit_roundoff("fp64"));
  EXPECT_EQ(precision(32, "").unit, unit_roundoff("fp32"));
  EXPECT_EQ(precision(16, "").unit, unit_roundoff("fp16"));
  EXPECT_EQ(precision(32, "bf16").unit, unit_roundoff("bf16"));
  EXPECT_EQ(precision(32, "", true).unit, 0);
  EXPECT_TRUE(precision(64, "").exact_ceiling);
  EXPECT_FALSE(precision(64, "fp32").exact_ceiling);
  EXPECT_FALSE(precision(32, "").exact_ceiling);
}

TEST(Tolerance, OnlyACoarserStorageAddsARounding) {
  EXPECT_EQ(precision(64, "fp64").store, 0);
  EXPECT_EQ(precision(64, "fp32").store, 0);
  EXPECT_EQ(precision(32, "bf16").store, 0);
  EXPECT_EQ(precision(32, "fp64").store, unit_roundoff("fp32"));
}

TEST(Tolerance, AStageIsHeldToItsRunningErrorAndInFp64ToTheCeiling) {
  const double units = unit_roundoff("fp64") + reference_roundoff();
  const Precision fp64 = precision(64, "fp64");
  EXPECT_EQ(stage_bound(fp64, 3, 100, 10), units * 3);
  EXPECT_EQ(stage_bound(fp64, 1e9, 100, 10), kCeiling * 10);
  EXPECT_EQ(stage_bound(fp64, 0, 100, 10), 0);
  const Precision fp32 = precision(32, "fp32");
  EXPECT_EQ(stage_bound(fp32, 1e9, 100, 10), (unit_roundoff("fp32") + reference_roundoff()) * 1e9);
}

TEST(Tolerance, NothingAddsUpInLessThanFloat32) {
  const Precision bf16 = precision(32, "bf16");
  EXPECT_TRUE(bf16.coarse());
  EXPECT_EQ(bf16.sums, unit_roundoff("fp32"));
  EXPECT_FALSE(precision(32, "fp32").coarse());
  EXPECT_EQ(precision(64, "fp64").sums, unit_roundoff("fp64"));
  // A product of 256 terms: its sum in float32, one rounding of it to BF16.
  const double sum = (unit_roundoff("fp32") + reference_roundoff()) * 256;
  EXPECT_DOUBLE_EQ(running_error(bf16, 256, 1.0 / 256), sum + unit_roundoff("bf16"));
  EXPECT_EQ(running_error(bf16, 0, 1), 0);  // a copy
  // Numbers that float16 cannot hold.
  const Precision fp16 = precision(16, "");
  EXPECT_GE(running_error(fp16, 1e-9, 1), std::ldexp(1.0, -25));
}

TEST(Tolerance, StepsOfEveryType) {
  EXPECT_EQ(spacing(unit_roundoff("bf16"), 1.5), std::ldexp(1.0, -7));
  EXPECT_EQ(spacing(unit_roundoff("bf16"), -5), std::ldexp(1.0, -5));
  EXPECT_EQ(spacing(unit_roundoff("fp16"), 1), std::ldexp(1.0, -10));
  EXPECT_EQ(spacing(unit_roundoff("fp16"), 1e-6), std::ldexp(1.0, -24));
  for (const double x : {1.0, 3.7, 1e-3})
    EXPECT_EQ(spacing(unit_roundoff("fp32"), x), spacing(Format::fp32, x));
}

TEST(Tolerance, StorageIsAddedToTheCeiling) {
  const Precision stored = precision(32, "fp64");
  EXPECT_EQ(stage_bound(stored, 0, -8, 10), 8 * unit_roundoff("fp32"));
  EXPECT_EQ(span_bound(stored, -8, 10), kCeiling * 10 + 8 * unit_roundoff("fp32"));
  EXPECT_EQ(span_bound(precision(64, "fp64"), -8, 10), kCeiling * 10);
}

}  // namespace
}  // namespace dsv4::conformance
