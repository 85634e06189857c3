// SPDX-License-Identifier: Apache-2.0
// conformance/bugs/kills.tsv is what the docs and the flags of cases are made of. Measuring all of
// it takes minutes, so some of its cells are measured again, kills and survivals alike.
#include <algorithm>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <sstream>

#include "mutants/kill.hpp"

namespace {

constexpr int kCells = 20;

using Table = std::map<std::string, std::set<std::string>>;  // case -> bugs that it kills

Table table() {
  std::ifstream file(std::string(DSV4_SOURCE_DIR) + "/conformance/bugs/kills.tsv");
  Table out;
  for (std::string line; std::getline(file, line);) {
    const auto tab = line.find('\t');
    std::istringstream ids(line.substr(tab + 1));
    auto& killed = out[line.substr(0, tab)];
    for (std::string id; std::getline(ids, id, ',');) killed.insert(id);
  }
  return out;
}

struct Cell {
  std::string name;
  std::size_t bug;
};

// `count` cells that the table says are kills, or that it says are not.
std::vector<Cell> sample(const Table& table, bool killed, int count, std::mt19937& random) {
  const auto& bugs = dsv4::bugs::catalogue();
  std::vector<Cell> cells;
  for (const auto& [name, ids] : table) {
    if (name.starts_with("official_") || name.starts_with("float32_")) continue;  // by ensembles
    for (std::size_t i = 0; i < bugs.size(); ++i) {
      if (dsv4::testing::measured(bugs[i], name) && ids.contains(bugs[i].id) == killed)
        cells.push_back({name, i});
    }
  }
  std::shuffle(cells.begin(), cells.end(), random);
  cells.resize(std::min(cells.size(), static_cast<std::size_t>(count)));
  return cells;
}

TEST(KillTable, SampledCellsAreAsTheyWereMeasured) {
  const Table all = table();
  dsv4::testing::Cases cases;
  std::mt19937 random(20);

  for (const bool killed : {true, false}) {
    for (const Cell& cell : sample(all, killed, kCells / 2, random)) {
      const std::size_t thrown[] = {cell.bug};
      const auto kill = dsv4::testing::kill(cases, thrown, cell.name);

      EXPECT_EQ(kill.killed, killed)
          << dsv4::bugs::catalogue()[cell.bug].id << " on " << cell.name << ": " << kill.detail
          << "\nmeasure again: build/tests/dsv4_bug_table --all > conformance/bugs/kills.tsv";
    }
  }
}

}  // namespace
