#include "tool.h"

#include <cstdio>

#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/environment.h"
#include "progress_bar.h"

namespace lockstep {

int run_tool(const std::string& name, bool as_json, const Tool& tool) {
  constexpr int kStandardOutput = 1;
  constexpr int kStandardError = 2;
  ProgressBar bar(name, is_terminal(kStandardError) && !(as_json && is_terminal(kStandardOutput)));
  const ToolRun how{num_usable_cpus(), bar.on_progress()};
  const Result<Outcome> outcome = caught([&] { return tool(how); });
  bar.finish();
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
