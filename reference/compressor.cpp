// SPDX-License-Identifier: Apache-2.0
#include "reference/compressor.hpp"

#include "reference/error_bound.hpp"
#include "reference/hadamard.hpp"
#include "reference/linear.hpp"
#include "reference/rms_norm.hpp"
#include "reference/rope.hpp"

namespace dsv4::reference {
namespace {

struct Candidates {
  Mat kv;     // [slots, c]
  Mat score;  // [slots, c]
};

// What one entry pools. Without overlap: the group. With overlap: the FIRST halves of the previous
// group's channels (eq. 11, b) and the SECOND halves of the current group's (a). Before the first
// group there is nothing: score -inf.
Candidates candidates(const GroupState& state, std::int64_t ratio, Index c) {
  if (!ModelConfig::overlaps(ratio)) return {state.kv, state.score};
  Candidates pool{Mat(2 * ratio, c), Mat(2 * ratio, c)};
  pool.kv << state.kv.topLeftCorner(ratio, c), state.kv.bottomRightCorner(ratio, c);
  pool.score << state.score.topLeftCorner(ratio, c), state.score.bottomRightCorner(ratio, c);
  return pool;
}

// Softmax over the slots of each channel.
Mat slot_weights(const Mat& score) {
  const Mat e = (score.rowwise() - score.colwise().maxCoeff()).array().exp();
  return e.array().rowwise() / e.colwise().sum().array();
}

Row pooled_error(const Candidates& pool) {
  const Mat p = slot_weights(pool.score);
  const auto finite = (pool.score.array().abs() < std::numeric_limits<Real>::infinity());
  const Row worst = finite.select(pool.score.array().abs(), Real(0)).matrix().colwise().maxCoeff();
  const Row sum = p.cwiseProduct(pool.kv.cwiseAbs()).colwise().sum();
  return sum.array() * (2 * worst.array() + static_cast<Real>(2 * pool.kv.rows() + 6));
}

}  // namespace

// [docs:compress]
void compress(const ModelConfig& config, std::int64_t ratio, const CompressorWeights& w,
              const Row& frequencies, EntryUse use, const ConstMatRef& x, std::int64_t start,
              CompressorCache& cache, Tap tap, const Round& round) {
  const bool overlap = ModelConfig::overlaps(ratio);
  const Index s = x.rows();
  const Index c = w.norm.size();
  const std::int64_t first_entry = start / ratio;
  const Index entries = (start + s) / ratio - first_entry;
  GroupState& state = cache.state;
  tap.bind("w", w.wkv.rows).bind("e", entries).bind("c", c).bind("j", c).bind("b", state.kv.rows());
  const std::string axes = use == EntryUse::attention ? "[e,c]" : "[e,j]";

  const Mat kv = tap("kv_proj[s,w]", linear(x, w.wkv), [&] { return error::linear(x, w.wkv); });
  const Mat score =
      tap("score[s,w]", linear(x, w.wgate), [&] { return error::linear(x, w.wgate); });

  Mat pooled(entries, c);
  Mat pooled_errors(tap ? entries : 0, c);
  Index done = 0;
  for (Index i = 0; i < s; ++i) {
    const std::int64_t slot = (start + i) % ratio;
    const Index row = slot + (overlap ? ratio : 0);
    state.kv.row(row) = kv.row(i);
    state.score.row(row) = score.row(i) + w.ape.row(slot);
    if (slot != ratio - 1) continue;
    const Candidates pool = candidates(state, ratio, c);
    pooled.row(done) = slot_weights(pool.score).cwiseProduct(pool.kv).colwise().sum();
    if (tap) pooled_errors.row(done) = pooled_error(pool);
    ++done;
    if (overlap) {
      state.kv.topRows(ratio) = state.kv.bottomRows(ratio).eval();
      state.score.topRows(ratio) = state.score.bottomRows(ratio).eval();
    }
  }
  if (tap.wants("kv_state")) state.kv = tap("kv_state[b,w]", state.kv);
  if (tap.wants("score_state")) state.score = tap("score_state[b,w]", state.score);
  if (entries == 0) return;

  pooled = tap("pooled" + axes, std::move(pooled), [&] { return pooled_errors; });
  const Mat stored = round.bf16("compressor.pooled", pooled).value;
  const Mat normed = tap(
      "normed" + axes, round.bf16("compressor.normed", rms_norm(stored, w.norm, config.norm_eps)),
      [&] { return error::rms_norm(rms_norm(stored, w.norm, config.norm_eps), c); });
  // An entry stands at the first token of its group.
  const Positions at{first_entry * ratio, ratio};
  const Mat roped = tap(
      "roped" + axes,
      round.bf16("compressor.roped", rope(normed, 1, frequencies, at, Rotation::forward, round)),
      [&] { return error::rope(normed, 1, frequencies, at); });
  if (use == EntryUse::attention) {
    const Index plain = c - 2 * frequencies.size();  // rotated dims are not quantised
    cache.entries.append(tap("entry" + axes, round.e4m3("compressor.entry", roped, 64, plain)));
    return;
  }
  const Mat rotated = tap("rotated" + axes, round.bf16("compressor.rotated", hadamard(roped)),
                          [&] { return error::hadamard(roped, 1); });
  cache.entries.append(tap("entry" + axes, round.e2m1("indexer.compressor.entry", rotated)));
}
// [/docs:compress]

}  // namespace dsv4::reference
