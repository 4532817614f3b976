// Every number of ranks reads what every other wrote: 64 pairs on a real disk, one digest.
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"
#include "operations.h"
#include "parts.h"

namespace lockstep::crash {
namespace {

constexpr int kMaxRanks = 8;

}  // namespace

PartResult run_world_part(const PartOptions& options) {
  PartResult result;
  FileSystem& fs = posix_file_system();
  const std::string folder = options.text("folder", ".");
  TestState state(medium_schema(), 7);
  const std::string expected = state.digest(some_scalars(100)).hex();
  int64_t done = 0;
  for (int saved_at = 1; saved_at <= kMaxRanks; ++saved_at) {
    const std::string run_dir = path_join(folder, cat("run-", saved_at));
    const TweakOptions there = [&](CheckpointerOptions& each) { each.run_dir = run_dir; };
    const auto saved = save_state(fs, saved_at, state, 100, there);
    if (!saved.is_ok()) result.violate(cat("saving on ", saved_at, ": ", saved.status().message()));
    for (int read_at = 1; read_at <= kMaxRanks; ++read_at) {
      TestState read(medium_schema(), 0);
      const auto restored = restore_state(fs, read_at, read, {}, there);
      ++result.count("pairs");
      const bool is_there = restored.is_ok() && restored->has_value();
      const std::string digest = is_there ? read.digest((*restored)->scalars).hex() : "none";
      result.note("digests", cat(saved_at, " -> ", read_at), digest);
      if (digest == expected && read == state) {
        ++result.count("equal");
      } else {
        result.violate(cat(saved_at, " -> ", read_at, ": ", restored.status().to_string()));
      }
      tell_progress(++done, kMaxRanks * kMaxRanks);
    }
    remove_tree(fs, run_dir).ignore();
  }
  return result;
}

}  // namespace lockstep::crash
