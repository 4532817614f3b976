// Covers: params_load.cc params_plan.cc
#include "lockstep/checkpoint/params_load.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <mutex>

#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = ModelDifference::Kind;

TensorSpec spec(std::string name, std::vector<int64_t> shape, SpaceRole role,
                Dtype dtype = Dtype::kF32) {
  std::vector<int64_t> order;
  for (size_t i = 0; i < shape.size(); ++i) order.push_back(static_cast<int64_t>(i));
  return {std::move(name), {}, dtype, std::move(shape), std::move(order), role};
}

/// Values alone, no slots.
StateSchema schema_of(const std::vector<TensorSpec>& specs) {
  StateSchema schema{FlatLayout::plan(specs).value(), {}};
  for (const FlatSpace& space : schema.layout.spaces())
    schema.kinds.push_back({space.name, std::string(value_kind(space.role))});
  return schema;
}

/// What medium_schema() has, for fine-tuning: registered in another order, the base frozen, a
/// weight in row-major order, a tied one on its own, a head of another size.
std::vector<TensorSpec> tuned_specs() {
  return {spec("norm.num_batches", {}, SpaceRole::kBuffer, Dtype::kI64),
          spec("extra.weight", {40, 1000}, SpaceRole::kTrainable),
          spec("conv.bias", {32}, SpaceRole::kTrainable),
          spec("base.weight", {77, 501}, SpaceRole::kTrainable, Dtype::kBF16),
          spec("head.weight", {300, 200}, SpaceRole::kTrainable),
          spec("conv.weight", {32, 16, 3, 3}, SpaceRole::kFrozen),
          spec("norm.running_mean", {30000}, SpaceRole::kBuffer)};
}
const AllowedDifferences kTunedAllows = {{"extra.*", "norm.running*"}, {"norm.*_mean"}};

/// A tensor's bytes in row-major order.
std::string row_major(TestState& state, const std::string& name) {
  const StateSchema& schema = state.schema();
  for (size_t k = 0; k < schema.kinds.size(); ++k) {
    const FlatSpace& space = *schema.layout.find(schema.kinds[k].space);
    if (schema.kinds[k].kind != value_kind(space.role)) continue;
    for (const TensorPlace& place : space.tensors) {
      if (place.spec.name != name) continue;
      const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(space.dtype));
      const std::vector<int64_t> strides = place.spec.strides();
      std::string out;
      for (int64_t i = 0; i < place.spec.num_elems(); ++i) {
        int64_t rest = i, at = place.offset_elems;
        for (size_t d = place.spec.shape.size(); d-- > 0;) {
          at += rest % place.spec.shape[d] * strides[d];
          rest /= place.spec.shape[d];
        }
        out.append(reinterpret_cast<const char*>(state.kind(k).data()) +
                       static_cast<size_t>(at) * elem_bytes,
                   elem_bytes);
      }
      return out;
    }
  }
  return cat("no ", name);
}

struct LoadOutcome {
  Status status;
  ParamsLoaded loaded;      ///< rank 0's
  uint64_t bytes_read = 0;  ///< over all ranks
};

LoadOutcome load(FileSystem& fs, int num_ranks, TestState& into, const std::string& path,
                 const AllowedDifferences& allowed) {
  LoadOutcome outcome;
  std::mutex mutex;
  outcome.status = with_ranks(num_ranks, [&](World& world) -> Status {
    const OwnedState owned = into.owned(world.world_rank(), num_ranks);
    ParamsLoadRequest request;
    request.path = path;
    request.schema = &into.schema();
    request.into = &owned;
    request.allowed = allowed;
    LOCKSTEP_ASSIGN_OR_RETURN(const ParamsLoaded loaded,
                              load_params(fs, world.control_plane(), request));
    std::lock_guard lock(mutex);
    outcome.bytes_read += loaded.own_bytes_read;
    if (world.world_rank() == 0) outcome.loaded = loaded;
    return Status::ok();
  });
  return outcome;
}

class ParamsLoad : public ::testing::Test {
 protected:
  ParamsLoad() : saved_(medium_schema(), 5) { path_ = save_state(fs_, 3, saved_, 30).value().path; }
  MemoryFileSystem fs_;
  TestState saved_;
  std::string path_;
};

TEST_F(ParamsLoad, TakesEachTensorByItsNameOnAnyNumberOfRanks) {
  for (int num_ranks : {1, 2, 5}) {
    TestState model(schema_of(tuned_specs()), 9);
    const std::string extra = row_major(model, "extra.weight");
    const std::string mean = row_major(model, "norm.running_mean");
    const LoadOutcome outcome = load(fs_, num_ranks, model, path_, kTunedAllows);
    ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
    for (const char* name : {"conv.bias", "base.weight", "conv.weight", "norm.num_batches"})
      EXPECT_TRUE(row_major(model, name) == row_major(saved_, name)) << name;
    EXPECT_TRUE(row_major(model, "head.weight") == row_major(saved_, "embed.weight")) << "tied";
    EXPECT_TRUE(row_major(model, "extra.weight") == extra) << "kept";
    EXPECT_TRUE(row_major(model, "norm.running_mean") == mean) << "kept";
    EXPECT_EQ(outcome.loaded.num_tensors, 5);
    EXPECT_EQ(outcome.loaded.step, 30);
    EXPECT_EQ(outcome.loaded.left_out.size(), 2U);
  }
}

TEST_F(ParamsLoad, OfTheSameModelReadsTheBlocksOfItsValuesOnceAndNoOthers) {
  uint64_t value_bytes = 0;
  for (const FlatSpace& space : saved_.schema().layout.spaces())
    value_bytes += static_cast<uint64_t>(space.num_bytes());
  for (int num_ranks : {1, 3}) {
    TestState model(medium_schema(), 9);
    TestState expected(medium_schema(), 9);
    const LoadOutcome outcome = load(fs_, num_ranks, model, path_, {});
    ASSERT_TRUE(outcome.status.is_ok()) << outcome.status.message();
    EXPECT_THAT(outcome.loaded.left_out, IsEmpty());
    EXPECT_EQ(outcome.bytes_read, value_bytes);
    for (size_t k = 0; k < expected.schema().kinds.size(); ++k) {
      if (!expected.schema().kinds[k].kind.starts_with("adamw")) continue;
      EXPECT_TRUE(model.kind(k) == expected.kind(k)) << "slots stay as they are";
    }
    for (const char* name : {"conv.weight", "conv.bias", "embed.weight", "base.weight"})
      EXPECT_TRUE(row_major(model, name) == row_major(saved_, name)) << name;
  }
}

TEST_F(ParamsLoad, IsNotDisturbedByABadSlotAndRefusesABadParameter) {
  const Manifest manifest = read_manifest(fs_, path_, nullptr).value();
  const auto flip_in = [&](const std::string& kind) {
    for (size_t i = 0; i < manifest.shards.size(); ++i) {
      const auto reader = ShardReader::open(fs_, path_, manifest.schema, manifest.shards[i],
                                            manifest.shard_identity(i));
      for (size_t e = 0; e < reader->layout().extents.size(); ++e) {
        const ShardExtent& extent = reader->layout().extents[e];
        if (manifest.schema.kinds[extent.kind_index].kind != kind) continue;
        const std::string file = path_join(path_, manifest.shards[i].file);
        std::string bytes = read_whole_file(fs_, file, 1 << 24).value();
        char& byte = bytes[reader->place_of(e, extent.blocks.first).file_begin];
        byte = static_cast<char>(byte ^ 4);
        overwrite_file(fs_, file, bytes);
        return;
      }
    }
  };
  TestState model(schema_of(tuned_specs()), 9);
  flip_in("adamw.exp_avg");
  EXPECT_TRUE(load(fs_, 2, model, path_, kTunedAllows).status.is_ok());
  flip_in("param");
  const Status refused = load(fs_, 2, model, path_, kTunedAllows).status;
  EXPECT_EQ(refused.code(), StatusCode::kCorruption);
  EXPECT_THAT(refused.message(), HasSubstr("shard-0000"));
  EXPECT_TRUE(exists(fs_, path_).value()) << "nothing was moved";
}

TEST_F(ParamsLoad, NeedsNoShardThatHasNothingForIt) {
  const Manifest manifest = read_manifest(fs_, path_, nullptr).value();
  const TensorSpec bias = spec("conv.bias", {32}, SpaceRole::kTrainable);
  const FlatSpace& space = *manifest.schema.layout.find("trainable.F32");
  const auto place =
      std::find_if(space.tensors.begin(), space.tensors.end(),
                   [&](const TensorPlace& one) { return one.spec.name == bias.name; });
  const int64_t first = place->offset_elems / kBlockElems;
  const int64_t last = (place->offset_elems + 31) / kBlockElems;
  std::vector<std::string> needed;
  size_t num_removed = 0;
  for (const ShardEntry& shard : manifest.shards) {
    const auto has_it = [&](const KindRuns& kind) {
      return kind.kind == StateKind{space.name, "param"} &&
             std::any_of(kind.runs.begin(), kind.runs.end(),
                         [&](const BlockRun& run) { return run.first <= last && first < run.end; });
    };
    if (std::any_of(shard.runs.begin(), shard.runs.end(), has_it)) {
      needed.push_back(path_join(path_, shard.file));
    } else {
      ASSERT_TRUE(fs_.remove(path_join(path_, shard.file)).is_ok());
      ++num_removed;
    }
  }
  ASSERT_GE(num_removed, 1U);
  TestState model(schema_of({bias}), 9);
  ASSERT_TRUE(load(fs_, 1, model, path_, {{}, {"*"}}).status.is_ok());
  EXPECT_TRUE(row_major(model, bias.name) == row_major(saved_, bias.name));
  ASSERT_TRUE(fs_.remove(needed.at(0)).is_ok());
  EXPECT_EQ(load(fs_, 1, model, path_, {{}, {"*"}}).status.code(), StatusCode::kNotFound);
}

TEST(ParamsLoadOfAnotherOrder, TurnsEveryStorageOrderIntoEveryOther) {
  TensorSpec found = spec("w", {7, 300, 100}, SpaceRole::kFrozen, Dtype::kI8);
  do {
    MemoryFileSystem fs;
    TestState saved(schema_of({found}), 5);
    const std::string path = save_state(fs, 2, saved, 10).value().path;
    const std::string expected = row_major(saved, "w");
    TensorSpec wanted = spec("w", found.shape, SpaceRole::kFrozen, Dtype::kI8);
    do {
      TestState model(schema_of({wanted}), 9);  // its slices end inside of units
      ASSERT_TRUE(load(fs, 2, model, path, {}).status.is_ok());
      ASSERT_TRUE(row_major(model, "w") == expected);
    } while (std::next_permutation(wanted.order.begin(), wanted.order.end()));
  } while (std::next_permutation(found.order.begin(), found.order.end()));
}

TEST_F(ParamsLoad, RefusesWhatIsNotAllowedWithTheWholeList) {
  TestState model(schema_of(tuned_specs()), 9);
  const Status refused = load(fs_, 2, model, path_, {}).status;
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("2 differences"));
  EXPECT_THAT(refused.message(), HasSubstr("missing: extra.weight: the model has trainable.F32"));
  EXPECT_THAT(refused.message(), HasSubstr("shape: norm.running_mean: the model has [30000]"));
  EXPECT_THAT(refused.message(), HasSubstr("--allow-missing"));
  EXPECT_EQ(load(fs_, 1, model, "/run/checkpoints/gen-000009-step-0000000009", {}).status.code(),
            StatusCode::kNotFound);
}

TEST(ParamsPlan, TypesEachDifference) {
  const TensorSpec w = spec("w", {2, 3}, SpaceRole::kTrainable);
  const auto only = [&](const std::vector<TensorSpec>& wanted,
                        const std::vector<TensorSpec>& found) {
    const StateSchema theirs = schema_of(found);
    const ParamsPlan plan = plan_params_load(schema_of(wanted), theirs, {});
    EXPECT_EQ(plan.refused.size(), 1U);
    EXPECT_THAT(plan.left_out, IsEmpty());
    return plan.refused.empty() ? Kind::kState : plan.refused[0].kind;
  };
  const TensorSpec other = spec("v", {4}, SpaceRole::kTrainable);
  EXPECT_EQ(only({w, other}, {w}), Kind::kMissing);
  EXPECT_EQ(only({w}, {w, other}), Kind::kUnexpected);
  EXPECT_EQ(only({w}, {spec("w", {3, 2}, SpaceRole::kTrainable)}), Kind::kShape);
  EXPECT_EQ(only({w}, {spec("w", {2, 3}, SpaceRole::kTrainable, Dtype::kF16)}), Kind::kDtype);
  EXPECT_EQ(only({w}, {spec("w", {2, 3}, SpaceRole::kBuffer)}), Kind::kRole);
  TensorSpec turned = spec("w", {2, 3}, SpaceRole::kFrozen);
  turned.order = {1, 0};
  const StateSchema theirs = schema_of({turned});
  EXPECT_THAT(plan_params_load(schema_of({w}), theirs, {}).refused, IsEmpty());
}

TEST(ParamsPlan, AnotherShapeNeedsBothPermissions) {
  const StateSchema wanted = schema_of({spec("head.w", {5}, SpaceRole::kTrainable)});
  const StateSchema found = schema_of({spec("head.w", {9}, SpaceRole::kTrainable)});
  EXPECT_EQ(plan_params_load(wanted, found, {{"head.*"}, {}}).refused.size(), 1U);
  EXPECT_EQ(plan_params_load(wanted, found, {{}, {"head.*"}}).refused.size(), 1U);
  const ParamsPlan plan = plan_params_load(wanted, found, {{"head.*"}, {"head.*"}});
  EXPECT_THAT(plan.refused, IsEmpty());
  ASSERT_EQ(plan.left_out.size(), 1U);
  EXPECT_EQ(plan.left_out[0].kind, Kind::kShape);
  EXPECT_EQ(plan.sources[0][0].place, nullptr);
}

TEST(ParamsPlan, PatternsAreOfWholeNames) {
  const std::vector<std::string> patterns = {"head.*", "*.bias", "exact", "a*b*c"};
  for (const char* name :
       {"head.", "head.0.weight", ".bias", "x.y.bias", "exact", "abc", "axxbyyc"})
    EXPECT_TRUE(matches_any(name, patterns)) << name;
  for (const char* name : {"", "head", "ahead.w", "bias", "exactly", "acb", "abcd", "x.biases"})
    EXPECT_FALSE(matches_any(name, patterns)) << name;
  EXPECT_TRUE(matches_any("", {"*"}));
  EXPECT_FALSE(matches_any("a", {}));
}

}  // namespace
}  // namespace lockstep
