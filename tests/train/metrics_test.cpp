// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include <io/scratch_folder.hpp>
#include <tenon/train/metrics.hpp>

TEST_CASE("metrics: a step is one line, and its numbers read back as the same") {
  scratch_folder const folder;
  auto const file = folder / "run/metrics.jsonl";
  {
    tenon::metrics_writer w(file, 0);
    w.write(tenon::step_metrics{1, 5.5, 1e-3, 0.1 + 0.2, 1234.5, {}});
    CHECK(folder.read("run/metrics.jsonl") ==
          "{\"step\":1,\"loss\":5.5,\"learning_rate\":0.001,\"grad_norm\":0.30000000000000004,\"tokens_per_second\":"
          "1234.5}\n");
    w.write(tenon::step_metrics{2, std::nan(""), 5e-324, 1.7976931348623157e308, 0, 4.25});
    struct other_type {  // what fit hands over
      long step;
      double loss, grad_norm;
      float learning_rate;
      double tokens_per_second;
      std::optional<double> validation_loss;
    };
    w.write(other_type{3, 1, 2, 0.5f, 4, 5.0});
  }
  auto const all = tenon::read_metrics(file);
  REQUIRE(all.size() == 3);
  CHECK(all[0].step == 1);
  CHECK(all[0].grad_norm == 0.1 + 0.2);
  CHECK_FALSE(all[0].validation_loss);
  CHECK(std::isnan(all[1].loss));
  CHECK(all[1].learning_rate == 5e-324);
  CHECK(all[1].grad_norm == std::numeric_limits<double>::max());
  CHECK(all[1].validation_loss.value() == 4.25);
  CHECK(all[2].learning_rate == 0.5);
}

TEST_CASE("metrics: resuming drops what came after the checkpoint, and a half line") {
  scratch_folder const folder;
  auto const file = folder / "metrics.jsonl";
  {
    tenon::metrics_writer w(file, 0);
    for (int s = 1; s <= 10; ++s) w.write(tenon::step_metrics{s, 1.0 / s, 0.1 / 3, 2, 100, {}});
  }
  std::string const whole = folder.read("metrics.jsonl");
  folder.write("metrics.jsonl", whole + "{\"step\":11,\"lo");
  {
    tenon::metrics_writer w(file, 7);
    CHECK(tenon::read_metrics(file).size() == 7);
    for (int s = 8; s <= 10; ++s) w.write(tenon::step_metrics{s, 1.0 / s, 0.1 / 3, 2, 100, {}});
  }
  CHECK(folder.read("metrics.jsonl") == whole);
  { tenon::metrics_writer w(file, 0); }
  CHECK(folder.read("metrics.jsonl").empty());
  { tenon::metrics_writer w(folder / "new.jsonl", 5); }  // resumed where no metrics were: begins a file
  CHECK(folder.read("new.jsonl").empty());
  CHECK(folder.count() == 2);
}

TEST_CASE("metrics: what is not a metrics file is refused and left as it is") {
  scratch_folder const folder;
  for (std::string const content : {"hello\n", "{\"step\":1}\n\n", "{\"step\":-1}\n", "{\"step\":\"1\"}\n",
                                    "{\"loss\":1}\n", "{\"step\":1,\"loss\":x}\n", "{\"step\":1e300}\n", "{\n"}) {
    folder.write("a", content);
    std::string const m = message_of([&] { tenon::metrics_writer w(folder / "a", 3); });
    CAPTURE(content);
    CHECK(is_one_sentence(m));
    CHECK(m.find("line ") != std::string::npos);
    CHECK(folder.read("a") == content);
  }
  CHECK(is_one_sentence(message_of([&] { tenon::read_metrics(folder / "gone"); })));
  CHECK(is_one_sentence(message_of([&] { tenon::metrics_writer w(folder / "a/b/metrics.jsonl", 0); })));
}
