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

/// Base of the function objects. `Derived` has `static constexpr char const* name` and
/// `static profile::work work(arguments const&...)`, the count of operations and bytes that a roofline needs.
template <class Derived>
struct operation {
  template <class Context, class... A>
    requires Implemented<Derived, Context, A...>
  void operator()(Context& context, A const&... a) const {
    profile::range r(context.profiler, Derived::name, context.profiler ? Derived::work(a...) : profile::work{});
    kernel_for<Derived, typename Context::device>::run(context, a...);
  }
};

}  // namespace tenon::ops
