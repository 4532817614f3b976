#pragma once
// A run of two good checkpoints, the newer of which a test spoils, and what must come of it: the
// same verdict from restore, verify, inspect and export, and nothing lost. Forging goes beyond
// damage: the hashes are made right, so that what is behind them is reached.

#include <gmock/gmock.h>

#include <functional>
#include <string>

#include "checkpoint/run_fixture.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/exit_code.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

using ::testing::HasSubstr;
using TextChange = std::function<std::string(std::string)>;

/// Replaces the first `from`, which must be there.
inline TextChange replaced(std::string from, std::string to) {
  return [from = std::move(from), to = std::move(to)](std::string text) {
    const size_t at = text.find(from);
    LOCKSTEP_CHECK(at != std::string::npos, "no ", from, " in ", text);
    return text.replace(at, from.size(), to);
  };
}

class AbuseRun : public ::testing::Test {
 protected:
  AbuseRun() : old_(medium_schema(), 1), new_(medium_schema(), 2) {
    LOCKSTEP_CHECK(save_state(fs_, 3, old_, 10).is_ok(), "the first save");
    newest_ = save_state(fs_, 3, new_, 20).value().path;
    manifest_ = path_join(newest_, "manifest.json");
  }

  std::string bytes(const std::string& path) {
    return read_whole_file(fs_, path, uint64_t{1} << 27).value();
  }
  std::string shard(size_t index) {
    return path_join(newest_, cat("shard-0000", index, "-of-00003.safetensors"));
  }

  /// The manifest with another text under a right hash.
  void forge_manifest(const TextChange& change) {
    const std::string text = change(bytes(manifest_));
    const std::string body = text.substr(0, text.find(" \"manifest_hash\""));
    overwrite_file(fs_, manifest_,
                   cat(body, " \"manifest_hash\":\"", xxh3_128(body).hex(), "\"\n}\n"));
  }

  /// A shard with another header under right hashes; `length` is what it says of the header's.
  void forge_header(size_t index, const TextChange& change,
                    std::optional<uint64_t> length = std::nullopt) {
    const std::string whole = bytes(shard(index));
    const auto file = fs_.open_read(shard(index));
    const std::string prefix = read_safetensors_prefix(**file, "shard").value();
    std::string json = change(std::string(trim(prefix.substr(8))));
    if (json.size() + 8 < prefix.size()) json.append(prefix.size() - 8 - json.size(), ' ');
    forge_shard(index, length.value_or(json.size()), json, whole.substr(prefix.size()));
  }

  void forge_shard(size_t index, uint64_t length, const std::string& json,
                   const std::string& data) {
    std::string head(8, '\0');
    for (size_t i = 0; i < 8; ++i) head[i] = static_cast<char>(length >> (8 * i) & 0xff);
    head += json;
    overwrite_file(fs_, shard(index), head + data);
    Manifest manifest = read_manifest(fs_, newest_, nullptr).value();
    manifest.shards[index].bytes = head.size() + data.size();
    manifest.shards[index].header_hash = xxh3_128(head);
    overwrite_file(fs_, manifest_, manifest_text(manifest));
  }

  enum class Where : uint8_t { kManifest, kShard };

  /// Named by its path, the spoiled checkpoint is refused with `code` and `message` by all that
  /// read it, and nothing moves. Found by itself, it goes to quarantine and the older comes back,
  /// if it is proven bad; else the run stops.
  void expect_refused(StatusCode code, const std::string& message, Where where) {
    const auto before = all_files(fs_, "/run/checkpoints");
    expect_path_refused(code, message);
    expect_tools_refuse(code, message, where);
    EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before) << "nothing was touched";

    TestState read(medium_schema(), 0);
    const auto restored = restore_state(fs_, 2, read);
    if (code != StatusCode::kCorruption) {
      EXPECT_EQ(restored.status().code(), code);
      EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before) << "nothing was moved";
      return;
    }
    ASSERT_TRUE(restored.is_ok()) << restored.status().message();
    EXPECT_EQ((*restored)->step, 10);
    EXPECT_TRUE(read == old_);
    const std::string kept = "/run/checkpoints/quarantine/gen-000002-step-0000000020";
    EXPECT_THAT((*restored)->quarantined, ::testing::ElementsAre(kept));
    for (const auto& [path, content] : before) {
      const bool is_spoiled = path.starts_with(newest_);
      const std::string now = is_spoiled ? kept + path.substr(newest_.size()) : path;
      EXPECT_TRUE(bytes(now) == content) << now << " is kept as it was";
    }
  }

  void expect_path_refused(StatusCode code, const std::string& message) {
    TestState read(medium_schema(), 0);
    const auto refused = restore_state(fs_, 2, read, [&](RestoreRequest& request) {
      request.mode = ResumeMode::kPath;
      request.path = newest_;
    });
    EXPECT_EQ(refused.status().code(), code) << refused.status().message();
    EXPECT_THAT(refused.status().message(), HasSubstr(message));
    EXPECT_THAT(refused.status().message(), HasSubstr(newest_)) << "the path is named";
    const ExitCode exit = exit_code_for(refused.status());
    EXPECT_TRUE(exit == ExitCode::kData || exit == ExitCode::kIo ||
                code == StatusCode::kUnsupported);
  }

  void expect_tools_refuse(StatusCode code, const std::string& message, Where where) {
    const auto verified = verify_checkpoint(fs_, newest_);
    if (code == StatusCode::kCorruption) {
      ASSERT_TRUE(verified.is_ok()) << verified.status().message();
      EXPECT_THAT(join(verified->problems, "\n"), HasSubstr(message));
    } else {
      EXPECT_EQ(verified.status().code(), code);
      EXPECT_THAT(verified.status().message(), HasSubstr(message));
    }
    const auto inspected = read_manifest(fs_, newest_, nullptr);
    if (where == Where::kManifest) {
      EXPECT_EQ(inspected.status().code(), code);
      EXPECT_THAT(inspected.status().message(), HasSubstr(message));
    } else {
      EXPECT_TRUE(inspected.is_ok()) << inspected.status().message();
    }
    const auto exported = export_checkpoint(fs_, newest_, "/run/out.safetensors", true);
    EXPECT_EQ(exported.status().code(), code) << exported.status().message();
    EXPECT_THAT(exported.status().message(), HasSubstr(message));
    EXPECT_FALSE(exists(fs_, "/run/out.safetensors").value());
    EXPECT_FALSE(exists(fs_, "/run/out.safetensors.partial").value());
  }

  MemoryFileSystem fs_;
  TestState old_;
  TestState new_;
  std::string newest_;
  std::string manifest_;
};

}  // namespace lockstep
