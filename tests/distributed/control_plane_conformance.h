#pragma once
// The conformance suite that every ControlPlane passes. Each case is run by all ranks of a fresh
// plane at once.

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "lockstep/distributed/control_plane.h"

namespace lockstep::testing {

struct ControlPlaneCase {
  std::string name;
  int min_ranks;
  std::function<void(ControlPlane&)> body;
};
inline void PrintTo(const ControlPlaneCase& c, std::ostream* os) {
  *os << c.name;
}

/// Cases that end with every rank calling shutdown().
std::vector<ControlPlaneCase> control_plane_cases();
/// Cases after which the plane is dead: the caller drops it without shutdown().
std::vector<ControlPlaneCase> failing_control_plane_cases();

}  // namespace lockstep::testing
