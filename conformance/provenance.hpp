// SPDX-License-Identifier: Apache-2.0
// Where each row of each stage comes from: the graph of core/taps.tsv (column `inputs`), followed
// row by row. It says from which taps of the trace a value was recomputed (its span), and whether
// anything it read was ours instead.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/config.hpp"
#include "core/taps.hpp"

namespace dsv4::conformance {

struct Origin {
  int span = 0;            // interned set of taps; 0 = {input_ids}
  bool single = true;      // every direct input is the trace's own
  bool inherited = false;  // read a value of ours although the trace exposes that tap in other rows
};

class Provenance {
 public:
  // `exposed` tells whether the trace has a tap of this name anywhere.
  Provenance(const ModelConfig& config, std::function<bool(const std::string&)> exposed);

  // Origin of row `key` (absolute position, or entry number) of a tap, from the rows it reads.
  Origin derive(const std::string& tap, std::int64_t key);
  // Records the row: the trace's own value stands there now, or ours with this origin.
  void mark_present(const std::string& tap, std::int64_t key);
  void mark_ours(const std::string& tap, std::int64_t key, const Origin& origin);
  // The experts' outputs of a token are in the trace (all of them): what `routed` reads.
  void mark_experts(const std::string& block, std::int64_t position, bool all_present);

  std::vector<std::string> span_names(int span) const;
  int merge(int a, int b);

 private:
  enum class Relation { same, window, visible, group, open, visited };
  struct Input {
    std::string tap;
    Relation relation;
  };
  struct Row {
    int span = 0;
    bool present = false;
    bool inherited = false;
    bool seen = false;
  };
  struct Node {
    std::vector<Input> inputs;
    std::int64_t ratio = 0;
    std::vector<Row> rows;
    std::vector<Row> prefix;  // union of rows[0 … i]; for `visible`
  };

  Node& node(const std::string& tap);
  void parse_inputs(const std::string& tap, Node& n) const;
  std::string stream_entering(const TapMatch& m) const;
  void read(Origin& origin, const Input& input, const std::string& reader, std::int64_t key);
  void read_row(Origin& origin, const Node& from, std::int64_t key);
  void read_visible(Origin& origin, Node& from, std::int64_t count);
  int intern(std::vector<int> set);
  int leaf(const std::string& tap);
  static Row& at(std::vector<Row>& rows, std::int64_t key);

  const ModelConfig& config_;
  std::function<bool(const std::string&)> exposed_;
  std::unordered_map<std::string, Node> nodes_;
  std::vector<std::string> names_;  // of leaves; 0 = input_ids
  std::map<std::string, int> leaf_ids_;
  std::vector<std::vector<int>> spans_;  // interned sets of leaves
  std::map<std::vector<int>, int> span_ids_;
  std::map<std::pair<int, int>, int> merged_;
};

}  // namespace dsv4::conformance
