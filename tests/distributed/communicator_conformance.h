#pragma once
// The conformance suite that every Communicator passes. Each case is run by all ranks of a fresh
// communicator at once; inputs are closed forms of (sender, receiver, message), so that each
// expected byte is a formula.

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "lockstep/distributed/communicator.h"

namespace lockstep::testing {

struct CommunicatorCase {
  std::string name;
  int min_ranks;
  std::function<void(Communicator&)> body;
};
inline void PrintTo(const CommunicatorCase& c, std::ostream* os) {
  *os << c.name;
}

/// Cases that leave the communicator usable.
std::vector<CommunicatorCase> communicator_cases();
/// Cases that end in an error, after which the communicator is dead.
std::vector<CommunicatorCase> failing_communicator_cases();
/// The same, of messages of another size than expected: for what can tell (NCCL can't).
std::vector<CommunicatorCase> mismatched_communicator_cases();

}  // namespace lockstep::testing
