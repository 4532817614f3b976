// The kernels of a GPU against those of the host: the same bits, for every length, place and type.
// Covers: cuda_device.cc cuda_queue.cc
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gpu_of_test.h"
#include "lockstep/core/base/check.h"
#include "lockstep/core/flat/layout.h"

namespace lockstep {
namespace {

using testing::gpu_of_test;
using testing::settle;

// Lengths around what a thread, a vector load, a block of values and a launch take at once, and
// starts that are not aligned for vectors.
constexpr int64_t kLengths[] = {1, 3, 15, 16, 17, 4095, kBlockElems - 1, kBlockElems,
                                3 * kBlockElems + 37, 2'500'003};
constexpr int64_t kStarts[] = {0, 1, 2, 3};

template <typename T>
std::vector<T> values_of(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) {
    const uint32_t bits = random();
    // All magnitudes, some zeros of both signs.
    value = static_cast<T>(std::ldexp(static_cast<double>(bits) / 4294967296.0 - 0.5,
                                      static_cast<int>(random() % 40) - 20));
    if (bits % 97 == 0) value = bits % 2 == 0 ? T(0) : T(-0.0);
  }
  return values;
}

std::vector<uint64_t> random_words(int64_t count) {
  std::mt19937_64 random(static_cast<uint64_t>(count));
  std::vector<uint64_t> words(static_cast<size_t>(count));
  for (uint64_t& word : words) word = random();
  return words;
}

template <typename T>
std::vector<T> squares_of(std::vector<T> values) {
  for (T& value : values) value = value * value;
  return values;
}

/// An array on the host and the same on the GPU, `start` elements into its memory.
template <typename T>
class Twin {
 public:
  Twin(std::vector<T> values, int64_t start)
      : host_(std::move(values)),
        memory_(gpu_of_test()->allocate((host_.size() + static_cast<size_t>(start)) * sizeof(T))),
        device_(reinterpret_cast<T*>(memory_.data()) + start) {
    queue().copy(device_, host_.data(), host_.size() * sizeof(T));
  }
  T* host() { return host_.data(); }
  T* device() { return device_; }
  void expect_same() {
    std::vector<T> back(host_.size());
    queue().copy(back.data(), device_, back.size() * sizeof(T));
    ASSERT_TRUE(settle(queue()).is_ok());
    ASSERT_EQ(std::memcmp(back.data(), host_.data(), back.size() * sizeof(T)), 0)
        << host_.size() << " elements of " << sizeof(T) << " bytes";
  }
  static DeviceQueue& queue() { return gpu_of_test()->compute(); }

 private:
  std::vector<T> host_;
  DeviceMemory memory_;
  T* device_;
};

template <typename T>
class GpuKernels : public ::testing::Test {
 protected:
  static constexpr Dtype kDtype = sizeof(T) == 4 ? Dtype::kF32 : Dtype::kF64;
  DeviceQueue& host_ = host_device().compute();
  DeviceQueue& gpu_ = gpu_of_test()->compute();
};
using ElemTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GpuKernels, ElemTypes);

TYPED_TEST(GpuKernels, Add) {
  for (int64_t n : kLengths) {
    for (int64_t start : kStarts) {
      Twin<TypeParam> into(values_of<TypeParam>(n, 1), start), from(values_of<TypeParam>(n, 2), 0);
      this->host_.add_into(this->kDtype, into.host(), from.host(), n);
      this->gpu_.add_into(this->kDtype, into.device(), from.device(), n);
      this->host_.add_zeros(this->kDtype, from.host(), n);
      this->gpu_.add_zeros(this->kDtype, from.device(), n);
      into.expect_same();
      from.expect_same();
    }
  }
}

TYPED_TEST(GpuKernels, SumsOfSquaresOfBlocks) {
  for (int64_t n : kLengths) {
    for (int64_t start : kStarts) {
      Twin<TypeParam> values(values_of<TypeParam>(n, 3), start);
      const auto num_blocks = static_cast<size_t>((n + kBlockElems - 1) / kBlockElems);
      Twin<double> sums(std::vector<double>(num_blocks, -1), 0);
      this->host_.block_sums_of_squares(this->kDtype, values.host(), n, sums.host());
      this->gpu_.block_sums_of_squares(this->kDtype, values.device(), n, sums.device());
      sums.expect_same();
    }
  }
}

TYPED_TEST(GpuKernels, OptimizersOverSeveralSteps) {
  using T = TypeParam;
  for (int64_t n : kLengths) {
    Twin<T> param(values_of<T>(n, 4), 1), grad(values_of<T>(n, 5), 0);
    Twin<T> first(values_of<T>(n, 6), 2), second(squares_of(values_of<T>(n, 7)), 3);
    const UpdateArrays on_host{param.host(), grad.host(), first.host(), second.host(), n};
    const UpdateArrays on_gpu{param.device(), grad.device(), first.device(), second.device(), n};
    const AdamWFactors<double> adamw{0.3, 1 - 1e-4, 0.1, 0.999, 1e-3, 1.7, 1e-8, 1e-3};
    for (int step = 0; step < 3; ++step) {
      this->host_.update_adamw(this->kDtype, on_host, adamw);
      this->gpu_.update_adamw(this->kDtype, on_gpu, adamw);
    }
    UpdateArrays momentum_host = on_host, momentum_gpu = on_gpu;
    momentum_host.second = momentum_gpu.second = nullptr;
    UpdateArrays plain_host = momentum_host, plain_gpu = momentum_gpu;
    plain_host.first = plain_gpu.first = nullptr;
    for (const auto& [host, gpu] :
         {std::pair(momentum_host, momentum_gpu), std::pair(plain_host, plain_gpu)}) {
      this->host_.update_sgd(this->kDtype, host, {0.3, 0.01, 0.9, 0.1});
      this->gpu_.update_sgd(this->kDtype, gpu, {0.3, 0.01, 0.9, 0.1});
    }
    param.expect_same();
    first.expect_same();
    second.expect_same();
  }
}

TYPED_TEST(GpuKernels, MeansOfBuffersThatChanged) {
  using T = TypeParam;
  for (int64_t n : kLengths) {
    std::vector<T> changed = values_of<T>(n, 8);
    for (size_t i = 0; i < changed.size(); i += 3) changed[i] = changed[i] + T(1);
    Twin<T> before(values_of<T>(n, 8), 0), now(changed, 1);
    Twin<T> sums(std::vector<T>(changed.size()), 0), counts(std::vector<T>(changed.size()), 0);
    for (bool is_first : {true, false}) {
      this->host_.record_change(
          this->kDtype, {now.host(), before.host(), sums.host(), counts.host(), is_first}, n);
      this->gpu_.record_change(
          this->kDtype, {now.device(), before.device(), sums.device(), counts.device(), is_first},
          n);
    }
    this->host_.mean_of_changed(this->kDtype, before.host(), sums.host(), counts.host(), 3, n);
    this->gpu_.mean_of_changed(this->kDtype, before.device(), sums.device(), counts.device(), 3, n);
    before.expect_same();
  }
}

TEST(GpuBf16, RoundsPacksAndUnpacks) {
  for (int64_t n : kLengths) {
    for (int64_t start : kStarts) {
      std::vector<float> special = values_of<float>(n, 9);
      for (size_t i = 0; i < special.size(); i += 11) special[i] = 1.0F + 0x1p-8F;
      for (size_t i = 5; i < special.size(); i += 501) special[i] = INFINITY;
      Twin<float> values(special, start), unpacked(std::vector<float>(special.size()), 1);
      Twin<uint16_t> packed(std::vector<uint16_t>(special.size()), start);
      const auto run = [&](DeviceQueue& queue, float* from, uint16_t* bf16, float* back) {
        queue.pack_bf16(bf16, from, n);
        queue.unpack_bf16(back, bf16, n);
        queue.round_to_bf16(from, from, n);
      };
      run(host_device().compute(), values.host(), packed.host(), unpacked.host());
      run(gpu_of_test()->compute(), values.device(), packed.device(), unpacked.device());
      values.expect_same();
      packed.expect_same();
      unpacked.expect_same();
    }
  }
}

// Around what XXH3 takes at once (a stripe is 64 bytes, a round of them 1024) and what a warp does
// (four rounds), in blocks of every dtype's size: 1, 2, 4 and 8 bytes an element.
TEST(GpuHashes, AreThoseOfTheHostForEachBlock) {
  for (int64_t block : {kTensorAlignBytes, int64_t{1280}, kBlockElems, 2 * kBlockElems,
                        4 * kBlockElems, 8 * kBlockElems}) {
    for (int64_t n : {int64_t{0}, int64_t{256}, int64_t{512}, int64_t{768}, int64_t{1024},
                      int64_t{1280}, int64_t{2048}, int64_t{3840}, int64_t{4096}, int64_t{4352},
                      int64_t{5120}, int64_t{5376}, int64_t{8192}, block - 1024, block - 256, block,
                      block + 256, 5 * block, 9 * block + 768}) {
      if (n < 0 || n > 100 * block) continue;
      for (int64_t start_bytes : {0, 8, 256, 1280}) {
        std::vector<uint64_t> words = random_words(n / 8);
        Twin<uint64_t> from(words, start_bytes / 8);
        // One hash more than asked for must stay as it is.
        const auto num_hashes = static_cast<size_t>((n + block - 1) / block) + 1;
        Twin<uint64_t> hashes(std::vector<uint64_t>(num_hashes, 77), 0);
        host_device().compute().block_hashes(from.host(), n, block, hashes.host());
        gpu_of_test()->compute().block_hashes(from.device(), n, block, hashes.device());
        hashes.expect_same();
        ASSERT_FALSE(HasFailure()) << n << " bytes at " << start_bytes << ", blocks of " << block;
      }
    }
  }
}

TEST(GpuHashes, OfSpecialWordsCarryAsOnTheHost) {
  for (uint64_t word : {uint64_t{0}, ~uint64_t{0}, uint64_t{0xffffffff}, uint64_t{1} << 63}) {
    Twin<uint64_t> from(std::vector<uint64_t>(static_cast<size_t>(kBlockElems), word), 0);
    Twin<uint64_t> hashes(std::vector<uint64_t>(2), 0);
    constexpr int64_t kBytes = 8 * kBlockElems;
    host_device().compute().block_hashes(from.host(), kBytes, kBytes / 2, hashes.host());
    gpu_of_test()->compute().block_hashes(from.device(), kBytes, kBytes / 2, hashes.device());
    hashes.expect_same();
  }
}

TEST(GpuHashes, OfWhatNoFlatSpaceHasAreRefused) {
  DeviceQueue& gpu = gpu_of_test()->compute();
  const DeviceMemory memory = gpu_of_test()->allocate(4096);
  auto* hashes = reinterpret_cast<uint64_t*>(memory.data() + 2048);
  for (int64_t n : {-256, 1, 3, 4, 8, 16, 17, 128, 129, 240, 241, 1025})
    EXPECT_THROW(gpu.block_hashes(memory.data(), n, 1024, hashes), UsageError) << n;
  EXPECT_THROW(gpu.block_hashes(memory.data(), 1024, 0, hashes), UsageError);
  EXPECT_THROW(gpu.block_hashes(memory.data(), 1024, 240, hashes), UsageError);
  EXPECT_THROW(gpu.block_hashes(memory.data() + 4, 1024, 256, hashes), UsageError);
}

TEST(GpuQueues, AMarkPutsOneBehindTheOther) {
  Accelerator& gpu = *gpu_of_test();
  constexpr size_t kBytes = size_t{256} << 20;
  DeviceMemory a = gpu.allocate(kBytes), b = gpu.allocate(kBytes);
  std::vector<std::byte> ones(kBytes, std::byte{1}), back(kBytes);
  gpu.pin(ones);
  gpu.pin(back);
  for (int round = 0; round < 5; ++round) {
    gpu.staging().copy(a.data(), ones.data(), kBytes);
    gpu.communication().wait_for(gpu.staging().mark());
    gpu.communication().copy(b.data(), a.data(), kBytes);
    gpu.compute().wait_for(gpu.communication().mark());
    const QueueMark begin = gpu.compute().mark();
    gpu.compute().copy(back.data(), b.data(), kBytes);
    const QueueMark end = gpu.compute().mark();
    ASSERT_TRUE(settle(gpu.compute()).is_ok());
    ASSERT_EQ(back, ones);
    EXPECT_GT(gpu.compute().ms_between(begin, end), 0);
    gpu.compute().fill_zero(a.data(), kBytes);
    gpu.compute().fill_zero(b.data(), kBytes);
    gpu.staging().wait_for(gpu.compute().mark());
    std::fill(back.begin(), back.end(), std::byte{0});
  }
  gpu.unpin(ones);
  gpu.unpin(back);
}

TEST(GpuMemory, IsZeroAndCounted) {
  Accelerator& gpu = *gpu_of_test();
  const uint64_t before = gpu.memory_use().in_use;
  DeviceMemory memory = gpu.allocate(size_t{64} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 256, 0U);
  std::vector<std::byte> back(memory.num_bytes(), std::byte{1});
  gpu.staging().copy(back.data(), memory.data(), back.size());
  ASSERT_TRUE(settle(gpu.staging()).is_ok());
  EXPECT_EQ(back, std::vector<std::byte>(back.size()));
  const DeviceMemoryUse use = gpu.memory_use();
  EXPECT_GE(use.in_use, before + memory.num_bytes());
  EXPECT_GE(use.peak_in_use, use.in_use);
  EXPECT_GE(use.total, use.reserved);
}

TEST(GpuMemory, ThatIsFullIsCounted) {
  Accelerator& gpu = *gpu_of_test();
  const uint64_t before = gpu.memory_use().num_times_full;
  EXPECT_ANY_THROW(gpu.allocate(size_t{1} << 50));
  EXPECT_EQ(gpu.memory_use().num_times_full, before + 1);
}

TEST(GpuFacts, NameWhatChangesBits) {
  const std::map<std::string, std::string> facts = gpu_of_test()->facts();
  for (const char* name : {"GPU", "CUDA", "cuDNN", "NCCL"})
    EXPECT_FALSE(facts.at(name).empty()) << name;
}

}  // namespace
}  // namespace lockstep
