#pragma once
// What tests of DataParallel share: ranks as threads, each with its module, and what they came to.

#include <gtest/gtest.h>

#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "distributed/test_settings.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/distributed/data_parallel.h"

namespace lockstep::testing {

template <typename Net, typename... Args>
Net make_net(World& world, Args&&... args) {
  std::unique_lock<std::mutex> lock;
  if (world.process_lock() != nullptr) lock = std::unique_lock(*world.process_lock());
  return Net(std::forward<Args>(args)...);
}

inline DataParallelOptions options_of(int64_t micro_batches) {
  DataParallelOptions options;
  options.micro_batches_per_step = micro_batches;
  options.timeout_s = 20;
  options.bucket_mib = 1e-3;  // a block
  return options;
}

/// Runs `body` on each rank; returns what each of them came to. Nobody may hang.
inline std::vector<Status> verdicts(int ranks, const std::function<Status(World&)>& body) {
  std::vector<Status> all(static_cast<size_t>(ranks));
  Stopwatch watch;
  Status ran = World::run_threads(
      ranks,
      [&](World& world) {
        all[static_cast<size_t>(world.world_rank())] = body(world);
        return Status::ok();
      },
      quiet());
  EXPECT_TRUE(ran.is_ok()) << ran.to_string();
  EXPECT_LT(watch.elapsed_s(), 15) << "somebody waited for the deadline";
  return all;
}

/// The one error that all ranks must have come to.
inline std::string common_error(int ranks, const std::function<Status(World&)>& body,
                                StatusCode code = StatusCode::kInvalidArgument) {
  std::vector<Status> all = verdicts(ranks, body);
  for (const Status& status : all) {
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_EQ(status.message(), all[0].message());
  }
  return all[0].message();
}

}  // namespace lockstep::testing
