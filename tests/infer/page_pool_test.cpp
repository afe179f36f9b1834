// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <vector>

#include <tenon/infer/page_pool.hpp>

namespace {
using namespace tenon;
using namespace tenon::infer;
}  // namespace

TEST_SUITE("page_pool") {
  TEST_CASE("pages are counted, and the one left longest ago is given up first") {
    std::mt19937 random(1);
    page_pool pool(7);
    std::vector<int> references(7), kept(7);
    std::deque<page_id> idle;
    int given_up = 0;
    for (int i = 0; i < 20000; ++i) {
      auto const p = page_id(random() % 7);
      auto& count = references[std::size_t(p)];
      switch (random() % 5) {
        case 0: {
          page_id forgotten = no_page;
          bool const has_free = std::count(references.begin(), references.end(), 0) > index_t(idle.size());
          page_id const taken = pool.take([&](page_id f) { forgotten = f; });
          if (taken == no_page) {
            CHECK((!has_free && idle.empty()));
            break;
          }
          CHECK(references[std::size_t(taken)] == 0);
          CHECK(forgotten == (has_free ? no_page : idle.front()));
          if (forgotten != no_page) idle.pop_front(), kept[std::size_t(forgotten)] = 0, ++given_up;
          references[std::size_t(taken)] = 1;
          break;
        }
        case 1:
          if (count == 0 && !kept[std::size_t(p)]) {
            CHECK_THROWS_AS(pool.share(p), error);
            break;
          }
          pool.share(p);
          if (count++ == 0) idle.erase(std::find(idle.begin(), idle.end(), p));
          break;
        case 2:
          if (count == 0) break;
          pool.keep(p);
          kept[std::size_t(p)] = 1;
          break;
        default:
          if (count == 0) {
            CHECK_THROWS_AS(pool.release(p), error);
            break;
          }
          pool.release(p);
          if (--count == 0 && kept[std::size_t(p)]) idle.push_back(p);
      }
      CHECK(pool.references(p) == references[std::size_t(p)]);
      CHECK(pool.is_writable(p) == (references[std::size_t(p)] == 1 && !kept[std::size_t(p)]));
      CHECK(pool.available() == std::count(references.begin(), references.end(), 0));
    }
    CHECK(given_up > 500);
  }
}
