// XXH3-64 (seed 0, its own secret) of the blocks of flat memory, as its specification has it for
// inputs of more than 240 bytes; here all are multiples of 64 and their last stripe does not
// overlap the one before.
//
// An input is a row of stripes of 64 bytes, sixteen of which make a round. Eight accumulators take
// a word of each stripe; what a stripe adds does not depend on what they hold, and only at the end
// of a round are they mixed. Sums of integers have no order, so rounds are summed side by side and
// then put through the mixing one after another.
#include <cstdint>

#include "flat_kernels_cuda.h"
#include "kernel_start.h"

namespace lockstep::cuda {
namespace {

constexpr int kLanesOfWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWords = 8;     // of a stripe, and accumulators
constexpr int kStripes = 16;  // of a round
constexpr int kRoundWords = kWords * kStripes;
constexpr int kRounds = kLanesOfWarp / kWords;  // that a warp sums at once

constexpr uint64_t kPrime32_1 = 0x9e3779b1, kPrime32_2 = 0x85ebca77, kPrime32_3 = 0xc2b2ae3d;
constexpr uint64_t kPrime64_1 = 0x9e3779b185ebca87, kPrime64_2 = 0xc2b2ae3d27d4eb4f;
constexpr uint64_t kPrime64_3 = 0x165667b19e3779f9, kPrime64_4 = 0x85ebca77c2b2ae63;
constexpr uint64_t kPrime64_5 = 0x27d4eb2f165667c5, kPrimeOfEnd = 0x165667919e3779f9;

__constant__ const uint64_t kBegin[kWords] = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                                              kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
// The default secret of 192 bytes, as little-endian words.
__constant__ const uint64_t kSecret[24] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
    0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
    0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
    0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
    0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af};
// Where in it the keys of the last stripe and of the end begin; those of mixing are its last words.
constexpr int kBytesBeforeLast = 121;
constexpr int kBytesBeforeEnd = 11;
constexpr int kWordsBeforeMixing = 16;

__device__ uint64_t secret_word(int first_byte) {
  const int word = first_byte / 8, shift = first_byte % 8 * 8;
  return shift == 0 ? kSecret[word] : kSecret[word] >> shift | kSecret[word + 1] << (64 - shift);
}

// What one word of each stripe adds: its product with its key goes to its own accumulator, the word
// itself to the neighbour's.
struct Sums {
  uint64_t words = 0, products = 0;
  __device__ void add(uint64_t word, uint64_t key) {
    const uint64_t keyed = word ^ key;
    words += word;
    products += (keyed & 0xffffffff) * (keyed >> 32);
  }
  __device__ uint64_t of_accumulator() const {
    return products + __shfl_xor_sync(kAllLanes, words, 1);
  }
};

__device__ uint64_t mixed(uint64_t accumulator, uint64_t key) {
  return (accumulator ^ accumulator >> 47 ^ key) * kPrime32_1;
}

// A warp a block: its lanes are four rounds times eight words, each with sixteen loads under way.
// All four groups of lanes keep the same accumulators, so that each finds them where it is.
__global__ void hash_blocks(const uint64_t* words, int64_t num_words, int64_t block_words,
                            uint64_t* hashes) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t block = thread / kLanesOfWarp;
  const int64_t first = block * block_words;
  if (first >= num_words) return;  // the whole warp
  const int lane = static_cast<int>(thread % kLanesOfWarp);
  const int i = lane % kWords, group = lane / kWords;
  const int64_t left = num_words - first;
  const int64_t count = left < block_words ? left : block_words;
  // The last round is not mixed, even if it is whole.
  const int64_t num_mixed_rounds = (count - 1) / kRoundWords;
  const uint64_t* mine = words + first + i;

  uint64_t keys[kStripes];
#pragma unroll
  for (int s = 0; s < kStripes; ++s) keys[s] = kSecret[s + i];
  const uint64_t mixing_key = kSecret[kWordsBeforeMixing + i];
  uint64_t accumulator = kBegin[i];

  for (int64_t round = 0; round < num_mixed_rounds; round += kRounds) {
    Sums sums;
    if (round + group < num_mixed_rounds) {
      const uint64_t* from = mine + (round + group) * kRoundWords;
      uint64_t loaded[kStripes];
#pragma unroll
      for (int s = 0; s < kStripes; ++s) loaded[s] = from[s * kWords];
#pragma unroll
      for (int s = 0; s < kStripes; ++s) sums.add(loaded[s], keys[s]);
    }
    const uint64_t of_group = sums.of_accumulator();
#pragma unroll
    for (int k = 0; k < kRounds; ++k) {
      const uint64_t of_round = __shfl_sync(kAllLanes, of_group, k * kWords + i);
      if (round + k < num_mixed_rounds) accumulator = mixed(accumulator + of_round, mixing_key);
    }
  }

  Sums sums;
  const uint64_t* from = mine + num_mixed_rounds * kRoundWords;
  const int last = static_cast<int>((count - num_mixed_rounds * kRoundWords) / kWords) - 1;
#pragma unroll
  for (int s = 0; s < kStripes; ++s) {
    if (s < last) sums.add(from[s * kWords], keys[s]);
  }
  sums.add(from[last * kWords], secret_word(kBytesBeforeLast + 8 * i));
  accumulator += sums.of_accumulator();

  // Neighbours are multiplied to 128 bits and folded; both hold the result, and pairs are added up.
  const uint64_t keyed = accumulator ^ secret_word(kBytesBeforeEnd + 8 * i);
  const uint64_t other = __shfl_xor_sync(kAllLanes, keyed, 1);
  uint64_t hash = keyed * other ^ __umul64hi(keyed, other);
  hash += __shfl_xor_sync(kAllLanes, hash, 2);
  hash += __shfl_xor_sync(kAllLanes, hash, 4);
  hash += static_cast<uint64_t>(count) * sizeof(uint64_t) * kPrime64_1;
  hash = (hash ^ hash >> 37) * kPrimeOfEnd;
  if (lane == 0) hashes[block] = hash ^ hash >> 32;
}

}  // namespace

void launch_block_hashes(const void* bytes, int64_t num_bytes, int64_t block_bytes,
                         uint64_t* hashes, cudaStream_t stream) {
  if (num_bytes <= 0) return;
  constexpr int64_t kWordBytes = sizeof(uint64_t);
  const int64_t num_blocks = (num_bytes + block_bytes - 1) / block_bytes;
  const int64_t grid = (num_blocks * kLanesOfWarp + kThreads - 1) / kThreads;
  start(hash_blocks, grid, stream, static_cast<const uint64_t*>(bytes), num_bytes / kWordBytes,
        block_bytes / kWordBytes, hashes);
}

}  // namespace lockstep::cuda
