// FlatLayout: properties over random models, with a fixed generator.
#include "lockstep/core/flat/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/flat/sample_layouts.h"
#include "lockstep/core/flat/dtype.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

TEST(FlatLayout, AlignsTensorsAndNeverOverlapsThem) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    const std::vector<TensorSpec> tensors = random_tensors(seed);
    const FlatLayout layout = FlatLayout::plan(tensors).value();
    size_t placed = 0;
    for (const FlatSpace& space : layout.spaces()) {
      const int64_t bytes = dtype_size_bytes(space.dtype);
      ASSERT_GT(space.num_elems, 0);
      ASSERT_EQ(space.num_bytes() % kTensorAlignBytes, 0);
      int64_t end = 0;
      for (const TensorPlace& place : space.tensors) {
        ASSERT_EQ(place.offset_elems * bytes % kTensorAlignBytes, 0);
        ASSERT_GE(place.offset_elems, end);
        ASSERT_LT((place.offset_elems - end) * bytes, kTensorAlignBytes) << "needless padding";
        end = place.offset_elems + place.spec.num_elems();
        ASSERT_EQ(place.spec.dtype, space.dtype);
        ASSERT_EQ(place.spec.role, space.role);
        ++placed;
      }
      ASSERT_LE(end, space.num_elems);
    }
    ASSERT_EQ(placed, tensors.size());
  }
}

TEST(FlatLayout, KeepsRegistrationOrderInEachSpace) {
  for (uint32_t seed = 0; seed < 100; ++seed) {
    const std::vector<TensorSpec> tensors = random_tensors(seed);
    const FlatLayout layout = FlatLayout::plan(tensors).value();
    for (const FlatSpace& space : layout.spaces()) {
      std::vector<std::string> expected;
      for (const TensorSpec& spec : tensors) {
        if (spec.role == space.role && spec.dtype == space.dtype) expected.push_back(spec.name);
      }
      std::vector<std::string> found;
      for (const TensorPlace& place : space.tensors) found.push_back(place.spec.name);
      ASSERT_EQ(found, expected);
    }
  }
}

TEST(FlatLayout, StridesVisitEachElementOnce) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    for (const TensorSpec& spec : random_tensors(seed)) {
      if (spec.num_elems() == 0 || spec.num_elems() > 5000) continue;
      const std::vector<int64_t> strides = spec.strides();
      std::set<int64_t> offsets = {0};
      for (size_t dim = 0; dim < spec.shape.size(); ++dim) {
        std::set<int64_t> next;
        for (const int64_t offset : offsets) {
          for (int64_t i = 0; i < spec.shape[dim]; ++i) next.insert(offset + i * strides[dim]);
        }
        offsets = std::move(next);
      }
      ASSERT_EQ(static_cast<int64_t>(offsets.size()), spec.num_elems());
      ASSERT_EQ(*offsets.rbegin(), spec.num_elems() - 1);
    }
  }
}

TEST(FlatLayout, ChannelsLastWeightKeepsItsStrides) {
  TensorSpec weight = row_major_tensor("conv.weight", {8, 3, 5, 7});
  EXPECT_EQ(weight.strides(), (std::vector<int64_t>{105, 35, 7, 1}));
  weight.order = {0, 2, 3, 1};
  EXPECT_EQ(weight.strides(), (std::vector<int64_t>{105, 1, 21, 3}));
}

TEST(FlatLayout, SpacesComeInRoleThenDtypeOrder) {
  std::vector<TensorSpec> tensors = {row_major_tensor("count", {}), row_major_tensor("mean", {4}),
                                     row_major_tensor("frozen", {2}), row_major_tensor("half", {2}),
                                     row_major_tensor("weight", {2})};
  tensors[0].role = tensors[1].role = SpaceRole::kBuffer;
  tensors[0].dtype = Dtype::kI64;
  tensors[2].role = SpaceRole::kFrozen;
  tensors[3].dtype = Dtype::kBF16;
  const FlatLayout layout = FlatLayout::plan(tensors).value();
  std::vector<std::string> names;
  for (const FlatSpace& space : layout.spaces()) names.push_back(space.name);
  EXPECT_EQ(names, (std::vector<std::string>{"trainable.F32", "trainable.BF16", "frozen.F32",
                                             "buffer.F32", "buffer.I64"}));
  EXPECT_EQ(layout.find("buffer.I64")->tensors.at(0).spec.name, "count");
  EXPECT_EQ(layout.find("buffer.F64"), nullptr);
  EXPECT_EQ(value_kind(SpaceRole::kFrozen), "param");
  EXPECT_EQ(value_kind(SpaceRole::kBuffer), "buffer");
}

TEST(FlatLayout, CanonicalTextIsExactlyAsDocumented) {
  TensorSpec conv = row_major_tensor("conv.weight", {4, 3, 2, 2});
  conv.order = {0, 2, 3, 1};
  conv.aliases = {"head.weight", "tail weight"};
  TensorSpec steps = row_major_tensor("bn.steps", {});
  steps.role = SpaceRole::kBuffer;
  steps.dtype = Dtype::kI64;
  const FlatLayout layout =
      FlatLayout::plan({conv, row_major_tensor("conv.bias", {4}), steps}).value();
  EXPECT_EQ(layout.canonical_text(),
            "lockstep-layout 1\n"
            "space trainable.F32 128\n"
            "tensor 0 4,3,2,2 0,2,3,1 conv.weight\n"
            "alias head.weight\n"
            "alias tail weight\n"
            "tensor 64 4 0 conv.bias\n"
            "space buffer.I64 32\n"
            "tensor 0 - - bn.steps\n");
}

TEST(FlatLayout, CanonicalTextTellsLayoutsApart) {
  const std::vector<TensorSpec> base = {row_major_tensor("a", {6, 4}),
                                        row_major_tensor("b", {4, 4})};
  const auto text = [](const std::vector<TensorSpec>& tensors) {
    return FlatLayout::plan(tensors).value().canonical_text();
  };
  std::set<std::string> texts = {text(base)};
  const auto expect_new = [&](auto change) {
    std::vector<TensorSpec> changed = base;
    change(changed);
    EXPECT_TRUE(texts.insert(text(changed)).second) << text(changed);
  };
  expect_new([](auto& t) { t[0].name = "c"; });
  expect_new([](auto& t) { t[0].shape = {4, 6}; });
  expect_new([](auto& t) { t[0].shape = {24}, t[0].order = {0}; });
  expect_new([](auto& t) { t[0].order = {1, 0}; });
  expect_new([](auto& t) { t[0].dtype = Dtype::kF64; });
  expect_new([](auto& t) { t[0].role = SpaceRole::kFrozen; });
  expect_new([](auto& t) { t[0].role = SpaceRole::kBuffer; });
  expect_new([](auto& t) { t[0].aliases = {"c"}; });
  expect_new([](auto& t) { t[1].aliases = {"c"}; });
  expect_new([](auto& t) { std::swap(t[0], t[1]); });
  expect_new([](auto& t) { t.pop_back(); });
}

TEST(FlatLayout, LastBlockIsCutAtTheEndOfTheSpace) {
  const FlatLayout layout =
      FlatLayout::plan({row_major_tensor("w", {2 * kBlockElems + 1})}).value();
  const FlatSpace& space = layout.spaces().at(0);
  EXPECT_EQ(space.num_elems, 2 * kBlockElems + 64);
  EXPECT_EQ(space.num_blocks(), 3);
  EXPECT_EQ(space.elems_of({0, 2}), (ElemRun{0, 2 * kBlockElems}));
  EXPECT_EQ(space.elems_of({2, 3}), (ElemRun{2 * kBlockElems, 2 * kBlockElems + 64}));
  EXPECT_EQ(space.elems_of({3, 3}).num_elems(), 0);
  EXPECT_THROW(static_cast<void>(space.elems_of({2, 4})), UsageError);
}

TEST(FlatLayout, RefusesWhatItCannotPlaceAndNamesIt) {
  const auto message = [](const std::vector<TensorSpec>& tensors) {
    const Result<FlatLayout> result = FlatLayout::plan(tensors);
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    return result.status().message();
  };
  EXPECT_THAT(message({row_major_tensor("x", {1}), row_major_tensor("x", {2})}), HasSubstr("'x'"));
  TensorSpec tied = row_major_tensor("y", {1});
  tied.aliases = {"x"};
  EXPECT_THAT(message({row_major_tensor("x", {1}), tied}), HasSubstr("'x'"));
  TensorSpec bad_order = row_major_tensor("weight", {2, 3});
  bad_order.order = {0, 0};
  EXPECT_THAT(message({bad_order}), HasSubstr("'weight'"));
  bad_order.order = {0};
  EXPECT_THAT(message({bad_order}), HasSubstr("'weight'"));
  EXPECT_THAT(message({row_major_tensor("huge", {int64_t{1} << 40, int64_t{1} << 40})}),
              HasSubstr("'huge'"));
  EXPECT_THAT(message({row_major_tensor("minus", {-1})}), HasSubstr("-1"));
  EXPECT_THAT(message({row_major_tensor("two\nlines", {1})}), HasSubstr("control character"));
  EXPECT_THAT(message({row_major_tensor("", {1})}), HasSubstr("empty name"));
  TensorSpec integer = row_major_tensor("ids", {3});
  integer.dtype = Dtype::kI64;
  EXPECT_THAT(message({integer}), HasSubstr("trainable"));
}

TEST(Dtype, NamesRoundTrip) {
  for (int i = 0; i < 11; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(parse_dtype("f32"), std::nullopt);
  EXPECT_EQ(dtype_size_bytes(Dtype::kBF16), 2);
  EXPECT_TRUE(is_floating(Dtype::kF16));
  EXPECT_FALSE(is_floating(Dtype::kU8));
}

}  // namespace
}  // namespace lockstep
