// SPDX-License-Identifier: Apache-2.0
#include "cli/reference_backend.hpp"

#include "reference/model.hpp"

namespace dsv4::cli {
namespace {

class ReferenceBackend : public conformance::Backend {
 public:
  std::string_view name() const override {
    return sizeof(Real) == sizeof(double) ? "reference" : "reference long double";
  }
  conformance::Support supports(const conformance::Case&) const override { return {}; }

  void run(const conformance::Case& request, Tap tap) override {
    // Loading is cheap (weights stay mapped), but an ensemble runs the same case many times.
    if (!model_ || loaded_ != request.checkpoint || last_layer_ != request.last_layer ||
        !same(request.numerics)) {
      model_ = std::make_unique<reference::Model>(*request.checkpoint, request.last_layer,
                                                  request.numerics);
      numerics_ = request.numerics;
      loaded_ = request.checkpoint;
      last_layer_ = request.last_layer;
    }
    reference::KvCache cache = model_->new_cache();
    for (const conformance::Call& call : request.calls) {
      reference::ForwardOptions options;
      options.mtp = request.mtp;
      options.first_layer = request.first_layer;
      options.last_layer = request.last_layer;
      options.logits_at = call.logits_at;
      options.perturbation = request.numerics.perturbation;
      if (request.streams) options.streams = request.streams(call);
      model_->forward(request.ids, call.end, cache, tap, options);
    }
  }

 private:
  bool same(const Numerics& n) const {
    return n.rounding == numerics_.rounding && n.arithmetic == numerics_.arithmetic;
  }

  std::unique_ptr<reference::Model> model_;
  const Checkpoint* loaded_ = nullptr;
  std::int64_t last_layer_ = -1;
  Numerics numerics_;
};

}  // namespace

std::unique_ptr<conformance::Backend> reference_backend() {
  return std::make_unique<ReferenceBackend>();
}

}  // namespace dsv4::cli
