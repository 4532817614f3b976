// What the disk is asked for, counted at the file system: a state is written once and read once
// over all ranks, whatever their number. (benchmarks/storage_bytes.py asks the kernel.)
// Covers: read_plan.cc block_stream.cc
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "lockstep/core/base/fault_file_system.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

class StorageBytes : public ::testing::Test {
 protected:
  StorageBytes() {
    fs_.set_call_hook([this](const FileCall& call) {
      if (call.operation == FileOperation::kRead) read_ += call.size_bytes;
      if (call.operation == FileOperation::kWrite) written_ += call.size_bytes;
    });
  }

  MemoryFileSystem disk_;
  FaultFileSystem fs_{disk_};
  std::atomic<uint64_t> read_{0};
  std::atomic<uint64_t> written_{0};
};

TEST_F(StorageBytes, AreThoseOfTheStateOnAnyNumberOfRanks) {
  for (const auto& [saved_on, read_on] : {std::pair{1, 2}, {2, 1}, {3, 4}, {4, 3}}) {
    TestState state(large_schema(), 3);
    const TweakOptions there = [&](CheckpointerOptions& options) {
      options.run_dir = cat("/run-", saved_on, "-", read_on);
    };
    written_ = 0;
    ASSERT_TRUE(save_state(fs_, saved_on, state, 10, there).is_ok());
    read_ = 0;
    TestState read(large_schema(), 0);
    const auto restored = restore_state(fs_, read_on, read, {}, there);
    ASSERT_TRUE(restored.is_ok()) << restored.status().message();
    EXPECT_TRUE(read == state);
    const auto unique = static_cast<double>(state.num_bytes());
    EXPECT_LE(static_cast<double>(written_) / unique, 1.01) << saved_on;
    EXPECT_LE(static_cast<double>(read_) / unique, 1.02) << saved_on << " -> " << read_on;
  }
}

}  // namespace
}  // namespace lockstep
