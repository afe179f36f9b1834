// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Policies in any order become one set with a default per axis; two on one axis, or a pair that cannot work
/// together, do not compile, and the message says why in one sentence.
#include <tenon/policy/arithmetic.hpp>
#include <tenon/policy/communicator.hpp>
#include <tenon/policy/device.hpp>
#include <tenon/policy/layout.hpp>
#include <tenon/policy/memory.hpp>
#include <tenon/policy/optimizer.hpp>
#include <tenon/policy/parallel.hpp>
#include <tenon/policy/precision.hpp>

namespace tenon {
namespace detail {

template <class Axis, class... Ps>
inline constexpr int policies_on = (0 + ... + int(PolicyOn<Ps, Axis>));

template <class Axis, class Default, class... Ps>
struct select_policy : std::type_identity<Default> {};
template <class Axis, class Default, class P, class... Ps>
struct select_policy<Axis, Default, P, Ps...>
    : std::conditional_t<PolicyOn<P, Axis>, std::type_identity<P>, select_policy<Axis, Default, Ps...>> {};

template <class P>
inline constexpr bool is_interleaved = false;
template <int V>
inline constexpr bool is_interleaved<interleaved<V>> = true;
// 1, 2, 4 or 8, or not known yet: how sums in up to 8 leaves can be cut (core/reduction_order.hpp).
constexpr bool cuts_leaves(index_t degree) {
  return degree == dynamic || degree == 1 || degree == 2 || degree == 4 || degree == 8;
}
template <class P>
inline constexpr bool is_tiled = false;
template <int R, int C>
inline constexpr bool is_tiled<layout::tiled<R, C>> = true;

}  // namespace detail

/// The set of policies `Ps`, one member type per axis.
template <class... Ps>
struct policies {
  using data = typename detail::select_policy<data_axis, tenon::data<1>, Ps...>::type;
  using zero = typename detail::select_policy<zero_axis, tenon::zero<0>, Ps...>::type;
  using tensor = typename detail::select_policy<tensor_axis, tenon::tensor<1>, Ps...>::type;
  using sequence = typename detail::select_policy<sequence_axis, void, Ps...>::type;
  using context = typename detail::select_policy<context_axis, tenon::context<1>, Ps...>::type;
  using pipeline = typename detail::select_policy<pipeline_axis, tenon::pipeline<1>, Ps...>::type;
  using expert = typename detail::select_policy<expert_axis, tenon::expert<1>, Ps...>::type;
  using communicator = typename detail::select_policy<communicator_axis, comm::self, Ps...>::type;
  using device = typename detail::select_policy<device_axis, tenon::device::host, Ps...>::type;
  using arithmetic = typename detail::select_policy<arithmetic_axis, tenon::arithmetic::bitwise, Ps...>::type;
  using precision = typename detail::select_policy<precision_axis, tenon::precision::fp32, Ps...>::type;
  using layout = typename detail::select_policy<layout_axis, tenon::layout::row_major, Ps...>::type;
  using memory = typename detail::select_policy<memory_axis, tenon::memory::keep, Ps...>::type;
  using optimizer = typename detail::select_policy<optimizer_axis, tenon::optimizer::adamw, Ps...>::type;

  /// Ranks of the mesh, or `dynamic`.
  static constexpr index_t mesh_size() { return product(replicas(), tensor::degree, pipeline::degree); }
  /// Ranks that hold the same weights, but for experts; or `dynamic`.
  static constexpr index_t replicas() { return product(data::degree, expert::degree, context::degree); }

 private:
  static constexpr index_t product(index_t a, index_t b, index_t c) {
    return a == dynamic || b == dynamic || c == dynamic ? dynamic : a * b * c;
  }
};

/// Every rule that policies alone can break. Called by the outermost type, so that a mistake is one error.
template <class... Ps>
consteval bool check_policies() {
  using detail::policies_on;
  static_assert((Policy<Ps> && ...),
                "tenon::policies: a type in the list is no policy, it names no axis. "
                "Fix: write policies such as tenon::data<2> or tenon::precision::bf16_mixed.");
  if constexpr ((Policy<Ps> && ...)) {
#define TENON_ONE_POLICY_ON(axis, example)                    \
  static_assert(policies_on<axis##_axis, Ps...> <= 1,         \
                "tenon::policies: two policies on the " #axis \
                " axis; a run has one. Fix: keep one of them, e.g. " example ".")
    TENON_ONE_POLICY_ON(data, "tenon::data<2>");
    TENON_ONE_POLICY_ON(zero, "tenon::zero<1>");
    TENON_ONE_POLICY_ON(tensor, "tenon::tensor<2>");
    TENON_ONE_POLICY_ON(sequence, "tenon::sequence_parallel");
    TENON_ONE_POLICY_ON(context, "tenon::context<2>");
    TENON_ONE_POLICY_ON(pipeline, "tenon::pipeline<2>");
    TENON_ONE_POLICY_ON(expert, "tenon::expert<2>");
    TENON_ONE_POLICY_ON(communicator, "tenon::comm::mpi");
    TENON_ONE_POLICY_ON(device, "tenon::device::host");
    TENON_ONE_POLICY_ON(arithmetic, "tenon::arithmetic::bitwise");
    TENON_ONE_POLICY_ON(precision, "tenon::precision::bf16_mixed");
    TENON_ONE_POLICY_ON(layout, "tenon::layout::row_major");
    TENON_ONE_POLICY_ON(memory, "tenon::memory::recompute_selective");
    TENON_ONE_POLICY_ON(optimizer, "tenon::optimizer::adamw");
#undef TENON_ONE_POLICY_ON
    using set = policies<Ps...>;
    static_assert(set::mesh_size() == 1 || !std::same_as<typename set::communicator, comm::self>,
                  "tenon::policies: the mesh has more than one rank but comm::self has one. "
                  "Fix: add tenon::comm::threads, tenon::comm::mpi or tenon::comm::nccl.");
    static_assert(set::zero::stage == 0 || set::data::degree != 1,
                  "tenon::policies: zero<1..3> with data<1>; ZeRO shares state out between data-parallel ranks and "
                  "there is one. Fix: data<2> or more, or drop zero.");
    static_assert(std::is_void_v<typename set::sequence> || set::tensor::degree != 1,
                  "tenon::policies: sequence_parallel with tensor<1>; it cuts the sequence over the tensor ranks and "
                  "there is one. Fix: tensor<2> or more, or drop sequence_parallel.");
    static_assert(
        set::tensor::degree == 1 || !std::same_as<typename set::arithmetic, arithmetic::fast>,
        "tenon::policies: tensor with arithmetic::fast; its sums are single chains, which ranks cannot share. "
        "Fix: drop arithmetic::fast, bitwise is the default.");
    static_assert(set::tensor::degree == 1 || !std::same_as<typename set::optimizer, optimizer::muon>,
                  "tenon::policies: optimizer::muon with tensor; it updates whole matrices and each rank has a part. "
                  "Fix: optimizer::adamw, or data parallelism with zero.");
    static_assert(set::zero::stage < 2 || set::pipeline::degree == 1,
                  "tenon::policies: zero<2> or zero<3> with pipeline; every micro-batch would gather and scatter the "
                  "gradients again. Fix: zero<1> with pipeline, or zero<2..3> without it.");
    static_assert(
        detail::cuts_leaves(set::tensor::degree),
        "tenon::policies: tensor<N> with an N that is not 1, 2, 4 or 8; features are summed in up to 8 leaves, "
        "of which each rank takes as many. Fix: tensor<1>, <2>, <4> or <8>, and data<N> for other factors.");
    static_assert(std::same_as<typename set::arithmetic, arithmetic::fast> || detail::cuts_leaves(set::context::degree),
                  "tenon::policies: context<N> with an N that is not 1, 2, 4 or 8; sequences are summed in up to 8 "
                  "leaves, of which each rank takes as many. Fix: context<1>, <2>, <4> or <8>, and data<N> for other "
                  "factors.");
    static_assert(std::same_as<typename set::arithmetic, arithmetic::fast> ||
                      !std::same_as<typename set::context::exchange, all_gather> ||
                      2 * set::context::degree <= reduction_order::sequence_leaves,
                  "tenon::policies: context<N, all_gather> with more than 4 ranks; each takes two of the 8 leaves of a "
                  "sequence, or more. Fix: context<2> or <4>, or ring or all_to_all in place of all_gather.");
    static_assert(!detail::is_interleaved<typename set::pipeline::schedule> || set::pipeline::degree != 1,
                  "tenon::policies: interleaved<V> with pipeline<1>; it has nothing to overlap on one rank. "
                  "Fix: pipeline<2, interleaved<V>> or more, or drop the pipeline.");
    static_assert(set::zero::sharding::group == 1 || set::zero::stage > 0,
                  "tenon::policies: zero<0, hybrid<M>>; stage 0 has no shards that could stay in groups of M ranks. "
                  "Fix: zero<3, hybrid<M>>, or drop zero.");
    constexpr index_t replicas = set::replicas();
    static_assert(replicas == dynamic || replicas % set::zero::sharding::group == 0,
                  "tenon::policies: hybrid<M> with an M that does not divide data x expert x context; the ranks do not "
                  "make up whole groups. Fix: an M that divides.");
    static_assert(
        !std::same_as<typename set::communicator, comm::nccl> || std::same_as<typename set::device, device::cuda>,
        "tenon::policies: comm::nccl without device::cuda; NCCL moves device memory only. "
        "Fix: add tenon::device::cuda, or use comm::threads or comm::mpi.");
    static_assert(!std::same_as<typename set::precision, precision::fp8_hybrid> ||
                      !std::same_as<typename set::device, device::host>,
                  "tenon::policies: precision::fp8_hybrid on device::host; processors have no FP8 products. "
                  "Fix: tenon::precision::bf16_mixed, or a device that has them.");
    static_assert(!std::same_as<typename set::precision, precision::fp8_hybrid> ||
                      !std::same_as<typename set::arithmetic, arithmetic::bitwise>,
                  "tenon::policies: precision::fp8_hybrid with arithmetic::bitwise; its per-tensor scales depend on "
                  "how a tensor is cut. Fix: add tenon::arithmetic::fast.");
    static_assert(
        !tenon::memory::is_in_host_memory<typename set::memory> || !std::same_as<typename set::device, device::host>,
        "tenon::policies: memory::offload<host_memory> on device::host; the host has one memory and the state "
        "is in it. Fix: memory::offload<file_backed>, or drop it.");
    static_assert(!detail::is_tiled<typename set::layout> || !std::same_as<typename set::device, device::host>,
                  "tenon::policies: layout::tiled on device::host; the host kernels read row-major activations. "
                  "Fix: drop it, row_major is the default.");
  }
  return true;
}

/// What is known as a type but has no machinery in this release.
template <class Set>
consteval bool check_available() {
  static_assert(std::same_as<typename Set::device, device::host>,
                "tenon::trainer: device::cuda and device::hip are known as types only in this release. "
                "Fix: tenon::device::host, or leave it out.");
  static_assert(std::same_as<typename Set::layout, layout::row_major>,
                "tenon::trainer: layout::packed is known as a type only in this release. "
                "Fix: tenon::layout::row_major, or leave it out.");
  return true;
}

}  // namespace tenon
