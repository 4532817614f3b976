#pragma once
// How ranks are named in messages.

#include <span>
#include <string>

namespace lockstep {

/// "rank 3" or "ranks 1, 3 and 4".
std::string ranks_text(std::span<const int> world_ranks);

}  // namespace lockstep
