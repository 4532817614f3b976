#pragma once
// What most tests of this folder give to a world and to a wait.

#include "lockstep/core/base/deadline.h"
#include "lockstep/distributed/world.h"

namespace lockstep::testing {

/// Long enough for a loaded machine; a test that hangs ends well before its CTest entry does.
inline Deadline soon() {
  return Deadline::after_s(90);
}

/// What took less time than this did not wait for soon() to pass, however loaded the machine.
inline constexpr double kLongBeforeSoonS = 60;

inline WorldOptions quiet() {
  return WorldOptions{Log::silent()};
}

}  // namespace lockstep::testing
