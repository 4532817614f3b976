#pragma once
// The version of this release, as CMakeLists.txt has it.

#include <string>

namespace lockstep {

/// "0.1.0".
extern const char* const kVersion;
/// Version, libraries, instruction set, build: what `lockstep version` prints.
std::string version_text();

}  // namespace lockstep
