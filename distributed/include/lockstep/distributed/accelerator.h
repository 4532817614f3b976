#pragma once
// Accelerator: a GPU as a rank sees it: a Device, and the way to exchange its memory with the other
// ranks. CUDA and NCCL are behind it, in a library of their own that is loaded when a GPU is asked
// for, so the same program runs, and starts fast, where there is none. Must not know: models.
// Thread-safety: as Device.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "lockstep/core/device/device.h"
#include "lockstep/distributed/communicator.h"
#include "lockstep/distributed/world.h"

namespace lockstep {

class Accelerator : public Device {
 public:
  /// A communicator for this device's memory over all ranks of `world`, which must outlive it. Null
  /// in a world of one, where a communicator would only take memory. Collective: all ranks. Errors:
  /// kTimeout, kPeerFailure; kInternal with the library's own text.
  virtual Result<std::unique_ptr<Communicator>> connect(World& world, Deadline deadline) = 0;
};

struct AcceleratorOptions {
  std::string wanted = "auto";  ///< "cpu"; "cuda": a GPU or an error; "auto": a GPU where each rank
                                ///< has one, else the host
  bool may_share = false;       ///< several ranks may use one GPU (for tests: they take turns)
};

/// The GPU that this rank is to work on, or null for the host. With one visible device that one,
/// else the one of the rank's number on its host; it becomes LibTorch's current device. Must come
/// before anything else asks LibTorch about GPUs, as torch::manual_seed() does. Collective: all
/// ranks, same options. Errors, the same on every rank: kInvalidArgument for an unknown word, and
/// when "cuda" is asked for and two ranks would use one GPU (with a table of ranks, hosts and GPUs)
/// or a rank has none (no library, no driver, one older than the toolkit, fewer devices than ranks:
/// each rank's own reason); kInternal or kResourceExhausted when a GPU that is there can't be
/// opened.
Result<std::shared_ptr<Accelerator>> open_accelerator(World& world,
                                                      const AcceleratorOptions& options);

}  // namespace lockstep
