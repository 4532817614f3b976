#include "lockstep/core/base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

std::vector<std::byte> random_bytes(size_t size, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

// Published values of the XXH3 specification for the empty input.
TEST(Hash, MatchesTheSpecificationOnTheEmptyInput) {
  EXPECT_EQ(xxh3_64(std::string_view()), 0x2d06800538d394c2u);
  EXPECT_EQ(xxh3_128(std::string_view()).hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Hash, TextAndBytesAgree) {
  const std::string text = "the world size is not part of the recipe";
  EXPECT_EQ(xxh3_64(text), xxh3_64(std::as_bytes(std::span(text))));
  EXPECT_EQ(xxh3_128(text), xxh3_128(std::as_bytes(std::span(text))));
}

TEST(Hash, CopyAndHashEqualsHashOfTheCopyAtEverySize) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{240}, size_t{241}, size_t{131071},
                      size_t{131072}, size_t{131073}, size_t{1000003}}) {
    const auto from = random_bytes(size, size);
    std::vector<std::byte> to(size);
    EXPECT_EQ(copy_and_xxh3_64(from, to), xxh3_64(std::span<const std::byte>(from))) << size;
    EXPECT_EQ(from, to) << size;
  }
}

TEST(Hash, AStreamedCopyIsTheSameWhereverItGoesAndTouchesNothingElse) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{200}, size_t{8191},
                      size_t{16384}, size_t{65537}}) {
    for (size_t shift : {size_t{0}, size_t{1}, size_t{16}, size_t{63}, size_t{64}}) {
      const auto from = random_bytes(size, size);
      std::vector<std::byte> room(size + 128, std::byte{0x5a});
      const auto to = std::span(room).subspan(shift, size);
      EXPECT_EQ(stream_and_xxh3_64(from, to), xxh3_64(std::span<const std::byte>(from))) << size;
      EXPECT_TRUE(std::equal(from.begin(), from.end(), to.begin())) << size << " " << shift;
      std::fill(to.begin(), to.end(), std::byte{0x5a});
      EXPECT_EQ(std::count(room.begin(), room.end(), std::byte{0x5a}),
                static_cast<ptrdiff_t>(room.size()));
      stream_copy(from, to);
      EXPECT_TRUE(std::equal(from.begin(), from.end(), to.begin())) << size << " " << shift;
    }
  }
}

TEST(Hash, CopyAndHashRefusesUnequalLengths) {
  std::vector<std::byte> from(3), to(2);
  EXPECT_THROW(copy_and_xxh3_64(from, to), UsageError);
  EXPECT_THROW(stream_and_xxh3_64(from, to), UsageError);
  EXPECT_THROW(stream_copy(from, to), UsageError);
}

TEST(Hash, AStreamOfPiecesEqualsTheWhole) {
  std::mt19937_64 generator(7);
  for (int round = 0; round < 50; ++round) {
    const auto whole = random_bytes(generator() % 5000, generator());
    Xxh3Stream stream;
    for (size_t begin = 0; begin < whole.size();) {
      const size_t size = std::min<size_t>(generator() % 700, whole.size() - begin);
      stream.update(std::span(whole).subspan(begin, size));
      begin += size;
    }
    EXPECT_EQ(stream.digest(), xxh3_128(whole));
    EXPECT_EQ(stream.digest_64(), xxh3_64(whole));
  }
}

TEST(Hash, AnyFlippedBitChangesTheHash) {
  auto bytes = random_bytes(300, 1);
  const Hash128 before = xxh3_128(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_NE(xxh3_128(bytes), before) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
}

// The values are part of the recipe's meaning: a change would silently change every run's random
// numbers.
TEST(Mix, IsTheSameFunctionForEver) {
  EXPECT_EQ(mix(0, 0, 0), 0x238275bc38fcbe91u);
  EXPECT_EQ(mix(1, 2, 3), 0xd0734750fde362b3u);
}

TEST(Mix, HasNoCollisionAmongNearbyStepsAndMicroBatches) {
  std::set<uint64_t> seen, low_halves;
  size_t count = 0;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (uint64_t step = 0; step < 100; ++step) {
      for (uint64_t micro_batch = 0; micro_batch < 16; ++micro_batch, ++count) {
        seen.insert(mix(seed, step, micro_batch));
        low_halves.insert(mix(seed, step, micro_batch) & 0xffffffffu);
      }
    }
  }
  EXPECT_EQ(seen.size(), count);
  // 6400 draws from 2^32 values collide 0.005 times on average; LibTorch's generator keeps these
  // bits alone.
  EXPECT_GE(low_halves.size(), count - 1);
}

}  // namespace
}  // namespace lockstep
