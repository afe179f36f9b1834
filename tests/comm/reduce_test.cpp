// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include <tenon/comm/reduce.hpp>

using namespace tenon;
using comm::canonical_nodes;
using comm::tree_node;

namespace {
auto const add = [](float& a, float b) { a += b; };
float leaf(index_t i) { return float(i % 5 ? 1.0 / double(i + 3) : 1e6 * double(i + 1)); }
// What a rank computes for one node: its leaves, by the tree.
float node_value(tree_node n, index_t total) {
  tree<float> sum;
  for (index_t i = n.index << n.level; i < std::min(total, (n.index + 1) << n.level); ++i) sum.push(leaf(i), add);
  return sum.finish(add);
}
}  // namespace

TEST_CASE("even_cuts: all of it, nearly even, on units") {
  for (std::size_t n : {0u, 1u, 15u, 16u, 17u, 1000u})
    for (int parts : {1, 2, 3, 8})
      for (std::size_t unit : {1u, 16u}) {
        auto const cuts = comm::even_cuts(n, parts, unit);
        CHECK(cuts.front() == 0);
        CHECK(cuts.back() == n);
        CHECK(cuts.size() == std::size_t(parts) + 1);
        for (std::size_t p = 0; p + 1 < cuts.size(); ++p) {
          CHECK(cuts[p] <= cuts[p + 1]);
          CHECK((cuts[p] % unit == 0 || cuts[p] == n));
          CHECK(cuts[p + 1] - cuts[p] <= n / std::size_t(parts) + 2 * unit);
        }
      }
}

TEST_CASE("canonical_nodes: few, in order, and node_sum adds them as the tree does") {
  CHECK(canonical_nodes(0, 8, 8) == std::vector<tree_node>{{3, 0}});
  CHECK(canonical_nodes(3, 8, 8) == std::vector<tree_node>{{0, 3}, {2, 1}});
  CHECK(canonical_nodes(4, 7, 7) == std::vector<tree_node>{{2, 1}});
  CHECK(canonical_nodes(2, 2, 8).empty());
  for (index_t total = 1; total <= 33; ++total) {
    tree<float> whole;
    for (index_t i = 0; i < total; ++i) whole.push(leaf(i), add);
    float const expected = whole.finish(add);
    // Every way to give three ranks a range each; some are empty.
    for (index_t a = 0; a <= total; ++a)
      for (index_t b = a; b <= total; ++b) {
        std::vector<tree_node> nodes;
        for (auto [first, last] : {std::pair(index_t(0), a), {a, b}, {b, total}})
          for (tree_node n : canonical_nodes(first, last, total)) nodes.push_back(n);
        std::vector<std::vector<float>> values;
        std::vector<float const*> pointers;
        std::size_t const length = 520;  // more than a stretch
        for (tree_node n : nodes) values.emplace_back(length, node_value(n, total));
        for (auto const& v : values) pointers.push_back(v.data());
        std::vector<float> out(length);
        comm::node_sum const sum(nodes);
        sum(out.data(), pointers, length);
        REQUIRE(std::memcmp(&out[0], &expected, sizeof expected) == 0);
        REQUIRE(out == std::vector<float>(length, out[0]));
      }
  }
}

TEST_CASE("node_sum: neighbours of one level that are no siblings each wait for their own") {
  float const values[] = {1, 1e8f, -1e8f};  // the order shows
  float const* const vectors[] = {&values[0], &values[1], &values[2]};
  float out = 0;
  comm::node_sum const sum(std::vector<tree_node>{{1, 1}, {1, 2}, {1, 3}});
  sum(&out, vectors, 1);
  CHECK(out == values[0] + (values[1] + values[2]));
  CHECK(out != (values[0] + values[1]) + values[2]);
}
