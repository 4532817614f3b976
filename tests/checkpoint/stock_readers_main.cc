// Writes a checkpoint of three ranks, its two exports, and the same cut for seven ranks below the
// folder given, for stock_readers_test.py, and prints where the checkpoint is.
#include <cstdio>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

int main(int, char** argv) {
  using namespace lockstep;  // NOLINT(google-build-using-namespace): a main
  FileSystem& fs = posix_file_system();
  TestState state(medium_schema(), 11);
  const std::string folder = argv[1];
  const auto saved = save_state(fs, 3, state, 30, [&](CheckpointerOptions& options) {
    options.run_dir = path_join(folder, "run");
  });
  if (!saved.is_ok()) {
    std::fprintf(stderr, "%s\n", saved.status().message().c_str());
    return 1;
  }
  const auto params =
      export_checkpoint(fs, saved->path, path_join(folder, "params.safetensors"), false);
  const auto all = export_checkpoint(fs, saved->path, path_join(folder, "all.safetensors"), true);
  const auto resharded =
      reshard_checkpoint(fs, saved->path, 7, path_join(folder, "resharded"), {.num_threads = 2});
  std::printf("%s\n", saved->path.c_str());
  return params.is_ok() && all.is_ok() && resharded.is_ok() ? 0 : 1;
}
