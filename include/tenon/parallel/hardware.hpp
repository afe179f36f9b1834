// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a device and its links can do, from data sheets or measured here: what predicted times are made of.
#include <cstring>
#include <thread>
#include <utility>

#include <unistd.h>

#include <tenon/core/view.hpp>
#include <tenon/exec/host/peak.hpp>

namespace tenon {

/// One device of many alike. Rates are per device, in bytes or operations per second.
struct hardware {
  char const* name = "";
  double flops = 0;          ///< of matrix products, at most: bf16 on devices, fp32 on the host
  index_t memory_bytes = 0;  ///< of one device
  double memory_bandwidth = 0;
  int node_devices = 1;          ///< that have fast links to each other
  double link_bandwidth = 0;     ///< what one sends to its node
  double link_latency = 0;       ///< seconds until a message arrives
  double network_bandwidth = 0;  ///< what one sends to other nodes
  double network_latency = 0;
  bool writes_scores = false;        ///< attention writes its scores to memory, as the kernels of the papers did
  double product_efficiency = 0.72;  ///< share of `flops` that large products reach
  double link_efficiency = 0.8;      ///< share of `link_bandwidth` that collectives reach
};

namespace hw {

/// @source NVIDIA A100 80GB SXM data sheet (2021) and DGX A100 (8 links of 200 Gb/s for 8 devices). The two efficiencies
/// are fitted to Narayanan et al. 2021, arXiv:2104.04473, table 1.
inline constexpr hardware a100_80gb{.name = "a100_80gb",
                                    .flops = 312e12,
                                    .memory_bytes = index_t(80) << 30,
                                    .memory_bandwidth = 2039e9,
                                    .node_devices = 8,
                                    .link_bandwidth = 300e9,
                                    .link_latency = 3e-6,
                                    .network_bandwidth = 25e9,
                                    .network_latency = 5e-6,
                                    .writes_scores = true};
/// @source NVIDIA H100 SXM data sheet (2023) and DGX H100 (8 links of 400 Gb/s for 8 devices); efficiencies as a100_80gb.
inline constexpr hardware h100_sxm{.name = "h100_sxm",
                                   .flops = 989.4e12,
                                   .memory_bytes = index_t(80) << 30,
                                   .memory_bandwidth = 3352e9,
                                   .node_devices = 8,
                                   .link_bandwidth = 450e9,
                                   .link_latency = 3e-6,
                                   .network_bandwidth = 50e9,
                                   .network_latency = 5e-6};

/// This machine, `ranks` processes or threads of which are the devices: each has its share. Takes about a second.
inline hardware measure_this_host(int ranks = 1) {
  exec::thread_pool pool(int(std::max(std::thread::hardware_concurrency(), 1u)));
  double const bandwidth = exec::measure_read_bandwidth(pool);
  return {.name = "this host",
          .flops = exec::measure_fma_peak(pool) / ranks,
          .memory_bytes = index_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / ranks,
          .memory_bandwidth = bandwidth / ranks,
          .node_devices = ranks,
          .link_bandwidth = bandwidth / ranks / 2,  // a copy reads and writes
          .link_latency = 1e-6,
          .network_bandwidth = bandwidth / ranks / 2,
          .network_latency = 1e-6};
}

}  // namespace hw
}  // namespace tenon
