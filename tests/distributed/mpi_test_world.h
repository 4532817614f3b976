#pragma once
// The world that mpi_test_main.cc joined.

#include "lockstep/distributed/world.h"

namespace lockstep::testing {

World& mpi_world();

}  // namespace lockstep::testing
