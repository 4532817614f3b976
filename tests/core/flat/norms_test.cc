// Norms and vector operations: bits against plain scalar loops, for every variant that this
// processor can run.
#include "lockstep/core/flat/norms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/flat/sample_layouts.h"
#include "kernel_variants.h"
#include "kernels.h"
#include "lockstep/core/flat/flat_buffer.h"
#include "lockstep/core/flat/tree.h"
#include "lockstep/core/flat/vector_ops.h"

namespace lockstep {
namespace {

constexpr KernelVariant kVariants[] = {KernelVariant::kBaseline, KernelVariant::kAvx2,
                                       KernelVariant::kAvx512};

// Values over many orders of magnitude, so that another order of additions gives other bits.
template <typename T>
std::vector<T> random_values(size_t count, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<T> values(count);
  for (T& value : values) {
    const double mantissa = static_cast<double>(rng()) / 4294967296.0 - 0.5;
    value = static_cast<T>(std::ldexp(mantissa, static_cast<int>(rng() % 40) - 20));
  }
  return values;
}

// The documented order, one operation at a time.
template <typename T>
double reference_sum_of_squares(const std::vector<T>& values) {
  volatile double lanes[16] = {};
  for (size_t i = 0; i < values.size(); ++i) {
    const volatile double value = static_cast<double>(values[i]);
    const volatile double square = value * value;
    lanes[i % 16] = lanes[i % 16] + square;
  }
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) lanes[lane] = lanes[lane] + lanes[lane + half];
  }
  return lanes[0];
}

template <typename T>
class Kernels : public ::testing::Test {};
using ElemTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Kernels, ElemTypes);

TYPED_TEST(Kernels, SumOfSquaresHasTheDocumentedOrderInEveryVariant) {
  for (size_t count = 0; count < 200; ++count) {
    const auto values = random_values<TypeParam>(count, static_cast<uint32_t>(count));
    const double expected = reference_sum_of_squares(values);
    ASSERT_EQ(sum_of_squares(std::span<const TypeParam>(values)), expected) << count;
    for (const KernelVariant variant : kVariants) {
      if (!can_run(variant)) continue;
      const auto found = run_kernel<SumOfSquares>(
          variant, static_cast<const TypeParam*>(values.data()), static_cast<int64_t>(count));
      ASSERT_EQ(found, expected) << count;
    }
  }
}

TYPED_TEST(Kernels, AnotherOrderGivesOtherBits) {
  // Otherwise the test above would prove nothing.
  const auto values = random_values<TypeParam>(4096, 7);
  double forward = 0;
  for (const TypeParam value : values) forward += static_cast<double>(value) * value;
  EXPECT_NE(sum_of_squares(std::span<const TypeParam>(values)), forward);
  EXPECT_NEAR(sum_of_squares(std::span<const TypeParam>(values)), forward, 1e-9 * forward);
}

TYPED_TEST(Kernels, AddIntoEqualsAScalarLoopInEveryVariantAndAtEveryCut) {
  constexpr size_t kCount = 300;
  const auto from = random_values<TypeParam>(kCount, 1);
  const auto before = random_values<TypeParam>(kCount, 2);
  std::vector<TypeParam> expected(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    const volatile TypeParam sum = before[i] + from[i];
    expected[i] = sum;
  }
  for (size_t cut = 0; cut <= 64; ++cut) {
    for (const KernelVariant variant : kVariants) {
      if (!can_run(variant)) continue;
      std::vector<TypeParam> into = before;
      const TypeParam* source = from.data();
      run_kernel<AddInto>(variant, into.data(), source, static_cast<int64_t>(cut));
      run_kernel<AddInto>(variant, into.data() + cut, source + cut,
                          static_cast<int64_t>(kCount - cut));
      ASSERT_EQ(std::memcmp(into.data(), expected.data(), kCount * sizeof(TypeParam)), 0);
    }
    std::vector<TypeParam> into = before;
    add_into(into.data(), from.data(), static_cast<int64_t>(cut));
    add_into(into.data() + cut, from.data() + cut, static_cast<int64_t>(kCount - cut));
    ASSERT_EQ(std::memcmp(into.data(), expected.data(), kCount * sizeof(TypeParam)), 0);
  }
}

TEST(Norms, ShardsCutAtBlockEdgesGiveTheSameSums) {
  const FlatSpace space = f32_space(9 * kBlockElems + 1000);
  const auto values = random_values<float>(static_cast<size_t>(space.num_elems), 3);
  std::vector<double> whole(static_cast<size_t>(space.num_blocks()));
  block_sums_of_squares(std::span<const float>(values), whole);
  std::mt19937 rng(4);
  for (int round = 0; round < 50; ++round) {
    std::vector<double> parts(whole.size());
    int64_t first = 0;
    while (first < space.num_blocks()) {
      const int64_t end = std::min<int64_t>(space.num_blocks(), first + rng() % 4);
      const ElemRun elems = space.elems_of({first, end});
      block_sums_of_squares(
          std::span<const float>(values).subspan(static_cast<size_t>(elems.first),
                                                 static_cast<size_t>(elems.num_elems())),
          std::span(parts).subspan(static_cast<size_t>(first), static_cast<size_t>(end - first)));
      first = end;
    }
    ASSERT_EQ(parts, whole);
  }
}

TEST(Norms, BlockSumsRefuseRoomForAnotherNumberOfBlocks) {
  const std::vector<float> values(kBlockElems + 64);
  std::vector<double> sums(3);
  for (const size_t num_blocks : {0, 1, 3}) {
    EXPECT_THROW(block_sums_of_squares(std::span(values), std::span(sums).first(num_blocks)),
                 UsageError);
  }
  block_sums_of_squares(std::span(values), std::span(sums).first(2));
}

TEST(Norms, FoldIsTheTreeOverBlocks) {
  EXPECT_EQ(fold_block_sums({}), 0.0);
  int num_order_matters = 0;
  for (size_t count = 1; count <= 300; ++count) {
    const std::vector<double> sums = random_values<double>(count, static_cast<uint32_t>(count));
    const auto num_leaves = static_cast<int64_t>(count);
    const FoldPlan plan = plan_fold(num_leaves, {0, num_leaves});
    std::vector<double> slots(static_cast<size_t>(plan.num_slots));
    double in_a_row = 0;
    for (size_t leaf = 0; leaf < count; ++leaf) {
      slots.at(static_cast<size_t>(plan.steps[leaf].slot)) = sums[leaf];
      for (const FoldMerge& merge : plan.steps[leaf].merges)
        slots.at(static_cast<size_t>(merge.into)) += slots.at(static_cast<size_t>(merge.from));
      in_a_row += sums[leaf];
    }
    ASSERT_EQ(fold_block_sums(sums), slots[0]) << count << " blocks";
    num_order_matters += in_a_row != slots[0];
  }
  EXPECT_GT(num_order_matters, 100) << "the values would hide another order";
}

TEST(FlatBuffer, IsZeroPageAlignedAndMovesItsMemory) {
  for (const int64_t num_bytes : {1, 4096, 10000}) {
    FlatBuffer buffer(num_bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 4096, 0u);
    for (const std::byte byte : buffer.bytes()) ASSERT_EQ(byte, std::byte{0});
    buffer.bytes().back() = std::byte{1};
    const std::byte* const memory = buffer.data();
    FlatBuffer moved = std::move(buffer);
    EXPECT_EQ(moved.data(), memory);
    EXPECT_EQ(moved.num_bytes(), num_bytes);
    EXPECT_EQ(buffer.num_bytes(), 0);  // NOLINT(bugprone-use-after-move): documented to be empty
    EXPECT_TRUE(buffer.bytes().empty());
    moved.fill_zero();
    EXPECT_EQ(moved.bytes().back(), std::byte{0});
  }
  EXPECT_EQ(FlatBuffer(0).data(), nullptr);
  EXPECT_EQ(FlatBuffer(12).as<float>().size(), 3u);
  EXPECT_THROW(FlatBuffer(10).as<float>(), UsageError);
  EXPECT_THROW(FlatBuffer(-1), UsageError);
}

}  // namespace
}  // namespace lockstep
