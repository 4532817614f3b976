// Covers: ownership_picture.cc
#include "ownership.h"

#include <gmock/gmock.h>

#include "ckpt_reshard.h"
#include "json_reader.h"
#include "lockstep/checkpoint/ckpt_tools_print.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

Manifest manifest_of(const std::vector<TensorSpec>& specs, int64_t world_size) {
  Manifest manifest;
  manifest.world_size = world_size;
  manifest.schema.layout = FlatLayout::plan(specs).value();
  for (const FlatSpace& space : manifest.schema.layout.spaces()) {
    manifest.schema.kinds.push_back({space.name, "param"});
    manifest.schema.kinds.push_back({space.name, "adamw.exp_avg"});
  }
  for (const auto& runs : plan_reshard(manifest.schema, world_size))
    manifest.shards.push_back({"", 0, runs, {}, {}});
  return manifest;
}

TensorSpec of_blocks(std::string name, int64_t num_blocks) {
  return {std::move(name), {}, Dtype::kF32, {num_blocks * kBlockElems}, {0}, SpaceRole::kTrainable};
}

std::vector<std::string> lines_of(const std::string& text) {
  return split(text.substr(0, text.size() - 1), '\n');
}

TEST(Ownership, AddsUpToEveryByteOfEveryTensor) {
  for (const int64_t world_size : {1, 3, 8}) {
    MemoryFileSystem fs;
    TestState state(medium_schema(), 1);
    const auto path = save_state(fs, static_cast<int>(world_size), state, 10)->path;
    const Manifest manifest = read_manifest(fs, path, nullptr).value();
    const Ownership ownership = plan_ownership(manifest);
    uint64_t stored = 0;
    for (uint64_t bytes : ownership.shard_bytes) stored += bytes;
    uint64_t expected = 0;
    for (const StateKind& kind : manifest.schema.kinds)
      expected += static_cast<uint64_t>(manifest.schema.layout.find(kind.space)->num_bytes());
    EXPECT_EQ(stored, expected);
    ASSERT_EQ(ownership.tensors.size(), 6U);
    for (const TensorOwners& tensor : ownership.tensors) {
      const uint64_t num_kinds = tensor.space->role == SpaceRole::kTrainable ? 3 : 1;
      EXPECT_EQ(tensor.bytes,
                num_kinds * static_cast<uint64_t>(tensor.place->spec.num_elems() *
                                                  dtype_size_bytes(tensor.space->dtype)));
      uint64_t held = 0;
      for (const auto& [shard, bytes] : tensor.owners) held += bytes;
      EXPECT_EQ(held, tensor.bytes);
    }
    EXPECT_TRUE(parse_json(ownership_json(ownership), "json").is_ok());
    const auto json = parse_json(inspect_json(manifest), "json");
    ASSERT_TRUE(json.is_ok()) << json.status().message();
    EXPECT_NE(json->find("owners"), nullptr);
    EXPECT_NE(json->find("state_digest"), nullptr);
  }
}

TEST(OwnershipPicture, ShowsSharesAsTenths) {
  // Two kinds of 20 blocks, one behind the other, over four ranks.
  const Manifest manifest =
      manifest_of({of_blocks("a", 5), of_blocks("b", 14), of_blocks("c", 1)}, 4);
  const auto lines = lines_of(ownership_picture(plan_ownership(manifest), {}));
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_EQ(lines[1], "trainable.F32");
  EXPECT_THAT(lines[2], ::testing::EndsWith("  5.5."));
  EXPECT_THAT(lines[3], ::testing::EndsWith("  1313"));
  EXPECT_THAT(lines[4], ::testing::EndsWith("  .5.5"));
  EXPECT_THAT(lines[5], HasSubstr("most / mean 1.000"));
}

TEST(OwnershipPicture, AWholeTensorAndNextToNothing) {
  const Manifest manifest = manifest_of({of_blocks("big", 39), of_blocks("small", 1)}, 1);
  EXPECT_THAT(ownership_picture(plan_ownership(manifest), {}), HasSubstr("  #\n"));
  const Manifest spread = manifest_of({of_blocks("big", 400)}, 40);
  EXPECT_THAT(ownership_picture(plan_ownership(spread), {}), HasSubstr("+++++"));
}

TEST(OwnershipPicture, ThousandsFitOnAScreen) {
  std::vector<TensorSpec> specs = {of_blocks("embed", 100)};
  for (int layer = 0; layer < 1000; ++layer) {
    for (const char* part : {"attention.weight", "attention.bias", "mlp.weight"})
      specs.push_back(of_blocks(cat("layers.", layer, ".", part), 2));
  }
  const Manifest manifest = manifest_of(specs, 4096);
  const Ownership ownership = plan_ownership(manifest);
  const auto lines = lines_of(ownership_picture(ownership, {}));
  EXPECT_LE(lines.size(), 44U);
  EXPECT_GE(lines.size(), 24U);
  for (const std::string& line : lines) EXPECT_LE(line.size(), 140U) << line;
  EXPECT_THAT(lines[0], HasSubstr("a column 64 ranks of 0..4095"));
  EXPECT_THAT(lines[2], HasSubstr("embed"));
  EXPECT_THAT(lines[3], HasSubstr("layers."));
}

TEST(OwnershipPicture, NamesWithoutDotsAreGroupedToo) {
  std::vector<TensorSpec> specs;
  for (int i = 0; i < 10'000; ++i) {
    specs.push_back({cat("\xc3\xbc", i, std::string(60, 'x')),
                     {},
                     Dtype::kF32,
                     {3},
                     {0},
                     i % 2 == 0 ? SpaceRole::kTrainable : SpaceRole::kFrozen});
  }
  const Manifest manifest = manifest_of(specs, 3);
  const auto lines = lines_of(ownership_picture(plan_ownership(manifest), {}));
  EXPECT_LE(lines.size(), 46U);
  EXPECT_TRUE(parse_json(json_quoted(join(lines, "")), "json").is_ok());
}

}  // namespace
}  // namespace lockstep
