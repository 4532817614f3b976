#include "host_layout.h"

namespace lockstep {

HostLayout host_layout(std::span<const int> first_rank_of_host) {
  const auto num_ranks = static_cast<int>(first_rank_of_host.size());
  HostLayout layout{.num_hosts = 0, .ranks_per_host = 1};
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (first_rank_of_host[static_cast<size_t>(rank)] == rank) ++layout.num_hosts;
  }
  if (num_ranks % layout.num_hosts != 0) return layout;
  const int even = num_ranks / layout.num_hosts;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (first_rank_of_host[static_cast<size_t>(rank)] != rank / even * even) return layout;
  }
  layout.ranks_per_host = even;
  return layout;
}

}  // namespace lockstep
