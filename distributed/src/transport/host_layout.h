#pragma once
// How the ranks of a job are dealt to hosts. Pure.

#include <span>

namespace lockstep {

struct HostLayout {
  int num_hosts = 1;
  /// L where ranks [k L, (k + 1) L) share host k for every k; 1 where hosts have different numbers
  /// of ranks or a host's ranks are not neighbours.
  int ranks_per_host = 1;
  bool operator==(const HostLayout&) const = default;
};

/// By rank: the lowest rank of its host. Requires: not empty.
HostLayout host_layout(std::span<const int> first_rank_of_host);

}  // namespace lockstep
