// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <tenon/parallel/schedule.hpp>

using namespace tenon;
using namespace tenon::parallel;

namespace {
constexpr int at_most(int n, int limit) { return n < limit ? n : limit; }

// The published figures, over the time that a rank computes, and the most activations that a rank keeps.
template <class S>
struct published;
template <>
struct published<gpipe> {
  static constexpr fraction bubble(int p, int m, schedule_costs) { return {p - 1, m}; }
  static constexpr int live(int, int, int m) { return m; }
};
template <>
struct published<one_f_one_b> {
  static constexpr fraction bubble(int p, int m, schedule_costs) { return {p - 1, m}; }
  static constexpr int live(int p, int r, int m) { return at_most(m, p - r); }
};
template <int V>
struct published<interleaved<V>> {
  static constexpr fraction bubble(int p, int m, schedule_costs) { return {p - 1, V * m}; }
  static constexpr int live(int p, int r, int m) { return at_most(V * m, (p - r - 1) * 2 + (V - 1) * p + 1); }
};
// The paper's (p - 1)(F + B - W), for W up to F and B. With fewer micro-batches than stages there are only m - 1 weight
// gradients to fill the end with.
template <>
struct published<zero_bubble> {
  static constexpr fraction bubble(int p, int m, schedule_costs c) {
    return {(p - 1) * (c.forward + c.input_backward) - (at_most(p, m) - 1) * c.weight_backward,
            m * (c.forward + c.input_backward + c.weight_backward)};
  }
  static constexpr int live(int p, int, int m) { return at_most(m, p); }
};

template <class S>
constexpr bool as_published(int p, int m, schedule_costs const& costs = {}) {
  auto const s = simulate<S>(p, m, costs);
  bool same = s.fault == schedule_fault::none && s.bubble() == published<S>::bubble(p, m, costs);
  for (int r = 0; r < p; ++r) same = same && s.live[std::size_t(r)] == published<S>::live(p, r, m);
  return same;
}

static_assert(check_schedule<gpipe, 4, 8>() && as_published<gpipe>(4, 8) && as_published<gpipe>(3, 2));
static_assert(check_schedule<one_f_one_b, 4, 8>() && as_published<one_f_one_b>(4, 8));
static_assert(as_published<one_f_one_b>(1, 3) && as_published<one_f_one_b>(5, 3) && as_published<one_f_one_b>(8, 16));
static_assert(check_schedule<interleaved<2>, 4, 8>() && as_published<interleaved<2>>(4, 8));
static_assert(as_published<interleaved<3>>(2, 4) && as_published<interleaved<2>>(1, 3));
static_assert(check_schedule<zero_bubble, 4, 8>() && as_published<zero_bubble>(4, 8));
static_assert(simulate<zero_bubble>(4, 8).bubble() == fraction{4 - 1, 3 * 8});  // a third of 1F1B's

// A schedule of one's own: a micro-batch goes all the way before the next one begins.
struct one_at_a_time {};
}  // namespace
template <>
struct tenon::parallel::schedule_for<one_at_a_time> {
  static constexpr int chunks = 1;
  static constexpr int multiple(int) { return 1; }
  static constexpr program make(int stages, int rank, int micro_batches) {
    program_builder p(stages, rank, chunks);
    for (int i = 0; i < micro_batches; ++i) {
      p.slot({{action::forward, i}});
      p.slot({{action::backward, i}});
    }
    return p.finish();
  }
};
static_assert(check_schedule<one_at_a_time, 4, 3>() && simulate<one_at_a_time>(4, 3).bubble() == fraction{4 - 1, 1});

namespace {
// 1F1B for two ranks and two micro-batches, broken on the last one (a deadlock needs both).
template <schedule_fault Fault>
struct broken {};
}  // namespace
template <schedule_fault Fault>
struct tenon::parallel::schedule_for<broken<Fault>> : schedule_for<one_f_one_b> {
  static constexpr program make(int stages, int rank, int micro_batches) {
    program p = schedule_for<one_f_one_b>::make(stages, rank, micro_batches);
    if (Fault == schedule_fault::deadlock) {
      instruction receive = p[3];
      receive.transfers.erase(receive.transfers.begin());
      p[3].transfers.pop_back();
      p.insert(p.begin() + 4, receive);
    }
    if (rank == 0) return p;
    switch (Fault) {
      case schedule_fault::unknown_index: p[0].transfers[0].peer = rank; break;
      case schedule_fault::runs_twice: p.push_back(p[1]); break;
      case schedule_fault::missing: p.resize(5, p[0]); break;
      case schedule_fault::backward_too_early: std::swap(p[1], p[2]); break;
      case schedule_fault::not_received: p.erase(p.begin()); break;
      case schedule_fault::sent_too_early: std::swap(p[2], p[3]); break;
      case schedule_fault::weight_order:
        p = schedule_for<zero_bubble>::make(stages, rank, micro_batches);
        std::swap(p[p.size() - 2], p.back());
        break;
      case schedule_fault::mismatch: p.back().transfers[0].micro_batch = 0; break;
      default: break;
    }
    return p;
  }
};

namespace {
template <schedule_fault Fault>
void check_broken(char const* sentence) {
  static_assert(simulate<broken<Fault>>(2, 2).fault == Fault);
  CHECK_THROWS_WITH_AS(check_schedule<broken<Fault>>(2, 2), doctest::Contains(sentence), argument_error);
}

template <class S>
void check_all() {
  for (int p = 1; p <= 8; ++p) {
    for (int m = 1; m <= 16; ++m) {
      if (m % schedule_for<S>::multiple(p) != 0) continue;
      CAPTURE(p);
      CAPTURE(m);
      for (auto const& costs : {schedule_costs{}, {1, 2, 0}, {2, 3, 1}, {3, 1, 1}}) CHECK(as_published<S>(p, m, costs));
      // Each output but the last stage's is sent and received, in both directions.
      auto const s = simulate<S>(p, m);
      int sum = 0;
      for (int n : s.transfers) sum += n;
      CHECK(sum == (p == 1 ? 0 : 4 * m * (p * schedule_for<S>::chunks - 1)));
      CHECK_NOTHROW(check_schedule<S>(p, m));
    }
  }
}
}  // namespace

TEST_CASE("every schedule ends, is complete and has the published bubble and activations") {
  SUBCASE("gpipe") { check_all<gpipe>(); }
  SUBCASE("one_f_one_b") { check_all<one_f_one_b>(); }
  SUBCASE("interleaved<2>") { check_all<interleaved<2>>(); }
  SUBCASE("interleaved<3>") { check_all<interleaved<3>>(); }
  SUBCASE("interleaved<4>") { check_all<interleaved<4>>(); }
  SUBCASE("zero_bubble") { check_all<zero_bubble>(); }
}
TEST_CASE("the program of a rank in the middle of 1F1B") {
  auto const p = make_program<one_f_one_b>(3, 1, 2);
  auto const is = [](transfer const& t, direction way, payload what, int peer, int micro_batch) {
    return t.way == way && t.what == what && t.peer == peer && t.micro_batch == micro_batch && t.chunk == 0;
  };
  REQUIRE(p.size() == 9);
  CHECK((p[1].what == action::forward && p[3].what == action::forward && p[5].what == action::backward));
  REQUIRE(p[4].what == action::exchange);
  REQUIRE(p[4].transfers.size() == 2);
  CHECK(is(p[4].transfers[0], direction::send, payload::activation, 2, 1));
  CHECK(is(p[4].transfers[1], direction::receive, payload::gradient, 2, 0));
}
TEST_CASE("each fault of a schedule is found and named") {
  check_broken<schedule_fault::unknown_index>("does not exist");
  check_broken<schedule_fault::runs_twice>("twice");
  check_broken<schedule_fault::missing>("forgets a forward or a backward");
  check_broken<schedule_fault::backward_too_early>("a backward before its forward");
  check_broken<schedule_fault::not_received>("whose input has not come");
  check_broken<schedule_fault::sent_too_early>("sends what has not been computed");
  check_broken<schedule_fault::weight_order>("in another order");
  check_broken<schedule_fault::mismatch>("something else than what the peer sends");
  check_broken<schedule_fault::deadlock>("never ends");
}
TEST_CASE("degrees that make no pipeline are refused") {
  CHECK_THROWS_WITH_AS(make_program<gpipe>(4, 4, 1), doctest::Contains("rank 4 of a pipeline of 4"), argument_error);
  CHECK_THROWS_WITH_AS(simulate<gpipe>(0, 1), doctest::Contains("rank 0 of a pipeline of 0"), argument_error);
  CHECK_THROWS_WITH_AS(make_program<gpipe>(4, 0, 0), doctest::Contains("0 micro-batches"), argument_error);
  CHECK_THROWS_WITH_AS(make_program<interleaved<2>>(4, 0, 6), doctest::Contains("multiples of 4"), argument_error);
}
