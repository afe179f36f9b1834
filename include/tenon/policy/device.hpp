// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/policy/axis.hpp>

namespace tenon::device {
/// The processor this program runs on: SIMD kernels over a thread pool.
struct host {
  using axis = device_axis;
};
/// NVIDIA devices. The type is here; its kernels come with a later release, and a trainer that asks for it does not compile.
struct cuda {
  using axis = device_axis;
};
/// AMD devices. As `cuda`.
struct hip {
  using axis = device_axis;
};
static_assert(PolicyOn<host, device_axis> && PolicyOn<cuda, device_axis> && PolicyOn<hip, device_axis>);
}  // namespace tenon::device
