// Malformed manifests, each with the error that restore, verify, inspect and export must give.
// Elsewhere: every flipped bit and truncation, and 29 lies under a right hash, on the parser alone
// (manifest_test.cc); empty, missing and exchanged manifests (damage_test.cc).
#include "abuse_run.h"

namespace lockstep {
namespace {

class AbuseManifest : public AbuseRun {
 protected:
  struct Lie {
    const char* from;
    std::string to;
    const char* message;
    StatusCode code = StatusCode::kCorruption;
  };

  /// Each in turn, on the checkpoint as it was saved.
  void expect_each_refused(const std::vector<Lie>& lies) {
    const std::string good = bytes(manifest_);
    for (const Lie& lie : lies) {
      SCOPED_TRACE(cat(lie.from, " -> ", lie.to.substr(0, 80)));
      overwrite_file(fs_, manifest_, good);
      forge_manifest(replaced(lie.from, lie.to));
      const auto before = all_files(fs_, "/run/checkpoints");
      expect_path_refused(lie.code, lie.message);
      expect_tools_refuse(lie.code, lie.message, Where::kManifest);
      EXPECT_EQ(all_files(fs_, "/run/checkpoints"), before);
    }
  }
};

TEST_F(AbuseManifest, NumbersThatAreNotCounts) {
  expect_each_refused({{"\"step\":20", "\"step\":20.5", "\"step\""},
                       {"\"step\":20", "\"step\":2e1", "\"step\""},
                       {"\"step\":20", "\"step\":NaN", "not JSON"},
                       {"\"step\":20", "\"step\":Infinity", "not JSON"},
                       {"\"step\":20", "\"step\":1e400", "not JSON"},
                       {"\"step\":20", "\"step\":-20", "\"step\""},
                       {"\"step\":20", "\"step\":020", "not JSON"},
                       {"\"step\":20", "\"step\":9007199254740992", "\"step\""},
                       {"\"step\":20", "\"step\":18446744073709551616", "\"step\""},
                       {"\"step\":20", "\"step\":\"20\"", "\"step\""},
                       {"\"step\":20", "\"step\":null", "\"step\""},
                       {"\"step\":20", "\"step\":[20]", "\"step\""},
                       {"\"world_size\":3", "\"world_size\":9007199254740991", "shard"},
                       {"\"generation\":2", "\"generation\":3", "is the manifest of"}});
}

TEST_F(AbuseManifest, TextThatIsNotThisFormat) {
  const std::string deep = cat(std::string(200000, '['), std::string(200000, ']'));
  expect_each_refused({{"\"epoch\":2", cat("\"epoch\":", deep), "nested deeper than 16"},
                       {"\"epoch\":2", "\"epoch\":2,\"epoch\":2", "duplicate key"},
                       {"\"epoch\":2", "\"epoch\":2,\"\\u0065poch\":2", "duplicate key"},
                       {"\"epoch\":2", "\"epoch\":2,\"box\":[]", "unknown member"},
                       {"\"epoch\":2,", "", "missing"},
                       {"\"epoch\":2", "\"epoch\":2,", "not JSON"},
                       {"\"epoch\":2", "// a comment\n\"epoch\":2", "not JSON"},
                       {"\"recipe_text\":\"", "\"recipe_text\":\"\xff", "not JSON"},
                       {"\"recipe_text\":\"", "\"recipe_text\":\"\\ud800", "not JSON"},
                       {"\"recipe_text\":\"", std::string("\"recipe_text\":\"\0", 16), "not JSON"},
                       {"{", "[{", "not JSON"},
                       {"\"format_version\":1", "\"format_version\":2",
                        "Use the version of lockstep that wrote it", StatusCode::kUnsupported}});
}

TEST_F(AbuseManifest, ShardsThatAreElsewhere) {
  const char* file = "shard-00001-of-00003.safetensors";
  std::vector<Lie> lies;
  for (const char* name :
       {"/etc/passwd", "../gen-000001-step-0000000010/shard-00001-of-00003.safetensors",
        "a/shard-00001-of-00003.safetensors", "./shard-00001-of-00003.safetensors",
        "shard-00001-of-00003.safetensors/", "shard-00001-of-00003.safetensors\\u0000",
        "shard-00000-of-00003.safetensors", "shard-00001-of-00004.safetensors",
        "shard-1-of-3.safetensors", "SHARD-00001-of-00003.safetensors", ""}) {
    lies.push_back({file, name, "expected the file shard-00001-of-00003.safetensors"});
  }
  expect_each_refused(lies);
}

TEST_F(AbuseManifest, TensorsThatCanNotBe) {
  const char* shape = "\"shape\":[32,16,3,3]";
  expect_each_refused(
      {{shape, "\"shape\":[-32,16,3,3]", "shape"},
       {shape, "\"shape\":[32.0,16,3,3]", "shape"},
       {shape, "\"shape\":[4294967296,4294967296,3,3]", "too large"},
       {shape, "\"shape\":[9007199254740991,1,1,1]", ""},
       {shape, "\"shape\":[32,16,3]", "conv.weight"},
       {"\"dtype\":\"BF16\"", "\"dtype\":\"bf16\"", "dtype"},
       {"\"name\":\"conv.weight\"", "\"name\":\"\"", "empty name"},
       {"\"name\":\"conv.weight\"", "\"name\":\"a\\nb\"", "name"},
       {"\"aliases\":[\"head.weight\"]", "\"aliases\":[\"conv.bias\"]", "conv.bias"},
       {"\"order\":[0,2,3,1]", "\"order\":[0,0,0,0]", "permutation"}});
}

TEST_F(AbuseManifest, BlocksThatAreMissingOrTwice) {
  const std::string text = bytes(manifest_);
  const size_t at = text.find("\"blocks\":[[0,1]");
  ASSERT_NE(at, std::string::npos);
  expect_each_refused({{"\"blocks\":[[0,1]", "\"blocks\":[[0,2]", "in two shards"},
                       {"\"blocks\":[[0,1]", "\"blocks\":[[0,0]", "empty"},
                       {"\"blocks\":[[0,1]", "\"blocks\":[[0,9007199254740991]", "outside"},
                       {"\"blocks\":[[0,1]", "\"blocks\":[[0,1],[0,1]", "out of order"},
                       {"\"blocks\":[[0,1]", "\"blocks\":[[0,1,2]", "pairs"},
                       {"\"blocks\":[[0,1]", "\"blocks\":[[0,\"1\"]", "pairs"}});
}

TEST_F(AbuseManifest, ItsOwnHash) {
  const std::string good = bytes(manifest_);
  const size_t hash = good.rfind('"', good.size() - 5) + 1;
  std::string upper = good;
  for (size_t i = hash; i < hash + 32; ++i) upper[i] = static_cast<char>(std::toupper(upper[i]));
  std::string wrong = good;
  wrong[hash] = wrong[hash] == '0' ? '1' : '0';
  ASSERT_NE(upper, good);
  for (const std::string& text :
       {upper, wrong, good + "\n", good + std::string(1, '\0'), good + good,
        replaced("\"manifest_hash\":\"", "\"manifest_hash\": \"")(good),
        replaced("\"manifest_hash\"", "\"Manifest_hash\"")(good),
        std::string("\xef\xbb\xbf") + good, good.substr(0, good.size() - 1), std::string("{}"),
        std::string(4096, '\0')}) {
    overwrite_file(fs_, manifest_, text);
    expect_path_refused(StatusCode::kCorruption, "manifest.json");
    expect_tools_refuse(StatusCode::kCorruption, "manifest.json", Where::kManifest);
  }
  expect_refused(StatusCode::kCorruption, "manifest.json", Where::kManifest);
}

TEST_F(AbuseManifest, ALieUnderARightHashIsQuarantinedAsAnyOther) {
  forge_manifest(replaced("\"world_size\":3", "\"world_size\":2"));
  expect_refused(StatusCode::kCorruption, "shard", Where::kManifest);
}

TEST_F(AbuseManifest, ALaterFormatStopsTheRunAndMovesNothing) {
  forge_manifest(replaced("\"format_version\":1", "\"format_version\":7"));
  expect_refused(StatusCode::kUnsupported, "format version 7", Where::kManifest);
}

}  // namespace
}  // namespace lockstep
