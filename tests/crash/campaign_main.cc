// crash_campaign PART [--name value]...: one part of the campaign; campaign.py runs them all.
// Exit status: 0 when nothing was lost, 1 when something was, 64 for a wrong command.
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "parts.h"

int main(int argc, char** argv) {
  using namespace lockstep::crash;
  const std::map<std::string, std::function<PartResult(const PartOptions&)>> parts = {
      {"bounded", run_bounded_part}, {"cut", run_cut_part},      {"model", run_model_part},
      {"errors", run_error_part},    {"flips", run_flip_part},   {"freezes", run_freeze_part},
      {"kills", run_kill_part},      {"worlds", run_world_part},
  };
  const auto part = parts.find(argc > 1 ? argv[1] : "");
  if (part == parts.end() || argc % 2 != 0) {
    std::fprintf(stderr, "crash_campaign PART [--name value]...; parts:");
    for (const auto& [name, run] : parts) std::fprintf(stderr, " %s", name.c_str());
    std::fprintf(stderr, "\n");
    return 64;
  }
  PartOptions options;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    options.values[name.starts_with("--") ? name.substr(2) : name] = argv[i + 1];
  }
  const PartResult result = part->second(options);
  std::printf("%s\n", result.to_json().c_str());
  return result.num_violations() == 0 ? 0 : 1;
}
