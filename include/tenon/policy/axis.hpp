// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <concepts>
#include <type_traits>

namespace tenon {

// One tag per axis. A policy is a plain struct that names its axis: `using axis = precision_axis;`.
struct data_axis {};
struct zero_axis {};
struct tensor_axis {};
struct sequence_axis {};
struct context_axis {};
struct pipeline_axis {};
struct expert_axis {};
struct communicator_axis {};
struct device_axis {};
struct arithmetic_axis {};
struct precision_axis {};
struct layout_axis {};
struct kv_axis {};
struct memory_axis {};
struct optimizer_axis {};
struct batching_axis {};
struct preemption_axis {};

/// The axis of a policy: its member `axis`, or a specialisation for a class that lives on a higher floor.
template <class P>
struct axis_of {};
template <class P>
  requires requires { typename P::axis; }
struct axis_of<P> : std::type_identity<typename P::axis> {};

/// P answers the question that Axis asks.
template <class P, class Axis>
concept PolicyOn = std::same_as<typename axis_of<P>::type, Axis>;
/// A type that answers some axis.
template <class P>
concept Policy = requires {
  typename axis_of<P>::type;
};

}  // namespace tenon
