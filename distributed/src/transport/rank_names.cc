#include "rank_names.h"

#include "lockstep/core/base/text.h"

namespace lockstep {

std::string ranks_text(std::span<const int> world_ranks) {
  std::string text = world_ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < world_ranks.size(); ++i) {
    const char* separator = i == 0 ? "" : i + 1 == world_ranks.size() ? " and " : ", ";
    text += cat(separator, world_ranks[i]);
  }
  return text;
}

}  // namespace lockstep
