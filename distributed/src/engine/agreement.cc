#include "lockstep/distributed/agreement.h"

#include <algorithm>

#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

struct Difference {
  size_t line = 0;
  int world_rank = 0;
  std::string expected, found;
};

// The lowest differing line over all ranks, as compared with rank 0's.
Difference first_difference(const std::vector<std::string>& texts) {
  std::vector<std::string> expected = split(texts[0], '\n');
  Difference best;
  bool found_any = false;
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    std::vector<std::string> found = split(texts[rank], '\n');
    size_t length = std::max(expected.size(), found.size());
    for (size_t i = 0; i < length; ++i) {
      std::string a = i < expected.size() ? expected[i] : "(nothing)";
      std::string b = i < found.size() ? found[i] : "(nothing)";
      if (a == b) continue;
      if (!found_any || i < best.line) best = {i, static_cast<int>(rank), a, b};
      found_any = true;
      break;
    }
  }
  return best;
}

}  // namespace

Status check_same_on_all_ranks(ControlPlane& plane, std::string_view what,
                               const std::vector<std::string>& lines, Deadline deadline) {
  std::string text = join(lines, "\n");
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto hashes, plane.all_gather(cat("compare ", what), xxh3_128(text).hex(), deadline));
  std::string differing;
  for (size_t rank = 1; rank < hashes.size(); ++rank) {
    if (hashes[rank] != hashes[0]) differing += cat(differing.empty() ? "" : ", ", rank);
  }
  if (differing.empty()) return Status::ok();
  LOCKSTEP_ASSIGN_OR_RETURN(auto texts,
                            plane.all_gather(cat("differences in ", what), text, deadline));
  Difference d = first_difference(texts);
  return invalid_argument_error(cat("ranks disagree about the ", what, ": rank 0 has '", d.expected,
                                    "', rank ", d.world_rank, " has '", d.found,
                                    "' (ranks that differ from rank 0: ", differing,
                                    "); start every rank with the same binary, recipe and data"));
}

}  // namespace lockstep
