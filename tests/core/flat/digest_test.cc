// The state digest notices every single change, and depends on nothing else.
#include "lockstep/core/flat/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <set>

#include "core/flat/sample_layouts.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {
namespace {

// A whole state in memory: one byte vector a kind.
struct SampleState {
  StateSchema schema;
  std::vector<std::vector<std::byte>> values;
  Scalars scalars;

  const FlatSpace& space_of(size_t kind) const {
    return *schema.layout.find(schema.kinds[kind].space);
  }
  std::vector<std::vector<uint64_t>> hashes() const {
    std::vector<std::vector<uint64_t>> all;
    for (size_t i = 0; i < values.size(); ++i) {
      const FlatSpace& space = space_of(i);
      auto& hashes = all.emplace_back(static_cast<size_t>(space.num_blocks()));
      hash_blocks(space, {0, space.num_blocks()}, values[i], hashes);
    }
    return all;
  }
  std::string digest() const { return state_digest(schema, hashes(), scalars).hex(); }
  std::string params() const { return params_digest(schema, hashes()).hex(); }
};

// Trainable (2.x blocks) with two slots, frozen, float and integer buffers; random bits.
SampleState sample_state() {
  TensorSpec weight = row_major_tensor("weight", {2 * kBlockElems + 500});
  TensorSpec frozen = row_major_tensor("frozen", {100});
  frozen.role = SpaceRole::kFrozen;
  TensorSpec mean = row_major_tensor("mean", {kBlockElems});
  TensorSpec count = row_major_tensor("count", {});
  mean.role = count.role = SpaceRole::kBuffer;
  count.dtype = Dtype::kI64;
  SampleState state;
  state.schema.layout = FlatLayout::plan({weight, frozen, mean, count}).value();
  state.schema.kinds = {{"trainable.F32", "param"},
                        {"trainable.F32", "adamw.exp_avg"},
                        {"trainable.F32", "adamw.exp_avg_sq"},
                        {"frozen.F32", "param"},
                        {"buffer.F32", "buffer"},
                        {"buffer.I64", "buffer"}};
  std::mt19937 rng(11);
  for (size_t i = 0; i < state.schema.kinds.size(); ++i) {
    auto& bytes = state.values.emplace_back(static_cast<size_t>(state.space_of(i).num_bytes()));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
  }
  state.scalars = {{"step", int64_t{42}}, {"loss_scale", 1024.0}, {"note", std::string("a")}};
  return state;
}

void flip_bit(std::vector<std::byte>* bytes, size_t bit) {
  (*bytes)[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
}

TEST(StateDigest, NoticesOneFlippedBitAnywhere) {
  SampleState state = sample_state();
  const auto hashes = state.hashes();
  const std::string digest = state.digest();
  const std::string params = state.params();
  std::mt19937 rng(12);
  for (size_t kind = 0; kind < state.values.size(); ++kind) {
    std::vector<std::byte>& bytes = state.values[kind];
    std::vector<size_t> bits = {0, 8 * bytes.size() - 1};
    for (int i = 0; i < 100; ++i) bits.push_back(rng() % (8 * bytes.size()));
    for (const size_t bit : bits) {
      flip_bit(&bytes, bit);
      ASSERT_NE(state.digest(), digest) << state.schema.kinds[kind].kind << " bit " << bit;
      const std::string& name = state.schema.kinds[kind].kind;
      ASSERT_EQ(state.params() != params, name == "param" || name == "buffer") << name;
      flip_bit(&bytes, bit);
    }
  }
  EXPECT_EQ(state.digest(), digest);
  EXPECT_EQ(state.hashes(), hashes);
}

TEST(StateDigest, EveryBitOfASmallBlockChangesItsHash) {
  const FlatSpace space = f32_space(64);
  std::vector<std::byte> bytes(256);
  std::vector<uint64_t> hash(1);
  std::set<uint64_t> seen;
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    flip_bit(&bytes, bit);
    hash_blocks(space, {0, 1}, bytes, hash);
    EXPECT_TRUE(seen.insert(hash[0]).second) << bit;
    flip_bit(&bytes, bit);
  }
}

TEST(StateDigest, NoticesSwappedBlocksKindsAndScalars) {
  std::set<std::string> digests = {sample_state().digest()};
  const auto expect_new = [&](const char* what, const std::function<void(SampleState&)>& change) {
    SampleState state = sample_state();
    change(state);
    EXPECT_TRUE(digests.insert(state.digest()).second) << what;
  };
  constexpr size_t kBlockBytes = kBlockElems * 4;
  expect_new("blocks 0 and 1 swapped", [](SampleState& s) {
    std::swap_ranges(s.values[0].begin(), s.values[0].begin() + kBlockBytes,
                     s.values[0].begin() + kBlockBytes);
  });
  expect_new("slots swapped", [](SampleState& s) { std::swap(s.values[1], s.values[2]); });
  expect_new("slots named the other way round",
             [](SampleState& s) { std::swap(s.schema.kinds[1], s.schema.kinds[2]); });
  expect_new("slot renamed", [](SampleState& s) { s.schema.kinds[1].kind = "other"; });
  expect_new("kind left out", [](SampleState& s) {
    s.schema.kinds.pop_back();
    s.values.pop_back();
  });
  expect_new("scalar changed", [](SampleState& s) { s.scalars["step"] = int64_t{43}; });
  expect_new("scalar's type changed", [](SampleState& s) { s.scalars["step"] = 42.0; });
  expect_new("last bit of a double",
             [](SampleState& s) { s.scalars["loss_scale"] = std::nextafter(1024.0, 2048.0); });
  expect_new("scalar left out", [](SampleState& s) { s.scalars.erase("note"); });
  expect_new("scalar renamed", [](SampleState& s) {
    s.scalars.erase("note");
    s.scalars["node"] = std::string("a");
  });
  expect_new("text that looks like another scalar",
             [](SampleState& s) { s.scalars["note"] = std::string("a\nscalar 4 4\nstep\ni:42"); });
  expect_new("tensor renamed", [](SampleState& s) {
    std::vector<TensorSpec> tensors;
    for (const FlatSpace& space : s.schema.layout.spaces()) {
      for (const TensorPlace& place : space.tensors) tensors.push_back(place.spec);
    }
    tensors[0].name = "weight2";
    s.schema.layout = FlatLayout::plan(tensors).value();
  });
}

TEST(StateDigest, DoesNotDependOnHowBlocksAreSplitOverRanks) {
  const SampleState state = sample_state();
  const auto whole = state.hashes();
  for (int64_t cut = 0; cut <= 3; ++cut) {
    auto parts = whole;
    const FlatSpace& space = state.space_of(0);
    std::fill(parts[0].begin(), parts[0].end(), 0);
    for (const BlockRun run : {BlockRun{0, cut}, BlockRun{cut, 3}}) {
      const ElemRun elems = space.elems_of(run);
      hash_blocks(space, run,
                  std::span(state.values[0])
                      .subspan(static_cast<size_t>(elems.first) * 4,
                               static_cast<size_t>(elems.num_elems()) * 4),
                  std::span(parts[0]).subspan(static_cast<size_t>(run.first),
                                              static_cast<size_t>(run.num_blocks())));
    }
    ASSERT_EQ(parts, whole);
  }
}

TEST(StateDigest, ParamsDigestIgnoresOptimizerStateAndScalars) {
  SampleState state = sample_state();
  const std::string params = state.params();
  EXPECT_NE(params, state.digest());
  state.scalars.clear();
  auto hashes = state.hashes();
  hashes[1].clear();
  hashes[2].clear();
  EXPECT_EQ(params_digest(state.schema, hashes).hex(), params);
}

TEST(StateDigest, IsTheHashOfTheDocumentedBytes) {
  // The stream of core/DIGEST.md, put together by hand.
  const SampleState state = sample_state();
  std::string stream = "lockstep-state 1\n" + state.schema.layout.canonical_text();
  stream += "scalar 10 18\nloss_scale\nf:4090000000000000\n";
  stream += "scalar 4 3\nnote\ns:a\n";
  stream += "scalar 4 4\nstep\ni:42\n";
  const auto hashes = state.hashes();
  for (size_t i = 0; i < hashes.size(); ++i) {
    const StateKind& kind = state.schema.kinds[i];
    stream += "blocks " + kind.kind + "/" + kind.space + " " + std::to_string(hashes[i].size());
    stream += "\n";
    for (const uint64_t hash : hashes[i]) {
      for (int byte = 0; byte < 8; ++byte) stream += static_cast<char>(hash >> (8 * byte));
    }
  }
  EXPECT_EQ(state.digest(), xxh3_128(stream).hex());
}

TEST(StateDigest, RefusesHashesThatDoNotFitTheSchema) {
  SampleState state = sample_state();
  auto hashes = state.hashes();
  hashes[0].pop_back();
  EXPECT_THROW(static_cast<void>(state_digest(state.schema, hashes, {})), UsageError);
  hashes = state.hashes();
  state.schema.kinds[0].space = "trainable.F64";
  EXPECT_THROW(static_cast<void>(state_digest(state.schema, hashes, {})), UsageError);
  hashes.pop_back();
  EXPECT_THROW(static_cast<void>(state_digest(state.schema, hashes, {})), UsageError);
  EXPECT_THROW(static_cast<void>(params_digest(state.schema, hashes)), UsageError);
  const FlatSpace space = f32_space(64);
  std::vector<std::byte> bytes(255);
  std::vector<uint64_t> hash(1);
  EXPECT_THROW(hash_blocks(space, {0, 1}, bytes, hash), UsageError);
}

TEST(Scalar, TextIsExact) {
  EXPECT_EQ(scalar_text(int64_t{-7}), "i:-7");
  EXPECT_EQ(scalar_text(1.0), "f:3ff0000000000000");
  EXPECT_EQ(scalar_text(-0.0), "f:8000000000000000");
  EXPECT_EQ(scalar_text(std::string("x y")), "s:x y");
}

}  // namespace
}  // namespace lockstep
