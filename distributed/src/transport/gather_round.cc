#include "gather_round.h"

#include "lockstep/core/base/check.h"

namespace lockstep {

bool GatherRound::arrive(int world_rank, std::string_view what, std::string message) {
  auto rank = static_cast<size_t>(world_rank);
  LOCKSTEP_CHECK(rank < has_arrived_.size(), "rank ", world_rank, " of ", has_arrived_.size());
  if (has_arrived_[rank]) return false;
  has_arrived_[rank] = 1;
  whats_[rank] = what;
  messages_[rank] = std::move(message);
  ++num_arrived_;
  return true;
}

std::vector<int> GatherRound::missing() const {
  std::vector<int> ranks;
  for (size_t rank = 0; rank < has_arrived_.size(); ++rank) {
    if (!has_arrived_[rank]) ranks.push_back(static_cast<int>(rank));
  }
  return ranks;
}

Status GatherRound::agreement() const {
  LOCKSTEP_CHECK(is_complete(), "only ", num_arrived_, " of ", has_arrived_.size(),
                 " ranks arrived");
  for (size_t rank = 1; rank < whats_.size(); ++rank) {
    if (whats_[rank] == whats_[0]) continue;
    return internal_error(cat("the ranks are at different places of the program: rank 0 at '",
                              whats_[0], "', rank ", rank, " at '", whats_[rank], "'"));
  }
  return Status::ok();
}

}  // namespace lockstep
