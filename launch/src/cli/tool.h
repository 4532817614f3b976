#pragma once
// What all `lockstep ckpt` tools share: how what a tool found becomes text and an exit code.

#include <functional>
#include <string>

#include "lockstep/core/base/exit_code.h"

namespace lockstep {

/// What a tool prints on standard output, and the code that the program leaves with.
struct Outcome {
  std::string text;
  ExitCode code = ExitCode::kDone;
};

/// Runs `tool` and prints what it returns, or its error on standard error with the name of the
/// tool. Returns the exit code.
int run_tool(const std::string& name, const std::function<Result<Outcome>()>& tool);

}  // namespace lockstep
