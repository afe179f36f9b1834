// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <vector>

#include <tenon/core/reduction_order.hpp>
#include <tenon/parallel/gradient_tree.hpp>

using namespace tenon;

namespace {
auto const add = [](float* sum, float const* other, index_t n) {
  for (index_t i = 0; i < n; ++i) sum[i] += other[i];
};
float value(index_t micro_batch) { return 1.0f / float(micro_batch + 3); }
float expected(index_t count) {
  tree<float> sum;
  auto const plus = [](float& a, float b) { a += b; };
  for (index_t m = 0; m < count; ++m) sum.push(value(m), plus);
  return sum.finish(plus);
}
void write(parallel::gradient_tree& sums, parallel::micro_batch_range r) {
  for (index_t m = r.first; m < r.first + r.count; ++m) {
    std::fill_n(sums.next(), 40, value(m));
    CHECK(sums.is_last() == (m + 1 == r.first + r.count));
    sums.close(0, 7, add);  // in any parts
    sums.close(7, 40, add);
    sums.close();
  }
}
}  // namespace

TEST_CASE("gradients of micro-batches are added in the tree over their index") {
  for (index_t count : {1, 2, 3, 4, 5, 6, 7, 8, 13}) {
    parallel::micro_batch_range const all{0, count, count};
    parallel::gradient_tree sums(40, all);
    for (int repeat = 0; repeat < 2; ++repeat) {  // the buffers serve every step
      write(sums, all);
      REQUIRE(sums.nodes().size() == 1);
      for (float v : std::span(sums.nodes()[0], 40)) CHECK(v == expected(count));
    }
  }
}

TEST_CASE("what several holders of micro-batches are left with are the nodes of the same tree") {
  for (index_t ranks : {2, 3, 4, 6, 8})
    for (index_t each : {1, 2, 3, 4, 5, 6, 8}) {
      std::vector<comm::tree_node> nodes;
      std::vector<float> values;
      for (index_t r = 0; r < ranks; ++r) {
        parallel::micro_batch_range const part{r * each, each, ranks * each};
        parallel::gradient_tree sums(40, part);
        write(sums, part);
        REQUIRE(sums.nodes().size() == sums.node_list().size());
        for (auto const n : sums.node_list()) nodes.push_back(n);
        for (auto const* node : sums.nodes()) values.push_back(node[39]);
        if ((each & (each - 1)) == 0) CHECK(sums.nodes().size() == 1);
      }
      std::vector<float const*> vectors;
      for (auto const& v : values) vectors.push_back(&v);
      float total = 0;
      comm::node_sum const sum(nodes);
      sum(&total, vectors, 1);
      CHECK(total == expected(ranks * each));
    }
}
