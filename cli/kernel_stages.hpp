// SPDX-License-Identifier: Apache-2.0
// Between the reference and whoever judges the trace: watches the values pass, and as soon as a
// stage's inputs are known, runs its kernel on them. cli/kernel_backend owns it for one run.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "cli/kernel_judge.hpp"
#include "conformance/backend.hpp"
#include "cuda/stages/stages.hpp"
#include "reference/block.hpp"
#include "reference/kv_cache.hpp"
#include "reference/mtp.hpp"

namespace dsv4::cli {

class KernelStages : public TapSink {
 public:
  KernelStages(TapSink& to, const conformance::Case& request, stages::Stages& kernels,
               std::vector<KernelResult>& results);

  void on_call(std::int64_t start, std::int64_t end) override;
  void on_value(TapEvent& event) override;
  void on_index(IndexEvent& event) override;
  bool wants(std::string_view name) const override { return to_.wants(name); }

 private:
  // A block of the model: its weights, its place, and what its compressors carry between calls.
  struct Place {
    std::string prefix;  // "layers.3"
    std::int64_t layer;
    reference::BlockWeights weights;
    Row frequencies;
    std::string streams;  // the tap that holds the streams entering it
    std::map<bool, reference::CompressorCache> caches;  // by: is it the indexer's
    std::map<bool, std::pair<stages::Floats, stages::Floats>> states;
  };

  void add_place(const std::string& prefix, std::int64_t layer, const std::string& streams);
  Place* place_of(const std::string& tap);
  void stage(const std::string& tap);
  void stage_in(Place& p, const std::string& leaf);
  const Mat& value(const std::string& tap) const;
  bool known(const std::string& tap) const { return values_.contains(tap); }

  void norm(const std::string& tap, const Mat& x, const Row& weight, std::string_view site);
  void mtp_norm(Place& p, const std::string& leaf);
  Mat quantised(const std::string& tap, const Mat& x);
  Mat product(const std::string& tap, const Mat& x, const Weight& w, std::string_view site);
  void linears(Place& p, const std::string& leaf);
  void grouped_output(Place& p);
  void expert(const std::string& stem, const std::string& out, const reference::ExpertWeights& w,
              const Mat& x, const Mat& weight);
  void shared_expert(Place& p);
  void routed_experts(Place& p);
  void mtp_projection(Place& p, const std::string& which);
  void mhc_before_attention(Place& p);
  void mhc_before_experts(Place& p);
  void mhc_at_the_end(Place& p);
  void run_mhc(Place* post, const std::string& sublayer, Place* pre, const std::string& next);
  void attention_inputs(Place& p);
  void compress(Place& p, bool indexing);
  void index_queries(Place& p);
  void gate(Place& p);

  TapSink& to_;
  const conformance::Case& request_;
  const ModelConfig& config_;
  std::vector<KernelResult>& results_;
  reference::Round round_;
  stages::Stages& kernels_;
  std::vector<Place> places_;
  std::map<std::string, Mat> values_;  // of this call, as they flow on
  std::set<std::string> covered_;      // taps that a kernel answered, of this call
  std::vector<std::string> seen_;      // taps of this call, in order
  void close_call();
  std::int64_t start_ = 0, end_ = 0;
  int call_ = -1;

 public:
  void finish() { close_call(); }
};

}  // namespace dsv4::cli
