// Covers: manifest_read.cc manifest_write.cc json_reader.cc model_difference.cc shard_file.cc
#include "lockstep/checkpoint/manifest.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "lockstep/checkpoint/model_difference.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/memory_file_system.h"
#include "lockstep/core/base/text.h"
#include "run_fixture.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

/// The manifest of a true save.
std::string saved_text() {
  MemoryFileSystem fs;
  TestState state(medium_schema(), 4);
  const std::string path = save_state(fs, 3, state, 12).value().path;
  std::string text;
  EXPECT_TRUE(read_manifest(fs, path, &text).is_ok());
  return text;
}

/// `text` with `from` replaced by `to` and the last member made right again: what a hash can not
/// catch.
std::string changed(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  LOCKSTEP_CHECK(at != std::string::npos, "no ", from);
  text.replace(at, from.size(), to);
  const std::string body = text.substr(0, text.find(" \"manifest_hash\""));
  return cat(body, " \"manifest_hash\":\"", xxh3_128(body).hex(), "\"\n}\n");
}

TEST(Manifest, WritesWhatItRead) {
  const std::string text = saved_text();
  const auto manifest = parse_manifest(text, "m");
  ASSERT_TRUE(manifest.is_ok()) << manifest.status().message();
  EXPECT_EQ(manifest_text(*manifest), text);
  EXPECT_EQ(manifest->shards.size(), 3U);
  EXPECT_TRUE(compare_models(medium_schema(), manifest->schema).empty());
}

TEST(Manifest, CarriesNumbersThatAreNone) {
  auto manifest = parse_manifest(saved_text(), "m").value();
  manifest.metrics = {{"nan", NAN}, {"inf", -INFINITY}, {"tiny", 4.9e-324}};
  const auto read = parse_manifest(manifest_text(manifest), "m");
  ASSERT_TRUE(read.is_ok()) << read.status().message();
  EXPECT_TRUE(std::isnan(read->metrics.at("nan")));
  EXPECT_EQ(read->metrics.at("inf"), -INFINITY);
  EXPECT_EQ(read->metrics.at("tiny"), 4.9e-324);
}

TEST(Manifest, EveryFlippedBitAndEveryTruncationIsCorruption) {
  const std::string text = saved_text();
  for (size_t i = 0; i < text.size(); ++i) {
    std::string flipped = text;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    ASSERT_EQ(parse_manifest(flipped, "m").status().code(), StatusCode::kCorruption) << i;
    ASSERT_EQ(parse_manifest(text.substr(0, i), "m").status().code(), StatusCode::kCorruption) << i;
  }
}

TEST(Manifest, RefusesWhatIsWrongUnderARightHash) {
  const std::string text = saved_text();
  ASSERT_TRUE(parse_manifest(changed(text, "\"epoch\":1", "\"epoch\":2"), "m").is_ok());
  struct Case {
    const char* from;
    const char* to;
    const char* message;
  };
  for (const Case& bad : std::vector<Case>{
           {"\"step\":12", "\"step\":-12", "step"},
           {"\"step\":12", "\"step\":12.0", "step"},
           {"\"step\":12", "\"step\":9007199254740993", "step"},
           {"\"step\":12", "\"step\":12,\"step\":12", "duplicate key"},
           {"\"step\":12", "\"step\":12,\"extra\":1", "unknown member"},
           {"\"step\":12,\n", "", "missing"},
           {"\"seed\":\"feed", "\"seed\":\"FEED", "seed"},
           {"\"block_elems\":16384", "\"block_elems\":16385", "block_elems"},
           {"lockstep.checkpoint", "lockstep.checkpoinT", "format"},
           {"\"format_version\":1", "\"format_version\":0", "format_version"},
           {"i:12", "i:012", "scalars"},
           {"i:12", "x:12", "scalars"},
           {"\"dtype\":\"F32\"", "\"dtype\":\"F33\"", "dtype"},
           {"\"role\":\"trainable\"", "\"role\":\"owner\"", "role"},
           {"\"shape\":[32,16,3,3]", "\"shape\":[32,16,3,4]", "offsets"},
           {"\"shape\":[32,16,3,3]", "\"shape\":[4294967296,4294967296,3,3]", "too large"},
           {"\"shape\":[32,16,3,3]", "\"shape\":[0,4503599627370496,4503599627370496,3]",
            "too large"},
           {"\"order\":[0,2,3,1]", "\"order\":[0,2,3,3]", "permutation"},
           {"\"name\":\"conv.bias\"", "\"name\":\"conv.weight\"", "conv.weight"},
           {"\"kinds\":[\"param\",\"adamw.exp_avg\"", "\"kinds\":[\"param\",\"param\"", "kinds"},
           {"\"kinds\":[\"param\",\"adamw.exp_avg\"", "\"kinds\":[\"param\",\"a/b\"", "kinds"},
           {"shard-00001-of-00003", "../rd-00001-of-00003", "shards[1]"},
           {"shard-00001-of-00003", "shard-00002-of-00003", "shards[1]"},
           {"\"world_size\":3", "\"world_size\":2", "shard"},
           {"\"blocks\":[[0,1]", "\"blocks\":[[0,2]", "in two shards"},
           {"\"blocks\":[[0,1]", "\"blocks\":[[1,0]", "out of order"},
           {"\"blocks\":[[0,1]", "\"blocks\":[[0,9999999]", "outside"},
           {"\"blocks\":[[0,1]", "\"blocks\":[[0]", "pairs"},
           {"\"blocks\":[[0,1]]", "\"blocks\":[]", "in no shard"}}) {
    const auto refused = parse_manifest(changed(text, bad.from, bad.to), "m");
    EXPECT_EQ(refused.status().code(), StatusCode::kCorruption) << bad.to;
    EXPECT_THAT(refused.status().message(), HasSubstr(bad.message)) << bad.to;
  }
  EXPECT_EQ(parse_manifest(changed(text, "\"format_version\":1", "\"format_version\":2"), "m")
                .status()
                .code(),
            StatusCode::kUnsupported);
}

TEST(Manifest, ManyKindsTimesManyRunsAreRefusedBeforeTheyTakeMemory) {
  const std::string text = saved_text();
  std::string runs = "[0,1]";
  for (int i = 1; i < 100000; ++i) runs += cat(",[", 2 * i, ",", 2 * i + 1, "]");
  std::string kinds = "\"param\"";
  std::string slots;
  for (int i = 0; i < 200000; ++i) kinds += ",\"param\"";  // 20,000,000,000 runs, 320 GB
  for (int i = 0; i < 100000; ++i) slots += cat(",\"s", i, "\"");
  const std::string member =
      "\"kinds\":[\"param\",\"adamw.exp_avg\",\"adamw.exp_avg_sq\"],\"blocks\":[[0,1]";
  const std::string repeated =
      changed(text, member, cat("\"kinds\":[", kinds, "],\"blocks\":[", runs));
  EXPECT_THAT(parse_manifest(repeated, "m").status().message(), HasSubstr("listed twice"));
  const std::string unknown =
      changed(text, member, cat("\"kinds\":[\"param\"", slots, "],\"blocks\":[", runs));
  EXPECT_THAT(parse_manifest(unknown, "m").status().message(), HasSubstr("does not have"));
  const std::string many = changed(text, "\"kinds\":[\"param\",\"adamw.exp_avg\"",
                                   cat("\"kinds\":[\"param\"", slots, ",\"adamw.exp_avg\""));
  EXPECT_THAT(parse_manifest(many, "m").status().message(), HasSubstr("at most 64"));
}

TEST(Manifest, GrowsWithShardsAndTensorsNotWithTheirProduct) {
  auto manifest = parse_manifest(saved_text(), "m").value();
  const size_t small = manifest_text(manifest).size();
  const ShardEntry shard = manifest.shards[0];
  manifest.shards.resize(1003, shard);
  EXPECT_LT(manifest_text(manifest).size(), small + 1000 * 600);
}

TEST(Scalars, TextParsesBack) {
  for (const Scalar& scalar : std::vector<Scalar>{int64_t{0}, INT64_MIN, INT64_MAX, 0.1, -0.0,
                                                  INFINITY, std::string(), std::string("i:5 \n")}) {
    EXPECT_EQ(parse_scalar(scalar_text(scalar)), scalar);
  }
  for (const char* text : {"", "i", "i:", "i:+1", "i: 1", "i:-0", "i:9223372036854775808", "f:1",
                           "x:1", "f:3FF0000000000000"}) {
    EXPECT_FALSE(parse_scalar(text)) << text;
  }
}

TEST(ModelDifference, NamesTheMostTellingOneOfEachTensor) {
  const auto schema = [](std::vector<TensorSpec> specs) {
    return StateSchema{FlatLayout::plan(specs).value(), {}};
  };
  const TensorSpec a{"a", {}, Dtype::kF32, {2, 3}, {0, 1}, SpaceRole::kTrainable};
  const auto only = [&](const TensorSpec& other) {
    const auto differences = compare_models(schema({a}), schema({other}));
    EXPECT_EQ(differences.size(), 1U);
    return differences.at(0).kind;
  };
  using Kind = ModelDifference::Kind;
  TensorSpec b = a;
  b.shape = {3, 2};
  EXPECT_EQ(only(b), Kind::kShape);
  b = a;
  b.dtype = Dtype::kBF16;
  EXPECT_EQ(only(b), Kind::kDtype);
  b = a;
  b.role = SpaceRole::kFrozen;
  EXPECT_EQ(only(b), Kind::kRole);
  b = a;
  b.order = {1, 0};
  EXPECT_EQ(only(b), Kind::kOrder);
  b = a;
  b.aliases = {"tied"};
  EXPECT_EQ(only(b), Kind::kAliases);
  TensorSpec c = a;
  c.name = "c";
  const auto kind = [](const StateSchema& wanted, const StateSchema& found) {
    const auto differences = compare_models(wanted, found);
    EXPECT_EQ(differences.size(), 1U);
    return differences.at(0).kind;
  };
  EXPECT_EQ(kind(schema({a, c}), schema({a})), Kind::kMissing);
  EXPECT_EQ(kind(schema({a}), schema({a, c})), Kind::kUnexpected);
  StateSchema with_slot = schema({a});
  with_slot.kinds = {{"trainable.F32", "sgd.momentum"}};
  EXPECT_EQ(kind(with_slot, schema({a})), Kind::kState);
  EXPECT_EQ(kind(schema({a}), with_slot), Kind::kState);
  EXPECT_EQ(compare_models(schema({a, c}), schema({c, a})).at(0).kind, Kind::kOffset);
  EXPECT_EQ(compare_models(schema({a, c}), schema({c, a})).size(), 2U);  // both at other places
  EXPECT_TRUE(compare_models(schema({a, c}), schema({a, c})).empty());
  EXPECT_THAT(differences_text(compare_models(schema({a, c}), schema({a})), 9),
              HasSubstr("missing: c"));
}

/// The text between ```<fence> and ``` in FORMAT.md.
std::string fenced(const std::string& fence) {
  const char* path = std::getenv("LOCKSTEP_FORMAT_MD");
  LOCKSTEP_CHECK(path != nullptr, "LOCKSTEP_FORMAT_MD is not set: run through ctest");
  const std::string page = read_whole_file(posix_file_system(), path, 1 << 20).value();
  const std::string open = cat("```", fence, "\n");
  const size_t begin = page.find(open) + open.size();
  return page.substr(begin, page.find("```", begin) - begin);
}

TEST(FormatPage, ItsExampleIsWhatTheCodeWrites) {
  StateSchema schema{
      FlatLayout::plan({{"w", {}, Dtype::kF32, {2, 3}, {0, 1}, SpaceRole::kTrainable},
                        {"n", {}, Dtype::kI64, {}, {}, SpaceRole::kBuffer}})
          .value(),
      {{"trainable.F32", "param"}, {"buffer.I64", "buffer"}}};
  TestState state(schema, 0);
  for (int i = 0; i < 6; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(state.kind(0).data() + 4 * i, &value, 4);
  }
  state.kind(1)[0] = std::byte{7};
  MemoryFileSystem fs;
  const auto saved = save_state(fs, 1, state, 100);
  ASSERT_TRUE(saved.is_ok()) << saved.status().message();
  Manifest manifest = read_manifest(fs, saved->path, nullptr).value();
  manifest.utc_time = "2026-11-22T13:05:09Z";
  EXPECT_EQ(manifest_text(manifest), fenced("json manifest"));
  const auto parsed = parse_manifest(fenced("json manifest"), "FORMAT.md");
  EXPECT_TRUE(parsed.is_ok()) << parsed.status().message();

  const auto file = fs.open_read(path_join(saved->path, manifest.shards[0].file));
  const std::string header(trim(read_safetensors_prefix(**file, "shard").value().substr(8)));
  EXPECT_EQ(header + "\n", fenced("json header"));
}

}  // namespace
}  // namespace lockstep
