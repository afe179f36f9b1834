// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A complete trainer: a small GPT on the bytes of any text file.
//   minimal_trainer FILE [STEPS]
#include <cstdio>
#include <cstdlib>
#include <exception>

#include <tenon/train.hpp>

using model =
    tenon::models::gpt2<tenon::gpt2_config{.layers = 4, .width = 256, .heads = 4, .context = 128, .vocabulary = 256}>;
using trainer = tenon::trainer<model, tenon::optimizer::adamw, tenon::memory::keep>;

int main(int argc, char** argv) try {
  if (argc < 2) return std::fputs("usage: minimal_trainer FILE [STEPS]\n", stderr), 2;
  tenon::index_t const steps = argc > 2 ? std::atol(argv[2]) : 100;
  tenon::byte_corpus const text({argv[1]});
  trainer t{{.batch = 8, .learning_rate = 1e-3f, .schedule = {.warmup_steps = 10, .total_steps = steps}}};
  tenon::fit(t, text, {.steps = steps, .on_step = [](tenon::step_result const& r) {
                         std::printf("step %td  loss %.3f\n", r.step, r.loss);
                       }});
  std::printf("%s\n", tenon::generate_text(t, "The ", {.tokens = 200}).c_str());
} catch (std::exception const& e) {
  std::fprintf(stderr, "minimal_trainer: %s\n", e.what());
  return 1;
}
