#pragma once
// What a crash may leave on a disk: the fates to try for a list of unsynced operations, and a hash
// that tells one state from another. Thread-safety: pure, but for the disk that is read.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/memory_file_system.h"

namespace lockstep::crash {

using Fates = std::vector<CrashFate>;

struct FateBudget {
  size_t most_exhaustive = 32;  ///< all combinations when there are at most as many
  size_t num_samples = 26;      ///< else losing all, keeping all, and drawn ones
};

/// A write of bytes can be lost, kept, torn after its first byte, in the middle or before its last
/// one, or be zeros; anything else can be lost or kept.
std::vector<Fates> fates_to_try(const std::vector<UnsyncedOperation>& operations,
                                const FateBudget& budget, uint64_t seed);
/// Keeps all of them.
Fates keep_all(const MemoryFileSystem& disk);

/// Over every name below `folder`, its type and the bytes behind it. What differs from run to run
/// without meaning (times of day and what is hashed over them, the token's random digits) counts by
/// its length alone, so that two states are two only when their difference is one.
Hash128 disk_hash(FileSystem& fs, const std::string& folder);

}  // namespace lockstep::crash
