#pragma once
// What the disk and the memory themselves do, to stand beside what checkpoints make of them. Kept
// apart from the code it is a yardstick for: plain liburing, no seam.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lockstep {

struct ProbeShape {
  uint64_t piece_bytes = uint64_t{4} << 20;
  unsigned in_flight = 8;
};

/// Seconds to write `bytes` to a new file with O_DIRECT through io_uring, room set aside first, and
/// to sync it. `buffer` is aligned to 4096 and holds in_flight pieces. Throws on any error.
double probe_write_s(const std::string& path, uint64_t bytes, std::span<std::byte> buffer,
                     const ProbeShape& shape);
/// Seconds to read it back the same way.
double probe_read_s(const std::string& path, uint64_t bytes, std::span<std::byte> buffer,
                    const ProbeShape& shape);
/// Drops a file's pages from the page cache.
void drop_from_cache(const std::string& path);

}  // namespace lockstep
