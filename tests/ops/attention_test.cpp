// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <ref/attention.hpp>
#include <ref/values.hpp>
#include <tenon/core/philox.hpp>
#include <tenon/ops/host/attention.hpp>

namespace {

using tenon::index_t;
using tenon::matrix_view;
namespace ops = tenon::ops;

float const poison = std::numeric_limits<float>::quiet_NaN();

struct shape {
  std::vector<index_t> lengths;
  int query_heads = 1, kv_heads = 1, head_width = 8;
  bool causal = true;
  index_t window = 0;
  float soft_cap = 0;
  bool sinks = false;
  index_t query_leaf = 64;

  index_t tokens() const {
    index_t n = 0;
    for (auto l : lengths) n += l;
    return n;
  }
  std::vector<index_t> begins() const {
    std::vector<index_t> b{0};
    for (auto l : lengths) b.push_back(b.back() + l);
    return b;
  }
};

/// [-1, 1), as a T would hold them; the row of a token depends on `first + row` only.
template <class T>
std::vector<T> random_values(char const* name, index_t rows, index_t cols, index_t first = 0, float size = 1) {
  tenon::random_stream stream(7, name);
  std::vector<T> v;
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c)
      v.push_back(T(size * (2 * stream.uniform(std::uint64_t(first + r), std::uint64_t(c)) - 1)));
  return v;
}
/// Operands and results of one run. q, k, v are column blocks of one matrix, and so are dq, dk, dv: row strides are not
/// the widths. Between the blocks of dq, dk, dv lies one column that must stay as it was.
template <class T>
struct run {
  shape s;
  index_t wide, narrow;
  std::vector<T> qkv, out, d_out, d_qkv;
  std::vector<float> log_sum_exp, sinks, d_sinks;

  explicit run(shape const& given, index_t first = 0)
      : s(given), wide(s.query_heads * s.head_width), narrow(s.kv_heads * s.head_width) {
    index_t const n = s.tokens();
    qkv = random_values<T>("qkv", n, wide + 2 * narrow, first, 2);
    d_out = random_values<T>("d_out", n, wide, first);
    out.assign(std::size_t(n * wide), T(poison));
    d_qkv.assign(std::size_t(n * row_stride()), T(poison));
    log_sum_exp.assign(std::size_t(s.query_heads * n), poison);
    if (s.sinks) sinks = random_values<float>("sinks", 1, s.query_heads);
    d_sinks.assign(std::size_t(s.query_heads), 0.5f);
  }
  index_t row_stride() const { return wide + 2 * narrow + 3; }
  ops::attention_options options() const {
    return {s.query_heads, s.kv_heads, s.head_width, 0.4f, s.causal, s.window, s.soft_cap, s.query_leaf};
  }
  matrix_view<T const> q() const { return part(0, wide); }
  matrix_view<T const> k() const { return part(wide, narrow); }
  matrix_view<T const> v() const { return part(wide + narrow, narrow); }
  matrix_view<T> dq() { return d_part(0, wide); }
  matrix_view<T> dk() { return d_part(wide + 1, narrow); }
  matrix_view<T> dv() { return d_part(wide + narrow + 2, narrow); }

  void forward(tenon::exec::host_context& ctx) {
    auto const begins = s.begins();
    ops::attention_forward(
        ctx, ops::attention_forward_args<T>{q(), k(), v(), tenon::matrix(out.data(), s.tokens(), wide),
                                            tenon::matrix(log_sum_exp.data(), s.query_heads, s.tokens()), begins,
                                            options(), s.sinks ? sinks.data() : nullptr});
  }
  void backward(tenon::exec::host_context& ctx) {
    auto const begins = s.begins();
    index_t const n = s.tokens();
    ops::attention_backward(ctx, ops::attention_backward_args<T>{
                                     q(), k(), v(), tenon::matrix<T const>(out.data(), n, wide),
                                     tenon::matrix<float const>(log_sum_exp.data(), s.query_heads, n),
                                     tenon::matrix<T const>(d_out.data(), n, wide), dq(), dk(), dv(), begins, options(),
                                     s.sinks ? sinks.data() : nullptr, s.sinks ? d_sinks.data() : nullptr});
  }
  void both(int threads) {
    tenon::exec::host_context ctx(threads);
    forward(ctx);
    backward(ctx);
  }
  /// All results, for comparing bits.
  std::vector<std::vector<std::byte>> bits() const {
    auto const bytes = [](auto const& x) {
      std::vector<std::byte> b(x.size() * sizeof(x[0]));
      std::memcpy(b.data(), x.data(), b.size());
      return b;
    };
    return {bytes(out), bytes(log_sum_exp), bytes(d_qkv), bytes(d_sinks)};
  }

 private:
  matrix_view<T const> part(index_t first, index_t count) const {
    return tenon::columns_of(tenon::matrix<T const>(qkv.data(), s.tokens(), wide + 2 * narrow), first, count);
  }
  matrix_view<T> d_part(index_t first, index_t count) {
    return tenon::columns_of(tenon::matrix(d_qkv.data(), s.tokens(), row_stride()), first, count);
  }
};

template <class T>
std::vector<double> gathered(matrix_view<T> m) {
  std::vector<double> v;
  for (index_t r = 0; r < m.extent(0); ++r)
    for (index_t c = 0; c < m.extent(1); ++c) v.push_back(double(float(m(r, c))));
  return v;
}
template <class T>
ref::attention_problem reference_problem(run<T> const& r) {
  auto const o = r.options();
  return {r.s.begins(), o.query_heads,      o.kv_heads,
          o.head_width, double(o.scale),    o.causal,
          o.window,     double(o.soft_cap), r.s.sinks ? ref::as_double(r.sinks) : std::vector<double>{}};
}
template <class T>
void check_against_reference(shape const& s, double tolerance) {
  CAPTURE(s.tokens());
  CAPTURE(s.query_heads);
  CAPTURE(s.kv_heads);
  CAPTURE(s.head_width);
  CAPTURE(s.window);
  CAPTURE(s.soft_cap);
  CAPTURE(s.causal);
  CAPTURE(s.query_leaf);
  run<T> r(s);
  r.both(2);
  auto const problem = reference_problem(r);
  auto const q = gathered(r.q()), k = gathered(r.k()), v = gathered(r.v());
  auto const expected = ref::attention_forward(problem, q, k, v);
  CHECK(ref::error(ref::as_double(r.out), expected.out) < tolerance);
  CHECK(ref::error(ref::as_double(r.log_sum_exp), expected.log_sum_exp) < 1e-5);
  auto const g = ref::attention_backward(problem, q, k, v, ref::as_double(r.d_out));
  CHECK(ref::error(gathered(r.dq()), g.dq) < 2 * tolerance);
  CHECK(ref::error(gathered(r.dk()), g.dk) < 2 * tolerance);
  CHECK(ref::error(gathered(r.dv()), g.dv) < 2 * tolerance);
  if (s.sinks)
    for (int h = 0; h < s.query_heads; ++h) {
      double const want = 0.5 + g.d_sinks[std::size_t(h)];
      CHECK(std::abs(double(r.d_sinks[std::size_t(h)]) - want) < 4 * tolerance * (1 + std::abs(want)));
    }
  for (index_t t = 0; t < s.tokens(); ++t) {  // the columns between the gradients
    CHECK(std::isnan(float(r.d_qkv[std::size_t(t * r.row_stride() + r.wide)])));
    CHECK(std::isnan(float(r.d_qkv[std::size_t(t * r.row_stride() + r.wide + r.narrow + 1)])));
  }
}

}  // namespace

TEST_CASE("attention agrees with the float64 reference, both directions") {
  for (index_t length : {1, 7, 64, 65, 130})
    for (int head_width : {1, 5, 16, 24})
      for (bool causal : {true, false}) check_against_reference<float>({{length}, 2, 1, head_width, causal}, 1e-5);
  check_against_reference<float>({{200}, 3, 3, 64}, 1e-5);
  check_against_reference<float>({{70}, 1, 1, 80}, 1e-5);
  check_against_reference<float>({{67}, 4, 2, 128}, 1e-5);
}

TEST_CASE("attention over packed sequences") {
  check_against_reference<float>({{1, 64, 3, 130, 65, 2}, 4, 2, 8}, 1e-5);
  check_against_reference<float>({{5, 0, 100, 17}, 2, 2, 12, false}, 1e-5);
}

TEST_CASE("attention with a window, a soft cap, sinks, and all of them") {
  for (index_t window : {1, 5, 64, 70, 1000})
    for (bool causal : {true, false}) check_against_reference<float>({{150, 40}, 2, 1, 8, causal, window}, 1e-5);
  check_against_reference<float>({{150}, 2, 1, 8, true, 0, 1.5f}, 1e-5);
  check_against_reference<float>({{150, 3}, 4, 2, 8, true, 0, 0, true}, 1e-5);
  check_against_reference<float>({{150, 3}, 4, 2, 16, true, 33, 2.5f, true, 48}, 1e-5);
}

TEST_CASE("attention with leaves of any multiple of 16 queries") {
  for (index_t leaf : {16, 48, 80, 128, 1024})
    check_against_reference<float>({{300}, 2, 1, 16, true, 0, 0, false, leaf}, 1e-5);
}

TEST_CASE("attention in bf16 and fp16 computes in fp32 and rounds once") {
  check_against_reference<tenon::bf16>({{130, 7}, 4, 2, 16}, 0.01);
  check_against_reference<tenon::bf16>({{70}, 2, 1, 5, false}, 0.01);
  check_against_reference<tenon::fp16>({{130, 7}, 4, 2, 16, true, 50, 2.0f, true}, 0.002);
}

TEST_CASE("the reference's gradient is the central difference of its forward") {
  ref::attention_problem const problem{{0, 5, 12}, 4, 2, 3, 0.7, true, 4, 1.2, {0.1, -0.4, 0.9, 0.3}};
  auto q = ref::as_double(random_values<float>("q", 12, 12)), k = ref::as_double(random_values<float>("k", 12, 6));
  auto v = ref::as_double(random_values<float>("v", 12, 6)),
       d_out = ref::as_double(random_values<float>("d_out", 12, 12));
  auto const g = ref::attention_backward(problem, q, k, v, d_out);
  auto changed = problem;
  auto const objective = [&] {
    auto const out = ref::attention_forward(changed, q, k, v).out;
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
    return sum;
  };
  auto const check = [&](std::vector<double>& x, std::vector<double> const& gradient) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      double const before = x[i], step = 1e-5;
      x[i] = before + step;
      double const above = objective();
      x[i] = before - step;
      double const below = objective();
      x[i] = before;
      CHECK(gradient[i] == doctest::Approx((above - below) / (2 * step)).epsilon(1e-6));
    }
  };
  check(q, g.dq);
  check(k, g.dk);
  check(v, g.dv);
  check(changed.sinks, g.d_sinks);
}

TEST_CASE("attention's bits do not depend on threads, and not on the run") {
  auto const same = []<class T>(T, shape const& s) {
    run<T> first(s);
    first.both(1);
    for (int threads : {1, 2, 3}) {
      run<T> again(s);
      again.both(threads);
      CHECK(again.bits() == first.bits());
    }
  };
  same(0.0f, {{400, 130, 1}, 4, 2, 16, true, 0, 0, true, 80});
  same(0.0f, {{500}, 1, 1, 24});
  same(tenon::bf16(0.0f), {{300}, 2, 1, 16, false, 100});
  same(tenon::fp16(0.0f), {{200, 5}, 2, 2, 7, true, 0, 3.0f});
}

TEST_CASE("attention's bits of a sequence are the same alone and packed with others") {
  shape packed{{70, 131, 9, 200}, 4, 2, 24, true, 90, 0, true};
  run<float> all(packed);
  all.both(2);
  auto const begins = packed.begins();
  for (std::size_t i = 0; i < packed.lengths.size(); ++i) {
    shape alone = packed;
    alone.lengths = {packed.lengths[i]};
    run<float> one(alone, begins[i]);
    one.both(1);
    index_t const rows = alone.tokens(), first = begins[i];
    auto const same = [&](auto whole, auto part) {
      for (index_t r = 0; r < rows; ++r)
        CHECK(std::memcmp(&whole(first + r, 0), &part(r, 0), std::size_t(part.extent(1)) * sizeof(float)) == 0);
    };
    same(tenon::matrix(all.out.data(), all.s.tokens(), all.wide), tenon::matrix(one.out.data(), rows, one.wide));
    same(all.dq(), one.dq());
    same(all.dk(), one.dk());
    same(all.dv(), one.dv());
    for (int h = 0; h < packed.query_heads; ++h)
      for (index_t r = 0; r < rows; ++r)
        CHECK(all.log_sum_exp[std::size_t(h * all.s.tokens() + first + r)] ==
              one.log_sum_exp[std::size_t(h * rows + r)]);
  }
}

TEST_CASE("attention in parts of queries and keys has the bits of one call") {
  auto const same = []<class T>(T, shape const& s, index_t parts) {
    CAPTURE(s.head_width);
    CAPTURE(s.window);
    CAPTURE(parts);
    run<T> whole(s), cut(s);
    whole.both(2);
    tenon::exec::host_context ctx(2);
    index_t const length = s.lengths[0], rows = length / parts, width = 2 * cut.narrow;
    auto const o = cut.options();
    std::vector<float> d_keys(std::size_t(parts * length * width));  // [parts of queries][keys][width]
    for (index_t r = 0; r < parts; ++r) {
      auto const rows_here = [&](auto m) { return tenon::rows_of(m, r * rows, rows); };
      auto const out = rows_here(tenon::matrix(cut.out.data(), length, cut.wide));
      auto const d_out = rows_here(tenon::matrix<T const>(cut.d_out.data(), length, cut.wide));
      auto const lse = tenon::columns_of(tenon::matrix(cut.log_sum_exp.data(), s.query_heads, length), r * rows, rows);
      std::vector<float> forward(std::size_t(ops::attention_forward_carried(o, rows)), poison);
      std::vector<float> backward(std::size_t(ops::attention_backward_carried<T>(o, rows)), poison);
      // The beginning of all keys in two calls: chunks of keys need not be those of queries.
      std::vector<index_t> edges{0, 64};
      for (index_t j = 1; j <= parts; ++j) edges.push_back(j * rows);
      float const* const sinks = s.sinks ? cut.sinks.data() : nullptr;
      auto const each = [&](auto&& call) {
        for (std::size_t j = 0; j + 1 < edges.size(); ++j)
          call(
              edges[j], [&](auto m) { return tenon::rows_of(m, edges[j], edges[j + 1] - edges[j]); }, j == 0);
      };
      each([&](index_t key, auto keys, bool) {
        ops::attention_forward(ctx, ops::attention_forward_args<T>{rows_here(cut.q()),
                                                                   keys(cut.k()),
                                                                   keys(cut.v()),
                                                                   out,
                                                                   lse,
                                                                   {},
                                                                   o,
                                                                   sinks,
                                                                   {length, r * rows, key, forward.data()}});
      });
      each([&](index_t key, auto keys, bool first) {
        ops::attention_backward(ctx, ops::attention_backward_args<T>{
                                         rows_here(cut.q()),
                                         keys(cut.k()),
                                         keys(cut.v()),
                                         out,
                                         lse,
                                         d_out,
                                         rows_here(cut.dq()),
                                         {},
                                         {},
                                         {},
                                         o,
                                         sinks,
                                         s.sinks && first ? cut.d_sinks.data() : nullptr,
                                         {length, r * rows, key, backward.data()},
                                         keys(tenon::matrix(d_keys.data() + r * length * width, length, width))});
      });
    }
    for (index_t t = 0; t < length; ++t)
      for (index_t c = 0; c < width; ++c) {
        tenon::tree<float> sum;
        auto const add = [](float& a, float b) { a += b; };
        for (index_t r = 0; r < parts; ++r) sum.push(d_keys[std::size_t((r * length + t) * width + c)], add);
        (c < cut.narrow ? cut.dk()(t, c) : cut.dv()(t, c - cut.narrow)) = T(sum.finish(add));
      }
    auto const got = cut.bits(), expected = whole.bits();
    CHECK(got[0] == expected[0]);
    CHECK(got[1] == expected[1]);
    CHECK(got[2] == expected[2]);
    if (parts == 1) CHECK(got[3] == expected[3]);
  };
  for (index_t parts : {1, 2, 4}) {
    same(0.0f, {{512}, 4, 2, 16, true, 0, 0, false, 64}, parts);
    same(0.0f, {{512}, 2, 1, 20, true, 90, 1.5f, true, 64}, parts);
    same(tenon::bf16(0.0f), {{768}, 2, 2, 16, false, 200, 0, true, 192}, parts);
  }
  same(0.0f, {{300}, 2, 1, 16}, 1);
}

TEST_CASE("attention's rows do not depend on the rows after them") {
  // Under a causal mask a shorter sequence is a prefix: its rows share their tiles with fewer others.
  run<float> whole({{190}, 2, 1, 16});
  whole.both(1);
  for (index_t length : {1, 3, 64, 67, 150}) {
    run<float> prefix({{length}, 2, 1, 16});
    prefix.both(1);
    CHECK(std::memcmp(prefix.out.data(), whole.out.data(), prefix.out.size() * sizeof(float)) == 0);
    for (index_t r = 0; r < length; ++r)
      CHECK(std::memcmp(&prefix.dq()(r, 0), &whole.dq()(r, 0), std::size_t(prefix.wide) * sizeof(float)) == 0);
  }
}

TEST_CASE("attention's dk and dv are the fixed tree over the leaves of queries") {
  // With one-hot d_out and uniform p the sums are known exactly: leaves of 16 queries, 1 + 2^-24 is lost in a chain.
  run<float> r({{128}, 1, 1, 1, false, 0, 0, false, 16});
  for (index_t t = 0; t < 128; ++t) {
    r.qkv[std::size_t(t * 3)] = 0;  // all scores 0: p = 1/128
    r.d_out[std::size_t(t)] = t == 0 ? 128.0f : t % 16 == 0 ? 128.0f * 0x1p-24f : 0.0f;
  }
  r.both(2);
  // ((1 + e) + (e + e)) + ((e + e) + (e + e)) with e = 2^-24: 1 + e = 1, 1 + 2e exact, + 4e exact.
  for (index_t t = 0; t < 128; ++t) CHECK(r.dv()(t, 0) == 1.0f + 6 * 0x1p-24f);
}

TEST_CASE("attention with extreme scores") {
  run<float> r({{80}, 1, 1, 4, true, 0, 0, true});
  for (auto& x : r.qkv) x *= 30;  // scores up to thousands: one key takes all
  r.sinks[0] = -1e30f;
  r.both(1);
  auto const problem = reference_problem(r);
  auto const expected = ref::attention_forward(problem, gathered(r.q()), gathered(r.k()), gathered(r.v()));
  CHECK(ref::error(ref::as_double(r.out), expected.out) < 1e-3);
  for (auto x : gathered(r.dq())) CHECK(std::isfinite(x));
}

TEST_CASE("attention refuses shapes that do not fit") {
  tenon::exec::host_context ctx(1);
  auto const fails = [&](shape s) { CHECK_THROWS_AS(run<float>(s).forward(ctx), tenon::argument_error); };
  fails({{4}, 3, 2, 8});
  fails({{4}, 2, 1, 8, true, 0, 0, false, 20});
  fails({{4}, 2, 1, 8, true, -1});
  fails({{6, -2}, 2, 1, 8});
  auto const part_fails = [&](ops::attention_part part, index_t rows) {
    run<float> r({{rows}, 1, 1, 8});
    CHECK_THROWS_AS(
        ops::attention_forward(ctx, ops::attention_forward_args<float>{r.q(),
                                                                       r.k(),
                                                                       r.v(),
                                                                       tenon::matrix(r.out.data(), rows, 8),
                                                                       tenon::matrix(r.log_sum_exp.data(), 1, rows),
                                                                       {},
                                                                       r.options(),
                                                                       nullptr,
                                                                       part}),
        tenon::argument_error);
  };
  part_fails({.length = 128, .query = 65}, 64);
  part_fails({.length = 128, .key = 96}, 32);
  part_fails({.length = 128}, 32);
}

TEST_CASE("attention's memory is linear in the sequence, and taken once") {
  using device = tenon::device::host;
  auto const needed = [](index_t length) {
    index_t const begins[] = {0, length};
    tenon::bf16* const none = nullptr;
    ops::attention_backward_args<tenon::bf16> a{};
    a.q = tenon::matrix<tenon::bf16 const>(none, length, 32);
    a.sequence_begins = begins, a.options = {.query_heads = 4, .kv_heads = 1, .head_width = 8};
    ops::attention_forward_args<tenon::bf16> forward{};
    forward.q = a.q, forward.sequence_begins = begins, forward.options = a.options;
    return std::pair(ops::kernel_for<ops::attention_forward_t, device>::scratch_bytes(forward, 2),
                     ops::kernel_for<ops::attention_backward_t, device>::scratch_bytes(a, 2));
  };
  CHECK(needed(16384).first == needed(4096).first);
  CHECK(needed(32768).second - needed(16384).second <= 21 * (needed(16384).second - needed(8192).second) / 10);
  run<tenon::bf16> r({{1000}, 1, 1, 8});
  tenon::exec::host_context ctx(2);
  r.forward(ctx);
  r.backward(ctx);
  auto const once = ctx.scratch().system_allocations();
  r.forward(ctx);
  r.backward(ctx);
  CHECK(ctx.scratch().system_allocations() == once);
}

TEST_CASE("attention counts its visible pairs") {
  run<float> r({{10, 6}, 4, 2, 8, true, 3});
  auto const begins = r.s.begins();
  double const pairs = ((1 + 2 + 8 * 3) + (1 + 2 + 4 * 3)) * 4;
  ops::attention_forward_args<float> forward{};
  forward.options = r.options(), forward.sequence_begins = begins;
  CHECK(ops::attention_forward_t::work(forward).flops == pairs * 2 * 8 * 2);
  ops::attention_backward_args<float> backward{};
  backward.options = r.options(), backward.sequence_begins = begins;
  CHECK(ops::attention_backward_t::work(backward).flops == pairs * 2 * 8 * 5);
}

TEST_CASE("attention counts what each part of a sequence has to do") {
  index_t const length = 4096, parts = 4, rows = length / parts;
  double total = 0, most = 0;
  for (index_t r = 0; r < parts; ++r) {
    double of_rank = 0;
    for (index_t j = 0; j < parts; ++j) {
      ops::attention_forward_args<float> a{};
      a.q = a.k = tenon::matrix<float const>(nullptr, rows, 8);
      a.options.head_width = 8, a.part = {length, r * rows, j * rows};
      of_rank += ops::attention_forward_t::work(a).flops;
    }
    total += of_rank, most = std::max(most, of_rank);
  }
  CHECK(total == double(length) * (length + 1) / 2 * 2 * 8 * 2);
  CHECK(most / (total / double(parts)) == doctest::Approx(2 - 1.0 / double(parts)).epsilon(0.001));
}
