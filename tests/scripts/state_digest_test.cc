// The standalone script, which knows nothing but core/DIGEST.md, computes what the engine computes,
// and notices a flipped bit of every kind of value in the files.
#include <gtest/gtest.h>

#include <cstdio>
#include <set>
#include <string>

#include "checkpoint/run_fixture.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/digest.h"

namespace lockstep {
namespace {

struct ScriptResult {
  std::string digest;
  int exit_status = -1;
};

// One word of a shell's command line, whatever is in it.
std::string shell_word(std::string_view word) {
  std::string text = "'";
  for (char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

ScriptResult run_script(const std::vector<std::string>& arguments) {
  std::string command =
      cat(shell_word(LOCKSTEP_TEST_PYTHON), " ", shell_word(LOCKSTEP_TEST_SCRIPT));
  for (const std::string& argument : arguments) command += " " + shell_word(argument);
  std::FILE* const output = popen(command.c_str(), "r");
  ScriptResult result;
  char buffer[256];
  while (std::fgets(buffer, sizeof(buffer), output) != nullptr) result.digest += buffer;
  result.exit_status = pclose(output);
  result.digest = trim(split(result.digest, '\n').at(0));
  return result;
}

class StateDigestScript : public ::testing::Test {
 protected:
  void SetUp() override {
    run_dir_ = cat(::testing::TempDir(), "lockstep state digest ", process_id());
    ASSERT_TRUE(remove_tree(posix_file_system(), run_dir_).is_ok());
  }
  void TearDown() override { remove_tree(posix_file_system(), run_dir_).ignore(); }

  SaveReport save(TestState& state, int num_ranks) {
    return save_state(posix_file_system(), num_ranks, state, 100,
                      [this](CheckpointerOptions& options) { options.run_dir = run_dir_; })
        .value();
  }

  std::string run_dir_;
};

TEST_F(StateDigestScript, ComputesTheEnginesDigestFromFilesOfAnyWorld) {
  TestState state(medium_schema(), 7);
  const std::string expected = state.digest(some_scalars(100)).hex();
  for (const int num_ranks : {1, 3}) {
    const SaveReport report = save(state, num_ranks);
    const ScriptResult found = run_script({report.path});
    EXPECT_EQ(found.digest, expected);
    EXPECT_EQ(found.exit_status, 0);
    EXPECT_EQ(report.state_digest.hex(), expected);
  }
}

TEST_F(StateDigestScript, ComputesTheParamsDigest) {
  TestState state(medium_schema(), 7);
  const SaveReport report = save(state, 2);
  std::vector<std::vector<uint64_t>> hashes;
  for (size_t i = 0; i < state.schema().kinds.size(); ++i) {
    const FlatSpace& space = *state.schema().layout.find(state.schema().kinds[i].space);
    hashes.emplace_back(static_cast<size_t>(space.num_blocks()));
    hash_blocks(space, {0, space.num_blocks()}, state.kind(i), hashes.back());
  }
  const ScriptResult found = run_script({"--params", report.path});
  EXPECT_EQ(found.digest, params_digest(state.schema(), hashes).hex());
  EXPECT_EQ(found.exit_status, 0);
}

TEST_F(StateDigestScript, NoticesOneFlippedBitInEachKindOfValue) {
  FileSystem& fs = posix_file_system();
  TestState state(medium_schema(), 7);
  const SaveReport report = save(state, 2);
  const std::string path =
      path_join(report.path, read_manifest(fs, report.path, nullptr).value().shards.at(1).file);
  const std::string content = read_whole_file(fs, path, uint64_t{1} << 30).value();
  const auto file = fs.open_read(path).value();
  const SafetensorsHeader header = read_safetensors_header(*file, path).value();
  std::set<std::string> kinds;
  for (const SafetensorsEntry& tensor : header.tensors) {
    const size_t at = tensor.name.find('@');
    if (at == std::string::npos) continue;  // the table of block hashes
    if (!kinds.insert(tensor.name.substr(0, at)).second) continue;
    std::string changed = content;
    changed[header.data_offset + (tensor.begin + tensor.end) / 2] ^= 1;
    overwrite_file(fs, path, changed);
    const ScriptResult found = run_script({report.path});
    EXPECT_EQ(found.digest.size(), 32u);
    EXPECT_NE(found.digest, report.state_digest.hex()) << tensor.name;
    EXPECT_NE(found.exit_status, 0);
  }
  EXPECT_GE(kinds.size(), 4u);
  overwrite_file(fs, path, content);
  EXPECT_EQ(run_script({report.path}).digest, report.state_digest.hex());
}

}  // namespace
}  // namespace lockstep
