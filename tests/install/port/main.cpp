// SPDX-License-Identifier: Apache-2.0
// port TRACE MODEL [shift]: judges a trace by the reference, or by a port of our own that reads
// every token id `shift` too high.
#include <cstdio>
#include <string>

#include "cli/reference_backend.hpp"
#include "conformance/report.hpp"
#include "conformance/runner.hpp"

using namespace dsv4;

class Port : public conformance::Backend {
 public:
  explicit Port(int shift) : shift_(shift) {}
  std::string_view name() const override { return "port"; }
  conformance::Support supports(const conformance::Case&) const override { return {}; }

  void run(const conformance::Case& request, Tap tap) override {
    conformance::Case shifted = request;
    const auto vocabulary = request.checkpoint->config().vocab_size;
    for (auto& id : shifted.ids) id = static_cast<std::int32_t>((id + shift_) % vocabulary);
    reference_->run(shifted, tap);
  }

 private:
  int shift_;
  std::unique_ptr<conformance::Backend> reference_ = cli::reference_backend();
};

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const golden::TraceFile trace(argv[1]);
  const Checkpoint checkpoint = Checkpoint::open(argv[2]);
  Port port(argc > 3 ? std::stoi(argv[3]) : 0);
  const conformance::Report report = conformance::verify(trace, checkpoint, port, {});
  const auto* first = report.first_difference();
  std::printf("first difference: %s\n", first ? first->tap.c_str() : "none");
  return report.exit_code();
}
