#pragma once
// Writes staged pieces as a shard file, several under way at once.

#include <cstdint>
#include <string>

#include "lockstep/checkpoint/shard_file.h"
#include "lockstep/core/base/file_system.h"
#include "staging.h"

namespace lockstep {

/// What a rank wrote, and how.
struct WrittenShard {
  uint64_t bytes = 0;
  Hash128 header_hash;
  Hash128 table_hash;
  std::string method;  ///< BulkFile::method
  double sync_ms = 0;
};

struct ShardWriteOptions {
  BulkMethod method = BulkMethod::kAuto;
  bool fills_itself = true;      ///< false: another thread fills the staging
  uint64_t max_bytes_per_s = 0;  ///< 0: as fast as the disk takes them
  double timeout_s = 0;          ///< for one piece to be filled, or one transfer to end
};

/// Writes a shard into `folder` from a staging that was begun: exclusive, synced, closed, its size
/// checked, the folder synced. Errors: kAlreadyExists, kIoError, kResourceExhausted, kTimeout. A
/// failed sync is final.
Result<WrittenShard> write_shard(FileSystem& fs, const std::string& folder,
                                 const StateSchema& schema, const ShardIdentity& identity,
                                 Staging& staging, const ShardWriteOptions& options);

}  // namespace lockstep
