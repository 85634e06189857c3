// SPDX-License-Identifier: Apache-2.0
// What diagnose leaves out of a run changes nothing: begun at the first block in which a bug acts,
// a run gives the same bits; a bug whose text is not reached gives those of no bug.
#include <filesystem>
#include <gtest/gtest.h>
#include <unistd.h>

#include "conformance/bugs/suspects.hpp"
#include "golden/trace_file.hpp"

namespace {

using namespace dsv4;
using namespace dsv4::bugs;

const std::filesystem::path kGolden = std::filesystem::path(DSV4_SOURCE_DIR) / "golden";

// A golden's ids and logits, in two calls, so that nothing stands between.
class Thin {
 public:
  explicit Thin(const std::string& golden)
      : path_(std::filesystem::temp_directory_path() /
              ("dsv4-screening-" + std::to_string(getpid()) + ".h5")) {
    const golden::TraceFile whole(kGolden / (golden + ".h5"));
    const std::vector<std::int32_t> ids(whole.input_ids().begin(), whole.input_ids().end());
    golden::TraceWriter writer(path_, whole.attributes(), ids);
    const std::vector<double> logits = whole.read(0, *whole.find(0, "logits"));
    const std::int64_t shape[] = {std::ssize(logits)};
    for (const std::int64_t start : {std::int64_t{0}, std::ssize(ids) - 1}) {
      writer.begin_call(start);
      writer.write("logits", shape, logits, {});
    }
    writer.commit();
    file_.emplace(path_);
  }
  ~Thin() { std::filesystem::remove(path_); }
  const golden::TraceFile& file() const { return *file_; }

 private:
  std::filesystem::path path_;
  std::optional<golden::TraceFile> file_;
};

TEST(Screening, BegunWhereABugActsARunGivesTheSameBits) {
  const Thin thin("tiny_prefill5");
  const Checkpoint checkpoint = Checkpoint::open(kGolden / "models" / "tiny");
  Reader reader(thin.file(), checkpoint, {});
  Extent all;
  all.only = "logits";
  History history;
  const Reading none = reader.read(*mutant({}), all, history);
  ASSERT_FALSE(none.kept.empty());
  int later = 0, never = 0;

  for (std::size_t bug = 0; bug < catalogue().size(); ++bug) {
    if (!catalogue()[bug].planted()) continue;
    const std::size_t thrown[] = {bug};
    const auto first = first_layer({bug}, history, 0);
    if (first && *first == 0) continue;  // it is run from the start
    const Reading whole = reader.read(*mutant(thrown), all);
    Reading shortened = none;
    if (first) {
      Extent rest = all;
      rest.first_layer = *first;
      rest.history = &history;
      shortened = reader.read(*mutant(thrown), rest);
    }
    ++(first ? later : never);

    EXPECT_EQ(whole.crashed, shortened.crashed) << catalogue()[bug].id;
    EXPECT_EQ(whole.kept, shortened.kept) << catalogue()[bug].id;
  }

  EXPECT_GT(later, 30);  // else this shows nothing
  EXPECT_GT(never, 10);
}

TEST(Screening, AReadingSurvivesItsJourney) {
  const Thin thin("tiny_prefill5");
  const Checkpoint checkpoint = Checkpoint::open(kGolden / "models" / "tiny");
  Reader reader(thin.file(), checkpoint, {});
  const Reading sent = reader.read(*mutant({}), {});

  const Reading got = unpacked(packed(sent));

  ASSERT_EQ(got.results.size(), sent.results.size());
  for (std::size_t i = 0; i < got.results.size(); ++i) {
    EXPECT_EQ(got.results[i].tap, sent.results[i].tap);
    EXPECT_EQ(got.results[i].error, sent.results[i].error);
    EXPECT_EQ(got.results[i].verdict, sent.results[i].verdict);
  }
  ASSERT_EQ(got.residuals.size(), sent.residuals.size());
  for (const auto& [place, r] : sent.residuals)
    EXPECT_EQ(got.residuals.at(place).squares, r.squares);
  EXPECT_EQ(got.kept, sent.kept);
  EXPECT_EQ(got.crashed, sent.crashed);
}

}  // namespace
