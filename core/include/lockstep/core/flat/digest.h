#pragma once
// The state digest: one number for the whole state of a run, the same for any world size,
// recomputable from the files of a checkpoint. Byte-exact definition: core/DIGEST.md. Pure.
// Thread-safety: any thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lockstep/core/base/hash.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

/// XXH3-64 of the raw bytes of each block of the run (the last block of a space may be short).
/// Shapes: `bytes_of_the_run` is exactly space.elems_of(run); `out` has run.num_blocks() entries.
void hash_blocks(const FlatSpace& space, BlockRun run, std::span<const std::byte> bytes_of_the_run,
                 std::span<uint64_t> out);

/// XXH3-128 over the layout, the scalars and all block hashes.
/// Shapes: `block_hashes` has one entry for each of schema.kinds, with a hash for every block of
/// its space. Requires: the above, and that each kind names a space of the layout (else
/// UsageError).
Hash128 state_digest(const StateSchema& schema, std::span<const std::vector<uint64_t>> block_hashes,
                     const Scalars& scalars);

/// The same over values alone: the kinds "param" and "buffer", no optimizer state, no scalars. Two
/// models with equal weights and buffers have equal digests, whatever trained them. Entries of
/// other kinds may be empty.
Hash128 params_digest(const StateSchema& schema,
                      std::span<const std::vector<uint64_t>> block_hashes);

}  // namespace lockstep
