#pragma once
// What all `lockstep ckpt` tools share: threads, a progress bar, and how what a tool found becomes
// text and an exit code.

#include <functional>
#include <string>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/exit_code.h"

namespace lockstep {

/// What a tool prints on standard output, and the code that the program leaves with.
struct Outcome {
  std::string text;
  ExitCode code = ExitCode::kDone;
};
using Tool = std::function<Result<Outcome>(const ToolRun& how)>;

/// Runs `tool` on all usable processors and prints what it returns, or its error on standard error
/// with the name of the tool. Long work shows a bar on standard error when that is a terminal, but
/// never on one that `as_json` text goes to. Returns the exit code.
int run_tool(const std::string& name, bool as_json, const Tool& tool);

}  // namespace lockstep
