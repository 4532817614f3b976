#pragma once
// The block hashes that a checkpoint's shards name, and the proof that its bytes have them.

#include <cstdint>
#include <string>
#include <vector>

#include "block_stream.h"
#include "lockstep/checkpoint/manifest.h"

namespace lockstep {

/// For each of the schema's kinds the hash of every block, out of the checksum tables of the shards
/// in `folder` (headers and tables verified, data not read). Requires: coverage was checked.
/// Errors: as ShardReader::open.
Result<std::vector<std::vector<uint64_t>>> read_block_hashes(FileSystem& fs,
                                                             const std::string& folder,
                                                             const Manifest& manifest);

/// Room for the hash of every block of each kind.
std::vector<std::vector<uint64_t>> room_for_hashes(const StateSchema& schema);
/// Puts the hashes of a shard's blocks where they belong.
void put_hashes(const ShardReader& shard, std::vector<std::vector<uint64_t>>* hashes);

/// Reads all of one shard through `stream`. OK when everything in it is as the manifest says.
/// Errors: as BlockStream::read.
Status verify_shard(FileSystem& fs, const std::string& folder, const Manifest& manifest,
                    size_t shard_index, BlockStream& stream);

/// Whether it says that content is wrong, and not that it could not be read. A file of a committed
/// checkpoint that is not there is as wrong as one with other bytes.
bool is_bad_content(const Status& status);

/// Blocks of `extent` from `first` that fit into `limit_bytes` (at least one): how readers cut long
/// runs.
BlockRun next_piece(const FlatSpace& space, BlockRun rest, uint64_t limit_bytes);
inline constexpr uint64_t kReadPieceBytes = uint64_t{4} << 20;

}  // namespace lockstep
