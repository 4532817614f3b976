#include "tool.h"

#include <cstdio>

#include "lockstep/core/base/caught.h"

namespace lockstep {

int run_tool(const std::string& name, const std::function<Result<Outcome>()>& tool) {
  const Result<Outcome> outcome = caught(tool);
  if (!outcome.is_ok()) {
    std::fprintf(stderr, "lockstep ckpt %s: %s\n", name.c_str(),
                 outcome.status().to_string().c_str());
    return static_cast<int>(exit_code_for(outcome.status()));
  }
  std::fputs(outcome->text.c_str(), stdout);
  if (!outcome->text.empty() && outcome->text.back() != '\n') std::fputc('\n', stdout);
  // A full disk behind a redirection must not look like a good end.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::fprintf(stderr, "lockstep ckpt %s: standard output can't be written\n", name.c_str());
    return static_cast<int>(ExitCode::kIo);
  }
  return static_cast<int>(outcome->code);
}

}  // namespace lockstep
