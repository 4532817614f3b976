// The main of tests that run under mpirun: every rank runs every test, in the same order.
#include <gtest/gtest.h>

#include <cstdio>

#include "distributed/mpi_test_world.h"

namespace lockstep::testing {

static World* the_world = nullptr;
World& mpi_world() {
  return *the_world;
}

}  // namespace lockstep::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  auto world = lockstep::World::join(argc, argv);
  if (!world.is_ok()) {
    std::fprintf(stderr, "%s\n", world.status().to_string().c_str());
    return 2;
  }
  lockstep::testing::the_world = &*world;
  int result = RUN_ALL_TESTS();
  lockstep::Status status = world->shutdown();
  if (!status.is_ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
  // MPI is finalised: whoever calls the data path now must be told, not run into MPI.
  auto deadline = lockstep::Deadline::after_s(30);
  float value = 1;
  for (const lockstep::Status& later :
       {world->communicator().barrier("after shutdown", deadline),
        world->communicator().native_all_reduce_sum(&value, 1, deadline)}) {
    if (later.code() == lockstep::StatusCode::kAborted) continue;
    std::fprintf(stderr, "a call after shutdown() returned: %s\n", later.to_string().c_str());
    result = 1;
  }
  return result != 0 || !status.is_ok() ? 1 : 0;
}
