// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Who uses which page of a cache. Pages are numbers here; what they hold is kept elsewhere.
#include <cstdint>
#include <string>
#include <vector>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>

namespace tenon::infer {

using page_id = std::int32_t;
inline constexpr page_id no_page = -1;

/// Pages 0 .. n-1. A page is *free*, *used* by one or more sequences, or *idle*: used by nobody, but marked `kept`,
/// because what it holds may be wanted again. `take` gives free pages first, then the idle one that was left longest
/// ago. Every call takes constant time and no memory.
/// @test tests/infer/page_pool_test.cpp, tests/infer/scheduler_test.cpp
class page_pool {
 public:
  explicit page_pool(index_t pages = 0) : all(std::size_t(pages)) {
    for (page_id p = page_id(pages); p-- > 0;) put_back(p);
  }
  index_t size() const { return index_t(all.size()); }
  /// Pages that `take` can give.
  index_t available() const { return free_pages + idle_pages; }
  index_t references(page_id p) const { return all[std::size_t(p)].references; }
  bool is_kept(page_id p) const { return all[std::size_t(p)].kept; }
  /// May the one sequence that uses the page write into it? Otherwise it needs a copy first.
  bool is_writable(page_id p) const { return references(p) == 1 && !is_kept(p); }

  /// A page with one reference, or no_page. An idle page is not kept any more; `forget(page)` is told which one it was.
  template <class Forget>
  page_id take(Forget&& forget) {
    page_id p = first_free;
    if (p != no_page) {
      first_free = at(p).next;
      --free_pages;
    } else if ((p = first_idle) != no_page) {
      leave_idle(p);
      at(p).kept = false;
      forget(p);
    } else {
      return no_page;
    }
    at(p).references = 1;
    return p;
  }
  /// One more reference to a page that is used or idle.
  void share(page_id p) {
    if (references(p) == 0) {
      require(is_kept(p), p, "shared");
      leave_idle(p);
    }
    ++at(p).references;
  }
  /// One reference less; the last one makes the page idle or free.
  void release(page_id p) {
    require(references(p) > 0, p, "released");
    if (--at(p).references > 0) return;
    if (is_kept(p)) become_idle(p);
    else put_back(p);
  }
  /// What a used page holds is worth keeping.
  void keep(page_id p) {
    require(references(p) > 0, p, "kept");
    at(p).kept = true;
  }

 private:
  struct page {
    std::int32_t references = 0;
    page_id before = no_page, next = no_page;  ///< among free or idle pages
    bool kept = false;
  };
  page& at(page_id p) { return all[std::size_t(p)]; }
  void require(bool fits, page_id p, char const* what) const {
    if (!fits)
      throw error(errc::bad_argument, "tenon::infer::page_pool: page " + std::to_string(p) + " is " + what +
                                          " though nobody uses it. Fix: one release for every take and share.");
  }
  void put_back(page_id p) {
    at(p).next = first_free;
    first_free = p;
    ++free_pages;
  }
  void become_idle(page_id p) {
    at(p).before = last_idle, at(p).next = no_page;
    (last_idle == no_page ? first_idle : at(last_idle).next) = p;
    last_idle = p;
    ++idle_pages;
  }
  void leave_idle(page_id p) {
    (at(p).before == no_page ? first_idle : at(at(p).before).next) = at(p).next;
    (at(p).next == no_page ? last_idle : at(at(p).next).before) = at(p).before;
    --idle_pages;
  }

  std::vector<page> all;
  page_id first_free = no_page, first_idle = no_page, last_idle = no_page;
  index_t free_pages = 0, idle_pages = 0;
};

}  // namespace tenon::infer
