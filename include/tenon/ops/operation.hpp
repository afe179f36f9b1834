// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What every operation is: a function object, reached by one call, with one implementation per device.
#include <utility>

#include <tenon/profile/recorder.hpp>

namespace tenon::ops {

/// The implementation of `Op` on `Device`: `static void run(context&, arguments...)`. No default: nothing works by
/// accident. `ops/host/` and, later, `ops/cuda/` specialise it.
template <class Op, class Device>
struct kernel_for;

/// There is an implementation of Op on the context's device for these arguments.
template <class Op, class Context, class... A>
concept Implemented = requires(Context& c, A const&... a) {
  kernel_for<Op, typename Context::device>::run(c, a...);
};

/// What a call of an operation does. Not inline: a program of many trainers may declare it `extern template` for its
/// arguments and compile each kernel once (examples/train_gpt/kernels.hpp).
template <class Op, class Context, class... A>
void run_kernel(Context& context, A const&... a) {
  profile::range r(context.profiler, Op::name, context.profiler ? Op::work(a...) : profile::work{});
  kernel_for<Op, typename Context::device>::run(context, a...);
}

/// Base of the function objects. `Derived` has `static constexpr char const* name` and
/// `static profile::work work(arguments const&...)`, the count of operations and bytes that a roofline needs.
template <class Derived>
struct operation {
  template <class Context, class... A>
    requires Implemented<Derived, Context, A...>
  void operator()(Context& context, A const&... a) const { run_kernel<Derived>(context, a...); }
};

}  // namespace tenon::ops
