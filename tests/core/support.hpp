// SPDX-License-Identifier: Apache-2.0
// What the tests of core/ share: a scratch directory, a small config, a small checkpoint to damage.
#pragma once

#include <filesystem>
#include <gtest/gtest.h>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/config.hpp"
#include "core/error.hpp"
#include "core/manifest.hpp"

namespace dsv4::testing {

// A directory of its own for each test, removed afterwards.
class ScratchDir {
 public:
  ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  ~ScratchDir();
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// The root config.json of a model with five small layers (window, HCA, CSA, HCA, CSA) and an MTP
// block.
nlohmann::json small_config();
// The same model as inference/config.json.
nlohmann::json small_inference_config();

// A checkpoint in memory: what a test changes before it writes it.
struct SmallCheckpoint {
  nlohmann::json config = small_config();
  std::vector<TensorSpec> tensors;                      // file order
  std::map<std::string, std::vector<std::byte>> bytes;  // by name

  SmallCheckpoint();
  TensorSpec& spec(const std::string& name);
  void erase(const std::string& name);
  void resize(const std::string& name, DType dtype, std::vector<std::int64_t> shape);
  // One file, or two shards with an index: the first half of the tensors, the second half.
  void write(const std::filesystem::path& dir, bool sharded = false) const;
};

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, std::string_view text);
// 8 bytes of length and the JSON of a safetensors header, then `data`.
std::string safetensors_bytes(const std::string& header, std::string_view data);

// Runs `action`, demands an E, and demands that its message (and hint) contain every fragment.
template <class E, class Action>
void expect_error(Action action, std::initializer_list<std::string_view> fragments) {
  try {
    action();
  } catch (const E& error) {
    const std::string text = std::string(error.what()) + "\nhint: " + error.hint();
    for (const std::string_view fragment : fragments) {
      EXPECT_NE(text.find(fragment), std::string::npos)
          << "missing: " << fragment << "\nin: " << text;
    }
    return;
  } catch (const std::exception& other) {
    FAIL() << "another type of error: " << other.what();
  }
  FAIL() << "no error";
}

}  // namespace dsv4::testing
