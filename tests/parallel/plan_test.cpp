// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include <tenon/models/gpt2.hpp>
#include <tenon/parallel/mesh_search.hpp>

using namespace tenon;
using namespace tenon::parallel;

namespace {

nn::model_shape gpt(index_t layers, index_t width, index_t heads, index_t context = 2048, index_t vocabulary = 51200) {
  return models::gpt2<>::shape(
      {.layers = layers, .width = width, .heads = heads, .context = context, .vocabulary = vocabulary});
}
/// Weights and activations of two bytes, as in the papers.
strategy half(comm::mesh_shape mesh, index_t micro, index_t accumulate) {
  strategy s{.mesh = mesh, .value_bytes = 2, .micro = micro, .accumulate = accumulate, .sequence_length = 2048};
  return s;
}
/// Bytes of a parameter, of its gradient and of what an optimizer keeps.
struct per_parameter {
  double weight, gradient, optimizer;
};
/// Rajbhandari et al. 2020, arXiv:1910.02054, section 5: what a device holds of each parameter.
double zero_bytes(int stage, int devices, per_parameter const& b) {
  double const n = devices;
  return b.weight / (stage == 3 ? n : 1) + b.gradient / (stage >= 2 ? n : 1) + b.optimizer / (stage >= 1 ? n : 1);
}
bool near(double value, double published, double share) { return std::abs(value - published) <= share * published; }

}  // namespace

// Narayanan et al. 2021, arXiv:2104.04473, table 1: A100, vocabulary 51200, 2048 tokens, everything recomputed.
TEST_CASE("Megatron's table 1: parameters, operations and share of the peak") {
  struct row {
    double billions;
    int heads, width, layers, tensor, pipeline, devices, batch, teraflops, share;
  };
  row const table[] = {
      {1.7, 24, 2304, 24, 1, 1, 32, 512, 137, 44},          {3.6, 32, 3072, 30, 2, 1, 64, 512, 138, 44},
      {7.5, 32, 4096, 36, 4, 1, 128, 512, 142, 46},         {18.4, 48, 6144, 40, 8, 1, 256, 1024, 135, 43},
      {39.1, 64, 8192, 48, 8, 2, 512, 1536, 138, 44},       {76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140, 45},
      {145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148, 47},    {310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155, 50},
      {529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163, 52}, {1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163, 52}};
  for (auto const& r : table) {
    CAPTURE(r.billions);
    auto const m = gpt(r.layers, r.width, r.heads);
    double const h = r.width, l = r.layers, s = 2048, v = 51200, b = r.batch;
    double const parameters = 12 * l * h * h * (1 + 13 / (12 * h) + (v + s) / (12 * l * h));
    CHECK(std::abs(parameters / 1e9 - r.billions) <= 0.051);  // of which the paper prints one digit
    CHECK(near(double(m.parameters()), parameters, 1e-5));
    int const data = r.devices / (r.tensor * r.pipeline);
    double best = 0;
    for (index_t micro : {1, 2, 4, 8}) {  // the paper took the best and does not say which
      if (r.batch % (data * micro)) continue;
      auto how = half({.data = data, .tensor = r.tensor, .pipeline = r.pipeline}, micro, r.batch / data / micro);
      how.recompute = memory::recompute::whole_layers;
      published_flops const flops(m, how);
      CHECK(near(flops.hardware, 96 * b * s * l * h * h * (1 + s / (6 * h) + v / (16 * l * h)), 1e-12));
      auto const time = time_of(m, how, hw::a100_80gb);
      best = std::max(best, 100 * flops.hardware / (time.step * r.devices * hw::a100_80gb.flops));
    }
    MESSAGE(r.billions << "B: " << best << " %, published " << r.share);
    CHECK(std::abs(best - r.share) <= 5);
  }
}

// Korthikanti et al. 2022, arXiv:2205.05198, tables 3 and 5.
TEST_CASE("Korthikanti's activations, savings and iteration times") {
  auto const per_token = [](double a, double h, double s, int t, bool sp) {
    return published_activations(1, h, a, s, t, sp);
  };
  for (auto const& [heads, width, saved, more] :
       {std::tuple{96.0, 12288.0, 0.70, 0.027}, std::tuple{128.0, 20480.0, 0.65, 0.016}}) {
    auto const none = per_token(heads, width, 2048, 1, false);
    CHECK(none.rest == doctest::Approx(34 * width));
    CHECK(none.scores == doctest::Approx(5 * heads * 2048));
    CHECK(std::abs(none.scores / (none.rest + none.scores) - saved) < 0.005);
    // The products of attention's scores, counted once more as in table 2, over all others of a layer.
    auto how = half({}, 1, 1);
    auto const m = gpt(1, index_t(width), index_t(heads), 2048, 2);
    CHECK(std::abs(12 * 2048.0 * 2048 * width / published_flops(m, how).model - more) < 0.001);
    auto const cut = per_token(heads, width, 2048, 8, true), apart = per_token(heads, width, 2048, 8, false);
    CHECK(cut.rest == doctest::Approx(34 * width / 8));
    CHECK(apart.rest == doctest::Approx(width * (10 + 24.0 / 8)));
  }
  struct row {
    std::string name;
    int heads, width, layers, pipeline, batch, micro;
    schedule_functions schedule;
    double seconds, model_share;
  };
  row const table[] = {{"22B", 64, 6144, 48, 1, 4, 4, functions_of<one_f_one_b>, 1.10, 41.5},
                       {"175B", 96, 12288, 96, 8, 64, 1, functions_of<interleaved<3>>, 13.75, 51.4},
                       {"530B", 128, 20480, 105, 35, 280, 1, functions_of<interleaved<3>>, 37.83, 56.0},
                       {"1T", 160, 25600, 128, 64, 512, 1, functions_of<one_f_one_b>, 71.49, 56.3}};
  for (auto const& r : table) {
    auto const m = gpt(r.layers, r.width, r.heads);
    auto how = half({.tensor = 8, .pipeline = r.pipeline}, r.micro, r.batch / r.micro);
    how.sequence_parallel = true;
    how.recompute = memory::recompute::cheap_parts;
    how.schedule = r.schedule;
    auto const time = time_of(m, how, hw::a100_80gb);
    double const share = 100 * published_flops(m, how).model / (time.step * 8 * r.pipeline * hw::a100_80gb.flops);
    MESSAGE(r.name << ": " << time.step << " s, published " << r.seconds << "; " << share << " %, published "
                   << r.model_share);
    CHECK(near(time.step, r.seconds, 0.15));
    CHECK(std::abs(share - r.model_share) <= 6);
  }
}

// Table 1, in GB per device: two bytes for a weight, two for a gradient, twelve for the optimizer.
TEST_CASE("ZeRO's table 1") {
  struct row {
    int devices;
    double small[3], medium[3], large[3];
  };
  row const table[] = {
      {1, {120, 120, 120}, {2048, 2048, 2048}, {16000, 16000, 16000}},
      {4, {52.5, 41.3, 30}, {896, 704, 512}, {7000, 5500, 4000}},
      {16, {35.6, 21.6, 7.5}, {608, 368, 128}, {4750, 2875, 1000}},
      {64, {31.4, 16.6, 1.88}, {536, 284, 32}, {4187, 2218, 250}},
      {256, {30.4, 15.4, 0.47}, {518, 263, 8}, {4046, 2054, 62.5}},
      {1024, {30.1, 15.1, 0.12}, {513, 257, 2}, {4011, 2013, 15.6}},
  };
  for (auto const& r : table)
    for (int stage : {1, 2, 3}) {
      CAPTURE(r.devices);
      CAPTURE(stage);
      double const bytes = zero_bytes(stage, r.devices, {2, 2, 12});
      auto const check = [&](double billions, double published) {
        CHECK(std::abs(billions * bytes - published) <= std::max(0.006, 0.0051 * published));
      };
      check(7.5, r.small[stage - 1]), check(128, r.medium[stage - 1]), check(1000, r.large[stage - 1]);
    }
}

TEST_CASE("what a trainer holds follows the same law, with fp32 gradients, and no half weights beside their shares") {
  auto const m = gpt(24, 2048, 16);
  for (int devices : {4, 64})
    for (int stage : {0, 1, 2, 3}) {
      CAPTURE(devices);
      CAPTURE(stage);
      auto s = half({.data = devices}, 1, 1);
      s.zero = stage;
      auto const f = footprint_of(m, s);
      double const held = double(f.weights + f.gradients + f.optimizer);
      double const table = stage < 2 ? 4 * double(m.token_table().values()) : 0;  // its own gradient beside the head's
      per_parameter const ours = stage < 3 ? per_parameter{2, 4, 12} : per_parameter{4, 4, 8};
      CHECK(near(held - table, double(m.parameters()) * zero_bytes(stage, devices, ours), 0.06));
    }
}

TEST_CASE("bubbles are those of the schedules' programs") {
  auto const same = [](schedule_functions const& f, simulation const& found, int stages, int micro_batches) {
    strategy s{.mesh = {.pipeline = stages}, .schedule = f, .accumulate = micro_batches};
    auto const [idle, ideal] = found.bubble();
    CHECK(bubble_of(s) == doctest::Approx(double(idle) / double(ideal)));
  };
  for (int p : {2, 4, 8})
    for (int m : {8, 16, 64}) {
      CAPTURE(p);
      CAPTURE(m);
      same(functions_of<gpipe>, simulate<gpipe>(p, m), p, m);
      same(functions_of<one_f_one_b>, simulate<one_f_one_b>(p, m), p, m);
      same(functions_of<interleaved<2>>, simulate<interleaved<2>>(p, m), p, m);
      same(functions_of<interleaved<4>>, simulate<interleaved<4>>(p, m), p, m);
      same(functions_of<zero_bubble>, simulate<zero_bubble>(p, m), p, m);
    }
}
TEST_CASE("micro-batches under way are those of the schedules' programs") {
  for (int p : {2, 4, 8})
    for (int m : {8, 16})
      for (int r = 0; r < p; ++r) {
        CHECK(flights_of(make_program<one_f_one_b>(p, r, m), r, p, 1)[0] >=
              simulate<one_f_one_b>(p, m).live[std::size_t(r)]);
        CHECK(flights_of(make_program<gpipe>(p, r, m), r, p, 1)[0] == m);
      }
}

TEST_CASE("this host is measured, and shared among ranks") {
  auto const one = hw::measure_this_host(), two = hw::measure_this_host(2);
  CHECK(one.flops > 1e9);
  CHECK(one.memory_bandwidth > 1e8);
  CHECK(one.memory_bytes / 2 == two.memory_bytes);
  CHECK(two.node_devices == 2);
  CHECK(two.flops < 0.8 * one.flops);  // half of it, on a machine that others use too
}
