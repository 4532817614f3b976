#pragma once
// Hashes: XXH3 of 64 and 128 bits (detects accidents, not attackers). xxhash stays behind this
// header.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace lockstep {

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Hash128&) const = default;
  /// 32 lower-case hex digits, high half first (XXH128's canonical form, as `xxh128sum` and
  /// Python's xxhash print it).
  std::string hex() const;
};

/// XXH3-64 with seed 0.
uint64_t xxh3_64(std::span<const std::byte> bytes);
uint64_t xxh3_64(std::string_view text);
/// XXH3-128 with seed 0.
Hash128 xxh3_128(std::span<const std::byte> bytes);
Hash128 xxh3_128(std::string_view text);

/// Copies `from` to `to` (same length, no overlap) and returns the XXH3-64 of what was copied, in
/// one pass of cache-sized pieces: the hash costs almost nothing beside the copy.
uint64_t copy_and_xxh3_64(std::span<const std::byte> from, std::span<std::byte> to);

/// As copy_and_xxh3_64, for copies that nobody reads soon: they go past the caches, which saves
/// reading the memory that they overwrite. It is `from` that is hashed, so the hash vouches for the
/// copying too.
uint64_t stream_and_xxh3_64(std::span<const std::byte> from, std::span<std::byte> to);
/// Copies as stream_and_xxh3_64 does.
void stream_copy(std::span<const std::byte> from, std::span<std::byte> to);

/// XXH3 of a stream of pieces; equal to the hash of their concatenation.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  Hash128 digest() const;
  uint64_t digest_64() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Mixes three numbers into 64 well-spread bits (a fixed function: part of the recipe's meaning,
/// never change it).
uint64_t mix(uint64_t a, uint64_t b, uint64_t c);

}  // namespace lockstep
