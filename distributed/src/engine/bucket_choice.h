#pragma once
// How large buckets should be: measured at the start, because it depends on the network as much as
// on the model. Must not know: gradients.

#include <cstdint>

#include "lockstep/core/base/status.h"
#include "lockstep/core/device/device.h"
#include "lockstep/distributed/communicator.h"
#include "lockstep/distributed/control_plane.h"
#include "lockstep/distributed/tree_reducer.h"

namespace lockstep {

/// What exchanging a bucket costs: latency_s + bytes * s_per_byte, both ways, of the slowest rank.
struct ExchangeCost {
  double latency_s = 0;
  double s_per_byte = 0;
};

/// The size with which a step's exchanges end soonest. Buckets of b bytes cost total / b latencies;
/// nothing hides the exchange of the last one behind backward, and of the first one behind
/// forward. The sum of both is least at sqrt(total * latency / s_per_byte). Never above `total`,
/// nor below 64 KiB, a block. Pure. Source: DESIGN.md 7.
double best_bucket_bytes(uint64_t total_bytes, const ExchangeCost& cost);

/// The multiple of `num_ranks` blocks of floats that is nearest to `bucket_bytes`, so that all ranks
/// get as much of each bucket and both ways of a wire are busy as long. Below half of one multiple,
/// as it is. Pure.
double shared_evenly(double bucket_bytes, int num_ranks);

/// Exchanges a small and a large bucket a few times, the best of each. Collective: all ranks; every
/// one gets the same. Errors: as Communicator::exchange, the same on every rank. Cost: about 10 MiB
/// sent by each rank, and 9 MiB of memory meanwhile.
Result<ExchangeCost> measure_exchange(Communicator& communicator, ControlPlane& plane,
                                      Device& device, const TreeReducerOptions& transfers,
                                      Deadline deadline);

}  // namespace lockstep
