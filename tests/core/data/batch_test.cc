#include "lockstep/core/data/batch.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(ToMemoryFormat, KeepsValuesAndSetsStrides) {
  at::Tensor row_major = at::arange(2 * 3 * 4 * 5, at::kFloat).view({2, 3, 4, 5});
  at::Tensor last = to_memory_format(row_major, at::MemoryFormat::ChannelsLast);
  EXPECT_EQ(last.strides(), (at::IntArrayRef{60, 1, 15, 3}));
  EXPECT_TRUE(last.equal(row_major));
  at::Tensor back = to_memory_format(last, at::MemoryFormat::Contiguous);
  EXPECT_EQ(back.strides(), (at::IntArrayRef{60, 20, 5, 1}));
  EXPECT_TRUE(back.equal(row_major));
}

TEST(ToMemoryFormat, SaysWhichReadingOfOneChannelIsMeantWithoutACopy) {
  at::Tensor row_major = at::arange(2 * 4 * 5, at::kFloat).view({2, 1, 4, 5});
  at::Tensor last = to_memory_format(row_major, at::MemoryFormat::ChannelsLast);
  EXPECT_EQ(last.strides(), (at::IntArrayRef{20, 1, 5, 1}));
  EXPECT_EQ(last.suggest_memory_format(), at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(last.equal(row_major));
  EXPECT_EQ(last.data_ptr(), row_major.data_ptr());
  EXPECT_EQ(to_memory_format(last, at::MemoryFormat::Contiguous).strides(),
            (at::IntArrayRef{20, 20, 5, 1}));
}

TEST(ToMemoryFormat, LeavesOtherDimensionsAlone) {
  at::Tensor table = at::arange(6, at::kFloat).view({2, 3});
  EXPECT_TRUE(to_memory_format(table, at::MemoryFormat::ChannelsLast).is_same(table));
}

}  // namespace
}  // namespace lockstep
