// Covers: tensor_reader.cc
#include "lockstep/checkpoint/weights_file.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(StorageOrder, ThereAndBackForRandomShapes) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 300; ++round) {
    TensorSpec spec{"t", {}, static_cast<Dtype>(random() % 11), {}, {}, SpaceRole::kFrozen};
    for (size_t dim = random() % 5; dim > 0; --dim)
      spec.shape.push_back(static_cast<int64_t>(1 + random() % 5));
    spec.order.resize(spec.shape.size());
    std::iota(spec.order.begin(), spec.order.end(), 0);
    std::shuffle(spec.order.begin(), spec.order.end(), random);
    const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(spec.dtype));
    std::vector<std::byte> stored(static_cast<size_t>(spec.num_elems()) * elem_bytes);
    for (std::byte& byte : stored) byte = static_cast<std::byte>(random());
    std::vector<std::byte> row_major(stored.size());
    to_row_major(spec, stored, row_major);
    // By the definition of strides.
    const auto strides = spec.strides();
    for (int64_t i = 0; i < spec.num_elems(); ++i) {
      int64_t rest = i;
      int64_t at = 0;
      for (size_t dim = spec.shape.size(); dim-- > 0; rest /= spec.shape[dim])
        at += rest % spec.shape[dim] * strides[dim];
      ASSERT_EQ(std::memcmp(row_major.data() + static_cast<size_t>(i) * elem_bytes,
                            stored.data() + static_cast<size_t>(at) * elem_bytes, elem_bytes),
                0);
    }
    std::vector<std::byte> back(stored.size());
    from_row_major(spec, row_major, back);
    ASSERT_EQ(back, stored);
  }
}

TEST(StorageOrder, ElementsComeInWholeUnitsAndBoundedPieces) {
  std::mt19937_64 random(6);
  std::vector<std::byte> all(9'000'000);
  for (std::byte& byte : all) byte = static_cast<std::byte>(random());
  for (const int64_t unit : {1, 1000, 1'500'000, 9'000'000}) {
    const auto num_elems = static_cast<int64_t>(all.size());
    const TensorPlace place{{"t", {}, Dtype::kI8, {num_elems}, {0}, SpaceRole::kFrozen}, 777};
    const int64_t first = static_cast<int64_t>(random() % 1'000'000) + 1'000'000;
    for (const ElemRun elems : {ElemRun{0, num_elems}, ElemRun{first, first + 6'000'000}}) {
      int64_t next = elems.first / unit * unit;
      std::vector<std::byte> out(static_cast<size_t>(elems.num_elems()));
      const Status status = fill_elems(
          place, unit, elems, out, [&](ElemRun piece) -> Result<std::span<const std::byte>> {
            EXPECT_EQ(piece.first, next);
            EXPECT_EQ(piece.num_elems() % unit, 0);
            EXPECT_LE(piece.num_elems(), std::max<int64_t>(4 << 20, unit));
            EXPECT_LT(piece.end - unit, elems.end) << "a unit that nobody wants";
            next = piece.end;
            return std::span<const std::byte>(all).subspan(static_cast<size_t>(piece.first),
                                                           static_cast<size_t>(piece.num_elems()));
          });
      EXPECT_TRUE(status.is_ok());
      EXPECT_GE(next, elems.end);
      EXPECT_TRUE(std::equal(out.begin(), out.end(), all.begin() + elems.first));
    }
  }
}

/// A state, and its weights in "/weights.safetensors".
class Weights : public ::testing::Test {
 protected:
  Weights() : state_(medium_schema(), 6) {
    path_ = save_state(fs_, 3, state_, 10).value().path;
    export_checkpoint(fs_, path_, kFile, /*all=*/false).value();
  }
  Status import(TestState& into, int num_ranks = 1) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      imported_ = import_weights(fs_, kFile, into.schema(), into.owned(rank, num_ranks));
      LOCKSTEP_RETURN_IF_ERROR(imported_.status());
    }
    return Status::ok();
  }
  /// Writes a file of these tensors, all bytes zero.
  void write(const std::vector<std::pair<std::string, TensorSpec>>& tensors) {
    std::vector<SafetensorsEntry> entries;
    uint64_t end = 0;
    for (const auto& [name, spec] : tensors) {
      const uint64_t begin = end;
      end += static_cast<uint64_t>(spec.num_elems() * dtype_size_bytes(spec.dtype));
      entries.push_back({name, spec.dtype, spec.shape, begin, end});
    }
    overwrite_file(fs_, kFile, safetensors_prefix(entries, {}) + std::string(end, '\0'));
  }
  static std::vector<std::pair<std::string, TensorSpec>> right_ones() {
    std::vector<std::pair<std::string, TensorSpec>> tensors;
    const StateSchema schema = medium_schema();
    for (const FlatSpace& space : schema.layout.spaces()) {
      for (const TensorPlace& place : space.tensors) {
        if (space.role != SpaceRole::kBuffer) tensors.emplace_back(place.spec.name, place.spec);
      }
    }
    return tensors;
  }
  static constexpr const char* kFile = "/weights.safetensors";
  MemoryFileSystem fs_;
  TestState state_;
  std::string path_;
  Result<ImportedWeights> imported_ = ImportedWeights();
};

TEST_F(Weights, GoIntoAnyNumberOfRanksBitForBit) {
  for (const int num_ranks : {1, 2, 5}) {
    TestState into(medium_schema(), 0);
    const Status status = import(into, num_ranks);
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_THAT(imported_->kept, ElementsAre("norm.running_mean", "norm.num_batches"));
    EXPECT_EQ(imported_->num_tensors, 4);
    const std::string again = save_state(fs_, num_ranks, into, 11).value().path;
    const std::string file = cat("/again-", num_ranks);
    export_checkpoint(fs_, again, file, /*all=*/false).value();
    const auto bytes = [&](const std::string& path) {
      const auto opened = fs_.open_read(path).value();
      const auto header = read_safetensors_header(*opened, path).value();
      return read_whole_file(fs_, path, 1 << 24).value().substr(header.data_offset);
    };
    EXPECT_EQ(bytes(file), bytes(kFile));
  }
}

TEST_F(Weights, OptimizerStateAndPaddingStayAsTheyAre) {
  TestState into(medium_schema(), 0);
  ASSERT_TRUE(import(into).is_ok());
  EXPECT_EQ(into.kind(1), TestState(medium_schema(), 0).kind(1));
  const StateSchema schema = medium_schema();
  const FlatSpace& space = schema.layout.spaces()[0];
  const TensorPlace& last = space.tensors.back();
  for (int64_t i = last.offset_elems + last.spec.num_elems(); i < space.num_elems; ++i)
    EXPECT_EQ(into.kind(0)[static_cast<size_t>(4 * i)], std::byte{0});
}

TEST_F(Weights, BuffersAreTakenWhenTheFileHasThem) {
  auto tensors = right_ones();
  tensors.emplace_back("norm.running_mean",
                       TensorSpec{"", {}, Dtype::kF32, {20000}, {0}, SpaceRole::kBuffer});
  write(tensors);
  TestState into(medium_schema(), 6);
  ASSERT_TRUE(import(into).is_ok());
  EXPECT_THAT(imported_->kept, ElementsAre("norm.num_batches"));
  EXPECT_EQ(into.kind(4)[0], std::byte{0});
  EXPECT_NE(TestState(medium_schema(), 6).kind(4)[0], std::byte{0});
}

TEST_F(Weights, AllDifferencesAreNamed) {
  auto tensors = right_ones();
  ASSERT_EQ(tensors[0].first, "conv.weight");
  tensors[0].second.shape = {32, 16, 9};
  ASSERT_EQ(tensors[1].first, "conv.bias");
  tensors[1].second.dtype = Dtype::kF16;
  ASSERT_EQ(tensors[3].first, "base.weight");
  tensors[3].first = "base.weights";
  write(tensors);
  TestState into(medium_schema(), 3);
  const Status status = import(into);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("4 differences"));
  EXPECT_THAT(status.message(),
              HasSubstr("shape: conv.weight: the model has [32, 16, 3, 3], the file [32, 16, 9]"));
  EXPECT_THAT(status.message(), HasSubstr("dtype: conv.bias: the model has F32, the file F16"));
  EXPECT_THAT(status.message(), HasSubstr("missing: base.weight: the model has BF16 [77, 501]"));
  EXPECT_THAT(status.message(), HasSubstr("unexpected: base.weights: "));
  EXPECT_TRUE(into == TestState(medium_schema(), 3)) << "nothing was touched";
}

TEST_F(Weights, ATiedTensorMayHaveAnyOfItsNames) {
  auto tensors = right_ones();
  ASSERT_EQ(tensors[2].first, "embed.weight");
  tensors[2].first = "head.weight";
  write(tensors);
  TestState into(medium_schema(), 1);
  EXPECT_TRUE(import(into).is_ok());
  tensors.push_back({"embed.weight", tensors[2].second});
  write(tensors);
  EXPECT_TRUE(import(into).is_ok());
  std::string content = read_whole_file(fs_, kFile, 1 << 24).value();
  content.back() = 1;
  overwrite_file(fs_, kFile, content);
  const Status status = import(into);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("embed.weight and head.weight are one tensor"));
}

TEST_F(Weights, WhatIsNoSafetensorsFileIsRefused) {
  const std::string good = read_whole_file(fs_, kFile, 1 << 24).value();
  const std::string twice =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  const std::string huge =
      R"({"a":{"dtype":"F32","shape":[4503599627370495],"data_offsets":[0,18014398509481980]}})";
  const auto with_header = [](const std::string& header) {
    std::string text(8, '\0');
    text[0] = static_cast<char>(header.size());
    return text + header + std::string(4, '\0');
  };
  TestState into(medium_schema(), 0);
  for (const std::string& bad :
       {std::string(), good.substr(0, 7), good.substr(0, 100), good.substr(0, good.size() - 1),
        good + "x", std::string(8, '\xff') + good, with_header(twice), with_header(huge)}) {
    overwrite_file(fs_, kFile, bad);
    EXPECT_EQ(import(into).code(), StatusCode::kCorruption) << bad.substr(0, 60);
  }
  overwrite_file(fs_, kFile,
                 with_header(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})"));
  EXPECT_EQ(import(into).code(), StatusCode::kUnsupported);
  ASSERT_TRUE(fs_.remove(kFile).is_ok());
  EXPECT_EQ(import(into).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace lockstep
