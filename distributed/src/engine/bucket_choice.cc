#include "bucket_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"
#include "lockstep/distributed/bucketer.h"

namespace lockstep {
namespace {

constexpr double kSmallestBytes = kBlockElems * 4;
constexpr int64_t kSmallBlocks = 1;
constexpr int64_t kLargeBlocks = 64;
constexpr int kSmallTimes = 4;
constexpr int kLargeTimes = 2;

// Seconds of one bucket, reduced and gathered; the best of some times.
Result<double> time_bucket(TreeReducer& reducer, Communicator& communicator, void* values,
                           int times, Deadline deadline) {
  double best_s = INFINITY;
  for (int i = 0; i < times; ++i) {
    LOCKSTEP_RETURN_IF_ERROR(communicator.barrier("measuring the exchange", deadline));
    const Stopwatch watch;
    std::vector<void*> roots(static_cast<size_t>(reducer.num_roots()), values);
    LOCKSTEP_RETURN_IF_ERROR(reducer.reduce_bucket(0, roots, deadline));
    LOCKSTEP_RETURN_IF_ERROR(reducer.all_gather_bucket(0, values, deadline));
    LOCKSTEP_RETURN_IF_ERROR(communicator.settle("measuring the exchange", deadline));
    best_s = std::min(best_s, watch.elapsed_s());
  }
  return best_s;
}

Result<std::array<double, 2>> measure_own(Communicator& communicator, Device& device,
                                          const TreeReducerOptions& transfers, Deadline deadline) {
  const int size = communicator.world_size();
  std::array<double, 2> seconds{};
  size_t next = 0;
  for (const auto& [num_blocks, times] :
       {std::pair(kSmallBlocks, kSmallTimes), std::pair(kLargeBlocks, kLargeTimes)}) {
    FlatSpace space;
    space.name = "probe";
    space.num_elems = num_blocks * kBlockElems;
    const DeviceMemory values = device.allocate(static_cast<size_t>(space.num_bytes()));
    TreeReducer reducer(communicator, space,
                        ShardPlan::plan(plan_buckets(num_blocks, num_blocks), size), size,
                        transfers, device);
    LOCKSTEP_ASSIGN_OR_RETURN(
        seconds[next++],
        time_bucket(reducer, communicator, values.data(), times, deadline));
  }
  return seconds;
}

}  // namespace

double shared_evenly(double bucket_bytes, int num_ranks) {
  const double share = kSmallestBytes * num_ranks;
  const double multiple = std::floor(bucket_bytes / share + 0.5);
  return multiple >= 1 ? multiple * share : bucket_bytes;
}

double best_bucket_bytes(uint64_t total_bytes, const ExchangeCost& cost) {
  const auto total = static_cast<double>(total_bytes);
  if (!(cost.s_per_byte > 0)) return total;
  const double best = std::sqrt(total * std::max(cost.latency_s, 0.0) / cost.s_per_byte);
  return std::clamp(best, std::min(kSmallestBytes, total), total);
}

Result<ExchangeCost> measure_exchange(Communicator& communicator, ControlPlane& plane,
                                      Device& device, const TreeReducerOptions& transfers,
                                      Deadline deadline) {
  const auto own =
      caught([&] { return measure_own(communicator, device, transfers, deadline); });
  // A rank that fails at once waits for those that find out when their time is over.
  const Deadline to_agree = Deadline::after_s(2 * deadline.length_s());
  LOCKSTEP_RETURN_IF_ERROR(plane.vote("measuring the exchange", own.status(), to_agree));
  std::string message(sizeof(*own), '\0');
  std::memcpy(message.data(), own->data(), message.size());
  LOCKSTEP_ASSIGN_OR_RETURN(const auto all,
                            plane.all_gather("cost of an exchange", message, to_agree));
  std::array<double, 2> slowest{};
  for (const std::string& text : all) {
    std::array<double, 2> seconds{};
    if (text.size() != sizeof(seconds))
      return internal_error("cost of an exchange: a rank runs another program");
    std::memcpy(seconds.data(), text.data(), text.size());
    for (size_t i = 0; i < seconds.size(); ++i) slowest[i] = std::max(slowest[i], seconds[i]);
  }
  constexpr double kBlockBytes = kBlockElems * 4;
  ExchangeCost cost;
  cost.s_per_byte = std::max(slowest[1] - slowest[0], 0.0) /
                    (static_cast<double>(kLargeBlocks - kSmallBlocks) * kBlockBytes);
  cost.latency_s = std::max(
      slowest[0] - static_cast<double>(kSmallBlocks) * kBlockBytes * cost.s_per_byte, 0.0);
  return cost;
}

}  // namespace lockstep
