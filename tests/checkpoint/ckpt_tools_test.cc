// Covers: ckpt_verify.cc ckpt_diff.cc ckpt_export.cc block_source.cc elem_values.cc
#include "lockstep/checkpoint/ckpt_tools.h"

#include <gmock/gmock.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "elem_values.h"
#include "forwarding_file_system.h"
#include "json_reader.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Tools : public ::testing::Test {
 protected:
  Tools() : state_(medium_schema(), 6) { path_ = save_state(fs_, 4, state_, 10).value().path; }
  MemoryFileSystem fs_;
  TestState state_;
  std::string path_;
};

TEST_F(Tools, ListShowsGoodAndBad) {
  const std::string second = save_state(fs_, 2, state_, 20).value().path;
  overwrite_file(fs_, path_join(second, "manifest.json"), "{}");
  const auto list = list_checkpoints(fs_, kRunDir);
  ASSERT_TRUE(list.is_ok()) << list.status().message();
  ASSERT_EQ(list->size(), 2U);
  EXPECT_EQ((*list)[0].step, 10);
  EXPECT_EQ((*list)[0].world_size, 4);
  EXPECT_EQ((*list)[0].state_digest, state_.digest(some_scalars(10)));
  EXPECT_THAT((*list)[1].problem, HasSubstr("manifest"));
  EXPECT_THAT(list_text(*list), HasSubstr("BAD"));
  EXPECT_TRUE(parse_json(list_json(*list), "json").is_ok());
  EXPECT_EQ(list_checkpoints(fs_, "/nowhere").status().code(), StatusCode::kNotFound);
}

TEST_F(Tools, InspectShowsTheManifest) {
  const auto manifest = read_manifest(fs_, path_, nullptr);
  EXPECT_THAT(inspect_text(*manifest, InspectDetail::kPicture),
              HasSubstr("embed.weight [300, 200]"));
  // Which rank wrote what.
  MemoryFileSystem fs;
  const auto by_two = read_manifest(fs, save_state(fs, 2, state_, 10)->path, nullptr);
  const std::string text = inspect_text(*by_two, InspectDetail::kAll);
  for (size_t i = 0; i < by_two->shards.size(); ++i) {
    const size_t at = text.find(by_two->shards[i].file);
    const std::string of_shard = text.substr(at, text.find("shard-", at + 1) - at);
    for (const KindRuns& entry : by_two->shards[i].runs) {
      for (const BlockRun& run : entry.runs) {
        EXPECT_THAT(of_shard,
                    ::testing::ContainsRegex(cat(entry.kind.kind, "/", entry.kind.space,
                                                 ": blocks .*", run.first, "-", run.end)));
      }
    }
  }
  EXPECT_TRUE(parse_json(inspect_json(*manifest), "json").is_ok());
}

TEST_F(Tools, VerifyPassesAGoodOne) {
  for (int num_threads : {1, 3}) {
    uint64_t done = 0;
    const auto on_progress = [&](uint64_t done_bytes, uint64_t total_bytes) {
      EXPECT_GE(done_bytes, done);
      EXPECT_LE(done_bytes, total_bytes);
      done = done_bytes;
    };
    const auto report = verify_checkpoint(fs_, path_, {num_threads, on_progress});
    ASSERT_TRUE(report.is_ok()) << report.status().message();
    EXPECT_GT(done, 0U);
    EXPECT_THAT(report->problems, IsEmpty());
    EXPECT_EQ(report->num_blocks, 18U);  // 4 x 3 trainable, 3 frozen, 2 + 1 buffers
    EXPECT_TRUE(parse_json(verify_json(*report), "json").is_ok());
  }
}

TEST_F(Tools, VerifyNamesFileTensorAndBlock) {
  for (const auto& [path, content] : all_files(fs_, path_)) {
    if (!path.ends_with("shard-00001-of-00004.safetensors")) continue;
    std::string flipped = content;
    flipped[4096 + 17] ^= 1;              // in its first block: of the parameters
    flipped[4096 + 16384 * 4 + 17] ^= 1;  // in its second: of a slot
    overwrite_file(fs_, path, flipped);
  }
  const auto report = verify_checkpoint(fs_, path_, {.num_threads = 2});
  ASSERT_THAT(
      report->problems,
      ::testing::ElementsAre(
          HasSubstr(
              "shard-00001-of-00004.safetensors: tensor adamw.exp_avg/trainable.F32@0-1: block 0 "),
          HasSubstr("shard-00001-of-00004.safetensors: tensor param/trainable.F32@0-1: block 0 ")));
  EXPECT_THAT(report->problems[1], HasSubstr("(of conv.weight, conv.bias, embed.weight)"));
  EXPECT_THAT(verify_text(*report), HasSubstr("BAD"));
}

TEST_F(Tools, VerifyNoticesAForgedDigest) {
  const std::string file = path_join(path_, "manifest.json");
  std::string text = read_whole_file(fs_, file, 1 << 20).value();
  const std::string digest = state_.digest(some_scalars(10)).hex();
  text.replace(text.find(digest), 32, std::string(32, '0'));
  text = text.substr(0, text.find(" \"manifest_hash\""));
  overwrite_file(fs_, file, cat(text, " \"manifest_hash\":\"", xxh3_128(text).hex(), "\"\n}\n"));
  const auto report = verify_checkpoint(fs_, path_);
  ASSERT_EQ(report->problems.size(), 1U);
  EXPECT_THAT(report->problems[0], HasSubstr("state digest"));
}

TEST_F(Tools, DiffOfOneStateAtTwoWorldsIsEmpty) {
  const std::string other = save_state(fs_, 3, state_, 10).value().path;
  const auto report = diff_checkpoints(fs_, path_, other);
  ASSERT_TRUE(report.is_ok()) << report.status().message();
  EXPECT_TRUE(report->is_equal());
  EXPECT_EQ(report->num_compared, 12);  // 9 trainable, 1 frozen, 2 buffers
  EXPECT_THAT(diff_text(*report), HasSubstr("equal"));
}

TEST_F(Tools, DiffFindsOneFlippedBit) {
  auto& weights = state_.kind(0);
  float value = 1.0F;
  std::memcpy(weights.data() + 4 * 7, &value, 4);
  const std::string a = save_state(fs_, 2, state_, 10).value().path;
  value = std::nextafter(1.0F, 2.0F);
  std::memcpy(weights.data() + 4 * 7, &value, 4);
  const std::string b = save_state(fs_, 5, state_, 11).value().path;
  const auto report = diff_checkpoints(fs_, a, b);
  ASSERT_EQ(report->tensors.size(), 1U);
  EXPECT_EQ(report->tensors[0].name, "conv.weight");
  EXPECT_EQ(report->tensors[0].num_different, 1);
  EXPECT_EQ(report->tensors[0].largest, static_cast<double>(value) - 1);
  EXPECT_EQ(report->scalars.size(), 2U);  // adamw.step and loss_scale
  EXPECT_THAT(diff_text(*report), HasSubstr("conv.weight: 1 of 4608 elements differ"));
  EXPECT_TRUE(parse_json(diff_json(*report), "json").is_ok());
}

/// The same values as `state`, whose schema differs in the storage order of one tensor alone.
TEST_F(Tools, DiffSeesThroughStorageOrders) {
  StateSchema row_major = medium_schema();
  std::vector<TensorSpec> specs;
  for (const FlatSpace& space : row_major.layout.spaces()) {
    for (const TensorPlace& place : space.tensors) {
      specs.push_back(place.spec);
      if (place.spec.name == "conv.weight") specs.back().order = {0, 1, 2, 3};
    }
  }
  row_major.layout = FlatLayout::plan(specs).value();
  TestState other(row_major, 6);
  for (size_t kind = 0; kind < 3; ++kind) {
    for (size_t n = 0; n < 32; ++n) {
      for (size_t c = 0; c < 16; ++c) {
        for (size_t hw = 0; hw < 9; ++hw) {
          std::memcpy(other.kind(kind).data() + 4 * ((n * 16 + c) * 9 + hw),
                      state_.kind(kind).data() + 4 * ((n * 9 + hw) * 16 + c), 4);
        }
      }
    }
  }
  const std::string b = save_state(fs_, 2, other, 10).value().path;
  for (int num_threads : {1, 3}) {
    const auto report = diff_checkpoints(fs_, path_, b, {.num_threads = num_threads});
    ASSERT_TRUE(report.is_ok()) << report.status().message();
    EXPECT_TRUE(report->is_equal()) << diff_text(*report);
  }
  other.kind(1)[4 * 100] ^= std::byte{1};
  const std::string c = save_state(fs_, 3, other, 10).value().path;
  const auto report = diff_checkpoints(fs_, path_, c, {.num_threads = 2});
  ASSERT_EQ(report->tensors.size(), 1U) << diff_text(*report);
  EXPECT_EQ(report->tensors[0].name, "adamw.exp_avg/conv.weight");
  EXPECT_EQ(report->tensors[0].num_different, 1);
}

TEST_F(Tools, DiffOnManyThreadsIsDiffOnOne) {
  TestState other(medium_schema(), 7);
  const std::string b = save_state(fs_, 3, other, 10).value().path;
  const auto one = diff_checkpoints(fs_, path_, b);
  ASSERT_TRUE(one.is_ok());
  EXPECT_EQ(one->tensors.size(), 12U);
  for (int num_threads : {2, 5})
    EXPECT_EQ(diff_json(*diff_checkpoints(fs_, path_, b, {.num_threads = num_threads})),
              diff_json(*one));
}

TEST_F(Tools, DiffStopsAtWhatItCanNotRead) {
  for (const auto& [path, content] : all_files(fs_, path_)) {
    if (!path.ends_with("shard-00001-of-00004.safetensors")) continue;
    std::string flipped = content;
    flipped[4096 + 17] ^= 1;
    overwrite_file(fs_, path, flipped);
  }
  const auto report = diff_checkpoints(fs_, path_, path_, {.num_threads = 2});
  EXPECT_EQ(report.status().code(), StatusCode::kCorruption);
  EXPECT_THAT(report.status().message(), HasSubstr("block 0"));
}

TEST_F(Tools, DiffOfTwoModelsNamesWhatOneLacks) {
  MemoryFileSystem fs;
  TestState small(small_schema(), 1);
  TestState medium(medium_schema(), 1);
  const std::string a = save_state(fs, 1, small, 1).value().path;
  const std::string b = save_state(fs, 1, medium, 1).value().path;
  const auto report = diff_checkpoints(fs, a, b);
  EXPECT_THAT(diff_text(*report), HasSubstr("weight: only in a"));
  EXPECT_THAT(diff_text(*report), HasSubstr("embed.weight: only in b"));
}

TEST_F(Tools, ExportWritesRowMajorTensors) {
  const auto report = export_checkpoint(fs_, path_, "/out.safetensors", /*all=*/false);
  ASSERT_TRUE(report.is_ok()) << report.status().message();
  const auto file = fs_.open_read("/out.safetensors");
  const auto header = read_safetensors_header(**file, "out");
  ASSERT_TRUE(header.is_ok()) << header.status().message();
  ASSERT_EQ(header->tensors.size(), 4U);
  EXPECT_EQ(header->metadata.at("alias.head.weight"), "embed.weight");
  const SafetensorsEntry& conv = header->tensors[0];
  ASSERT_EQ(conv.name, "conv.weight");
  std::vector<std::byte> bytes(conv.end - conv.begin);
  ASSERT_TRUE((*file)->read(header->data_offset + conv.begin, bytes).is_ok());
  // conv.weight [32, 16, 3, 3] is stored channels-last: element (n, c, h, w) lies at ((n*3 + h)*3 +
  // w)*16 + c.
  size_t at = 0;
  for (size_t n = 0; n < 32; ++n) {
    for (size_t c = 0; c < 16; ++c) {
      for (size_t hw = 0; hw < 9; ++hw, at += 4) {
        ASSERT_EQ(
            std::memcmp(bytes.data() + at, state_.kind(0).data() + 4 * ((n * 9 + hw) * 16 + c), 4),
            0);
      }
    }
  }
  EXPECT_EQ(export_checkpoint(fs_, path_, "/out.safetensors", false).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(export_checkpoint(fs_, path_, "/all.safetensors", true)->num_tensors, 12);
  EXPECT_FALSE(exists(fs_, "/all.safetensors.partial").value());
}

/// Refuses to hold more files open than a bound, as systems do.
class FewFiles final : public ForwardingFileSystem {
 public:
  FewFiles(FileSystem& base, int limit) : ForwardingFileSystem(base), limit_(limit) {}
  Result<std::unique_ptr<ReadableFile>> open_read(const std::string& path) override {
    if (num_open_ >= limit_) return io_error(cat("open ", path, ": Too many open files"));
    LOCKSTEP_ASSIGN_OR_RETURN(auto file, base_.open_read(path));
    return std::unique_ptr<ReadableFile>(std::make_unique<Counted>(std::move(file), &num_open_));
  }
  int num_open() const { return num_open_; }

 private:
  class Counted final : public ReadableFile {
   public:
    Counted(std::unique_ptr<ReadableFile> file, std::atomic<int>* num_open)
        : file_(std::move(file)), num_open_(num_open) {
      ++*num_open_;
    }
    ~Counted() override { --*num_open_; }
    Status read(uint64_t offset_bytes, std::span<std::byte> out) const override {
      return file_->read(offset_bytes, out);
    }
    Result<uint64_t> size_bytes() const override { return file_->size_bytes(); }

   private:
    std::unique_ptr<ReadableFile> file_;
    std::atomic<int>* num_open_;
  };
  const int limit_;
  std::atomic<int> num_open_ = 0;
};

TEST(ToolsOfManyShards, HoldFewOfThemOpen) {
  constexpr int kRanks = static_cast<int>(kMaxOpenShards) + 6;
  StateSchema schema{
      FlatLayout::plan({{"w", {}, Dtype::kI8, {3 * kRanks * kBlockElems}, {0}, SpaceRole::kFrozen}})
          .value(),
      {{"frozen.I8", "param"}}};
  MemoryFileSystem fs;
  TestState state(schema, 3);
  const auto saved = save_state(fs, kRanks, state, 10);
  ASSERT_TRUE(saved.is_ok()) << saved.status().message();
  FewFiles few(fs, static_cast<int>(kMaxOpenShards) + 1);
  const auto report = verify_checkpoint(few, saved->path, {.num_threads = 2});
  ASSERT_TRUE(report.is_ok()) << report.status().message();
  EXPECT_TRUE(report->is_good());
  EXPECT_EQ(report->num_blocks, static_cast<uint64_t>(3 * kRanks));
  const auto exported = export_checkpoint(few, saved->path, "/out.safetensors", true);
  ASSERT_TRUE(exported.is_ok()) << exported.status().message();
  const auto file = fs.open_read("/out.safetensors");
  const auto header = read_safetensors_header(**file, "out");
  std::vector<std::byte> bytes(state.kind(0).size());
  ASSERT_TRUE((*file)->read(header->data_offset, bytes).is_ok());
  EXPECT_TRUE(bytes == state.kind(0));
  EXPECT_EQ(few.num_open(), 0);
}

TEST(ElemValues, OfEveryWidth) {
  const auto as_double = [](Dtype dtype, auto bits) {
    std::byte bytes[sizeof(bits)];
    std::memcpy(bytes, &bits, sizeof(bits));
    return elem_as_double(dtype, bytes);
  };
  EXPECT_EQ(as_double(Dtype::kF32, 1.5F), 1.5);
  EXPECT_EQ(as_double(Dtype::kF64, -2.25), -2.25);
  EXPECT_EQ(as_double(Dtype::kBF16, uint16_t{0x3fc0}), 1.5);
  EXPECT_EQ(as_double(Dtype::kF16, uint16_t{0x3e00}), 1.5);
  EXPECT_EQ(as_double(Dtype::kF16, uint16_t{0xfbff}), -65504);
  EXPECT_EQ(as_double(Dtype::kF16, uint16_t{1}), std::ldexp(1, -24));
  EXPECT_EQ(as_double(Dtype::kF16, uint16_t{0x7c00}), INFINITY);
  EXPECT_TRUE(std::isnan(as_double(Dtype::kF16, uint16_t{0x7c01})));
  EXPECT_EQ(as_double(Dtype::kI64, int64_t{-3}), -3);
  EXPECT_EQ(as_double(Dtype::kI8, int8_t{-3}), -3);
  EXPECT_EQ(as_double(Dtype::kU8, uint8_t{253}), 253);
  EXPECT_EQ(as_double(Dtype::kBool, uint8_t{1}), 1);
}

}  // namespace
}  // namespace lockstep
