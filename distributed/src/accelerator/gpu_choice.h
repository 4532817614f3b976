#pragma once
// Which GPU a rank takes, and whether two take the same. Pure: knows no driver. Thread-safety: any.

#include <string>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

/// One visible device: 0, whatever the rank; else the rank's number on its host. With `may_share`
/// ranks go round. Errors: kUnsupported with both numbers and the fix when there are fewer devices
/// than ranks on the host.
Result<int> choose_gpu(int num_visible, int local_rank, int num_local_ranks, bool may_share);

/// What a rank has chosen.
struct ChosenGpu {
  int world_rank = 0;
  std::string host;
  std::string uuid;  ///< names the device, whatever its index
  std::string name;  ///< "cuda:0 NVIDIA H200"
};

/// Errors: kInvalidArgument with a table of ranks, hosts and GPUs when two ranks have the same.
Status check_not_shared(const std::vector<ChosenGpu>& chosen);

/// Whether another rank has the GPU of `world_rank`.
bool is_shared(const std::vector<ChosenGpu>& chosen, int world_rank);

/// As one line of text, and back. Errors: kInternal.
std::string gpu_text(const ChosenGpu& gpu);
Result<ChosenGpu> parse_gpu(int world_rank, const std::string& text);

}  // namespace lockstep
