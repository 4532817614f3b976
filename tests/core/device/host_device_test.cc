// The host as a device: its kernels do what the rest of core does by itself, and what its memory
// promises.
// Covers: device_queue.cc host_device.cc
#include "lockstep/core/device/device.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/hash.h"
#include "lockstep/core/device/bf16.h"
#include "lockstep/core/flat/layout.h"
#include "lockstep/core/flat/norms.h"

namespace lockstep {
namespace {

template <typename T>
class HostKernels : public ::testing::Test {
 protected:
  static constexpr Dtype kDtype = sizeof(T) == 4 ? Dtype::kF32 : Dtype::kF64;
  DeviceQueue& queue_ = host_device().compute();
};
using ElemTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(HostKernels, ElemTypes);

TYPED_TEST(HostKernels, AddsElementByElement) {
  std::vector<TypeParam> into, from;
  for (int i = 0; i < 1001; ++i) {
    into.push_back(static_cast<TypeParam>(i));
    from.push_back(static_cast<TypeParam>(1000 * i));
  }
  this->queue_.add_into(this->kDtype, into.data(), from.data(), 1001);
  for (int i = 0; i < 1001; ++i) ASSERT_EQ(into[static_cast<size_t>(i)], TypeParam(1001 * i));
}

TYPED_TEST(HostKernels, AddingZerosTakesTheSignOfZeroAndNothingElse) {
  std::vector<TypeParam> values = {TypeParam(-0.0), TypeParam(0), TypeParam(-3), TypeParam(2.5)};
  this->queue_.add_zeros(this->kDtype, values.data(), 4);
  EXPECT_FALSE(std::signbit(values[0]));
  EXPECT_EQ(values, (std::vector<TypeParam>{0, 0, TypeParam(-3), TypeParam(2.5)}));
}

TYPED_TEST(HostKernels, SumsEachBlockWhateverIsLeftForTheLast) {
  for (int64_t num_elems : {int64_t{1}, kBlockElems - 1, kBlockElems, 2 * kBlockElems + 37}) {
    std::vector<TypeParam> values(static_cast<size_t>(num_elems));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<TypeParam>(std::sin(static_cast<double>(i)));
    std::vector<double> sums(static_cast<size_t>((num_elems + kBlockElems - 1) / kBlockElems), -1);
    this->queue_.block_sums_of_squares(this->kDtype, values.data(), num_elems, sums.data());
    for (size_t b = 0; b < sums.size(); ++b) {
      const size_t first = b * kBlockElems;
      const size_t count = std::min<size_t>(kBlockElems, values.size() - first);
      EXPECT_EQ(std::bit_cast<uint64_t>(sums[b]),
                std::bit_cast<uint64_t>(sum_of_squares(
                    std::span<const TypeParam>(values).subspan(first, count))));
    }
  }
}

TYPED_TEST(HostKernels, MeansOfWhatChangedLeaveTheRestAlone) {
  using T = TypeParam;
  const std::vector<T> before = {1, T(-0.0), 3, 7};
  const std::vector<T> first = {1, T(0.0), 5, 7};  // the sign of zero is a change
  const std::vector<T> second = {1, T(0.0), 9, 8};
  std::vector<T> sums(4, T(99)), counts(4, T(99)), result = before;
  this->queue_.record_change(this->kDtype,
                             {first.data(), before.data(), sums.data(), counts.data(), true}, 4);
  this->queue_.record_change(this->kDtype,
                             {second.data(), before.data(), sums.data(), counts.data(), false}, 4);
  EXPECT_EQ(counts, (std::vector<T>{0, 2, 2, 1}));
  this->queue_.mean_of_changed(this->kDtype, result.data(), sums.data(), counts.data(), 2, 4);
  EXPECT_EQ(result, (std::vector<T>{1, 0, 7, T(7.5)}));
  EXPECT_FALSE(std::signbit(result[1]));
}

TEST(HostBf16, RoundToTheNearestBf16AndToTheEvenOneOfTwo) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<float, float>> cases = {
      {0.0F, 0.0F},
      {-0.0F, -0.0F},
      {1.0F, 1.0F},
      {1.0F + 0x1p-8F, 1.0F},                // half way: 1.0 is the even one
      {1.0F + 0x1p-8F + 0x1p-23F, 1.0F + 0x1p-7F},
      {1.0F + 3 * 0x1p-8F, 1.0F + 0x1p-6F},  // half way, the other way
      {-1.0F - 3 * 0x1p-8F, -1.0F - 0x1p-6F},
      {0x1p-149F, 0.0F},                     // subnormals as all others
      {0x1p-133F, 0x1p-133F},
      {std::numeric_limits<float>::max(), inf},
      {inf, inf},
      {-inf, -inf}};
  for (int copies : {1, 37}) {  // alone, and many side by side
    for (const auto& [value, expected] : cases) {
      const std::vector<float> values(static_cast<size_t>(copies), value);
      const auto n = static_cast<int64_t>(copies);
      std::vector<float> rounded(values.size()), unpacked(values.size());
      std::vector<uint16_t> packed(values.size());
      DeviceQueue& queue = host_device().compute();
      queue.round_to_bf16(rounded.data(), values.data(), n);
      queue.pack_bf16(packed.data(), values.data(), n);
      queue.unpack_bf16(unpacked.data(), packed.data(), n);
      for (float result : rounded) {
        EXPECT_EQ(std::bit_cast<uint32_t>(result), std::bit_cast<uint32_t>(expected)) << value;
      }
      EXPECT_EQ(std::memcmp(unpacked.data(), rounded.data(), rounded.size() * sizeof(float)), 0);
    }
  }
}

TEST(HostBf16, ANaNStaysOneInBf16) {
  for (uint32_t bits : {0x7fc00000U, 0x7f800001U, 0xffffffffU, 0xff80ffffU}) {
    EXPECT_TRUE(std::isnan(float_of_bf16_bits(bf16_bits(std::bit_cast<float>(bits))))) << bits;
  }
}

TEST(HostHashes, AreXxh3OfEachBlockWhateverIsLeftForTheLast) {
  std::vector<std::byte> bytes(3 * 1024 + 512);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  const std::span<const std::byte> all(bytes);
  DeviceQueue& queue = host_device().compute();
  std::vector<uint64_t> hashes(5, 77);
  queue.block_hashes(bytes.data(), static_cast<int64_t>(bytes.size()), 1024, hashes.data());
  for (size_t b = 0; b < 3; ++b) EXPECT_EQ(hashes[b], xxh3_64(all.subspan(b * 1024, 1024)));
  EXPECT_EQ(hashes[3], xxh3_64(all.last(512)));
  EXPECT_EQ(hashes[4], 77U);
  queue.block_hashes(nullptr, 0, 256, hashes.data());
  EXPECT_EQ(hashes[0], xxh3_64(all.first(1024)));
}

TEST(HostHashes, OfWhatNoFlatSpaceHasAreRefused) {
  alignas(8) std::byte bytes[1280] = {};
  uint64_t hashes[8] = {};
  DeviceQueue& queue = host_device().compute();
  for (int64_t n : {-256, 1, 3, 4, 8, 16, 17, 128, 129, 240, 241, 1025})
    EXPECT_THROW(queue.block_hashes(bytes, n, 256, hashes), UsageError) << n;
  EXPECT_THROW(queue.block_hashes(bytes, 256, 0, hashes), UsageError);
  EXPECT_THROW(queue.block_hashes(bytes, 256, 240, hashes), UsageError);
  EXPECT_THROW(queue.block_hashes(bytes + 4, 256, 256, hashes), UsageError);
}

TEST(HostDevice, HasMemoryOfZerosAtPagesAndQueuesThatAreDoneAtOnce) {
  Device& host = host_device();
  EXPECT_TRUE(host.is_host());
  EXPECT_EQ(host.name(), "cpu");
  DeviceMemory memory = host.allocate(10000);
  ASSERT_EQ(memory.num_bytes(), 10000U);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 4096, 0U);
  for (std::byte byte : memory.bytes()) ASSERT_EQ(byte, std::byte{0});
  host.staging().copy(memory.data(), "abc", 3);
  EXPECT_EQ(memory.data()[2], std::byte{'c'});
  host.communication().fill_zero(memory.data(), 3);
  EXPECT_EQ(memory.data()[0], std::byte{0});
  EXPECT_EQ(host.compute().mark(), nullptr);
  EXPECT_TRUE(host.compute().settle("nothing", Deadline::after_s(0)).is_ok());
  std::byte* data = memory.data();
  DeviceMemory moved = std::move(memory);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(host.allocate(0).num_bytes(), 0U);
}

TEST(HostDevice, RefusesArithmeticOnOtherTypes) {
  uint16_t values[2] = {};
  EXPECT_THROW(host_device().compute().add_into(Dtype::kBF16, values, values + 1, 1), UsageError);
}

}  // namespace
}  // namespace lockstep
