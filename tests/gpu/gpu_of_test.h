#pragma once
// The GPU that a rank of these tests has. They run on a machine with a GPU alone (tests/gpu.sh), and
// fail where there is none.

#include <gtest/gtest.h>

#include <memory>

#include "distributed/mpi_test_world.h"
#include "lockstep/distributed/accelerator.h"

namespace lockstep::testing {

/// Opened once a process. Collective the first time.
inline std::shared_ptr<Accelerator> gpu_of_test() {
  static const Result<std::shared_ptr<Accelerator>> opened =
      open_accelerator(mpi_world(), {.wanted = "cuda", .may_share = true});
  LOCKSTEP_CHECK(opened.is_ok(), opened.status().message());
  return *opened;
}

inline Status settle(DeviceQueue& queue) {
  return queue.settle("a test", Deadline::after_s(60));
}

}  // namespace lockstep::testing
