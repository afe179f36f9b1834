// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdio>
#include <optional>
#include <string>

#include <tenon/train/progress.hpp>

namespace {

struct step {
  tenon::index_t step;
  double loss, tokens_per_second, flops_per_second;
  std::optional<double> validation_loss{};
};
struct memory_stream {
  char* data = nullptr;
  std::size_t size = 0;
  std::FILE* file = ::open_memstream(&data, &size);
  ~memory_stream() {
    std::fclose(file);
    std::free(data);
  }
  std::string text() {
    std::fflush(file);
    return {data, size};
  }
};

}  // namespace

TEST_CASE("progress on a terminal is one line that is written over") {
  memory_stream out;
  {
    tenon::progress_line p(out.file, 300, 200e9, 5, true);
    p.update(step{1, 5.545, 12345, 150e9});
    CHECK(out.text() == "\rstep   1/300 [....................]  loss 5.545  12.3k tokens/s  75 % of peak");
    for (int s = 2; s < 300; ++s) p.update(step{s, 3, 9000, 150e9, s == 150 ? std::optional(2.5) : std::nullopt});
    p.update(step{300, 2.25, 9000, 150e9});
    p.finish();
    p.finish();
  }
  std::string const text = out.text();
  CHECK(text.find("\rstep 150/300 [##########..........]  loss 3.000  val 2.500") != std::string::npos);
  CHECK(text.find("0 s left") != std::string::npos);
  CHECK(text.find("\rstep 300/300 [####################]  loss 2.250  val 2.500  ") != std::string::npos);
  CHECK(text.back() == '\n');
  auto const last = text.rfind('\r'), before = text.rfind('\r', last - 1);
  CHECK(text.size() - 1 - last >= last - before);  // the longer line before is wiped
  CHECK(text.find('\n') == text.size() - 1);
}

TEST_CASE("progress elsewhere is whole lines: the first, evaluations, the last") {
  memory_stream out;
  {
    tenon::progress_line p(out.file, 3, 0, 1000, false);
    p.update(step{1, 5, 100, 1e9});
    p.update(step{2, 4, 100, 1e9});
    p.update(step{3, 3, 100, 1e9, 3.5});
  }
  CHECK(out.text() == "step 1/3  loss 5.000  100 tokens/s\nstep 3/3  loss 3.000  val 3.500  100 tokens/s\n");
}

TEST_CASE("progress writes times and counts as people do") {
  using tenon::train::count_text, tenon::train::duration_text;
  CHECK(duration_text(0.2) == "0 s");
  CHECK(duration_text(59.4) == "59 s");
  CHECK(duration_text(60) == "1:00");
  CHECK(duration_text(3599) == "59:59");
  CHECK(duration_text(3600 * 30 + 61) == "30:01:01");
  CHECK(duration_text(-1) == "?");
  CHECK(count_text(999) == "999");
  CHECK(count_text(12345) == "12.3k");
  CHECK(count_text(4560000) == "4.56M");
}
