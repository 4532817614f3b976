#pragma once
// The data path over NCCL, for memory of a GPU. It moves bits: grouped sends and receives, and
// NCCL's own sum for comparison. Non-blocking, so that each wait has a deadline and abort can't
// hang. nccl.h stays in the source file. Source: NCCL's user guide, "Fault tolerance"; design.md
// section 3.

#include <memory>
#include <string>

#include "cuda_queue.h"
#include "lockstep/core/base/log.h"
#include "lockstep/distributed/communicator.h"
#include "lockstep/distributed/world.h"

namespace lockstep::cuda {

/// A communicator over all ranks of `world`, working in `queue`; both must outlive it.
/// `barrier_bytes`: a byte a rank of the GPU, or why there is none, which is voted on. What the GPU
/// is at is watched: see ExchangeWatchdog. A peer that sends another size is not told from one that
/// does not come. Collective: all ranks. Errors: kTimeout, kPeerFailure naming the lost rank,
/// kInternal with NCCL's own text.
Result<std::unique_ptr<Communicator>> connect_nccl(World& world, CudaQueue& queue,
                                                   Result<DeviceMemory> barrier_bytes,
                                                   const Log& log, Deadline deadline);

/// "2.28.9 (built with 2.28.9, LibTorch with 2.28.9)"
std::string nccl_version_text();

}  // namespace lockstep::cuda
