#include "gpu_choice.h"

#include <algorithm>
#include <map>

#include "lockstep/core/base/text.h"

namespace lockstep {

Result<int> choose_gpu(int num_visible, int local_rank, int num_local_ranks, bool may_share) {
  if (num_visible < 1) return unsupported_error("no GPU is visible (CUDA_VISIBLE_DEVICES?)");
  if (num_visible == 1) return 0;
  if (local_rank < num_visible) return local_rank;
  if (may_share) return local_rank % num_visible;
  return unsupported_error(
      cat(num_local_ranks, " ranks on this host, but ", num_visible,
          " GPUs are visible: start at most ", num_visible,
          " ranks a host, or make more visible (CUDA_VISIBLE_DEVICES)"));
}

Status check_not_shared(const std::vector<ChosenGpu>& chosen) {
  std::map<std::string, int> num_sharers;
  for (const ChosenGpu& gpu : chosen) ++num_sharers[gpu.uuid];
  if (num_sharers.size() == chosen.size()) return Status::ok();
  std::string table = "two ranks would work on one GPU:";
  for (const ChosenGpu& gpu : chosen) {
    table += cat("\n  rank ", gpu.world_rank, "  ", gpu.host, "  ", gpu.name, "  ", gpu.uuid,
                 num_sharers[gpu.uuid] > 1 ? "  shared" : "");
  }
  return invalid_argument_error(
      cat(table,
          "\nGive each rank a GPU of its own (one rank a GPU on each host, or one visible device a "
          "rank), or let them take turns on it with --share-gpu"));
}

bool is_shared(const std::vector<ChosenGpu>& chosen, int world_rank) {
  const std::string& mine = chosen[static_cast<size_t>(world_rank)].uuid;
  return std::count_if(chosen.begin(), chosen.end(),
                       [&](const ChosenGpu& gpu) { return gpu.uuid == mine; }) > 1;
}

std::string gpu_text(const ChosenGpu& gpu) {
  return cat(gpu.host, "\t", gpu.uuid, "\t", gpu.name);
}

Result<ChosenGpu> parse_gpu(int world_rank, const std::string& text) {
  const std::vector<std::string> fields = split(text, '\t');
  if (fields.size() != 3)
    return internal_error(cat("rank ", world_rank, " tells of its GPU as '", text, "'"));
  return ChosenGpu{world_rank, fields[0], fields[1], fields[2]};
}

}  // namespace lockstep
