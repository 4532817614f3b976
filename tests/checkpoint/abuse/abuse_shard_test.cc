// Malformed shards under manifests that agree with them, each with the error that restore, verify
// and export must give. Elsewhere: missing, truncated, exchanged shards and a trailing byte, found
// by the manifest's sizes and hashes (damage_test.cc); the parser alone (safetensors_test.cc).
#include "abuse_run.h"

namespace lockstep {
namespace {

class AbuseShard : public AbuseRun {
 protected:
  void expect_shard_refused(const std::string& message) {
    expect_path_refused(StatusCode::kCorruption, message);
    expect_tools_refuse(StatusCode::kCorruption, message, Where::kShard);
  }
};

TEST_F(AbuseShard, CutAtEachOfItsBoundaries) {
  const std::string good = bytes(shard(1));
  const auto file = fs_.open_read(shard(1));
  const SafetensorsHeader header = read_safetensors_header(**file, "shard").value();
  std::vector<uint64_t> ends = {0, 4, 8, 9, header.data_offset - 1, header.data_offset};
  for (const SafetensorsEntry& entry : header.tensors) {
    ends.push_back(header.data_offset + entry.begin);
    ends.push_back(header.data_offset + entry.end - 1);
  }
  for (uint64_t end : ends) {
    SCOPED_TRACE(end);
    overwrite_file(fs_, shard(1), good.substr(0, end));
    expect_shard_refused(cat("expected ", good.size(), " bytes, found ", end));
    // The same when the manifest agrees with the size.
    Manifest manifest = read_manifest(fs_, newest_, nullptr).value();
    const std::string as_saved = bytes(manifest_);
    manifest.shards[1].bytes = end;
    overwrite_file(fs_, manifest_, manifest_text(manifest));
    expect_shard_refused("shard-00001-of-00003.safetensors");
    overwrite_file(fs_, manifest_, as_saved);
  }
}

TEST_F(AbuseShard, LengthsOfTheHeader) {
  const TextChange same = [](std::string text) { return text; };
  for (uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{7}, uint64_t{100}, uint64_t{4089},
                          uint64_t{100'000'001}, ~uint64_t{0}, uint64_t{1} << 63}) {
    SCOPED_TRACE(length);
    const std::string as_saved = bytes(manifest_);
    const std::string shard_as_saved = bytes(shard(1));
    forge_header(1, same, length);
    // The hash that the forged manifest names is that of other bytes, unless the length is right.
    expect_shard_refused("shard-00001-of-00003.safetensors");
    overwrite_file(fs_, manifest_, as_saved);
    overwrite_file(fs_, shard(1), shard_as_saved);
  }
}

TEST_F(AbuseShard, HeadersThatLie) {
  struct Lie {
    TextChange change;
    const char* message;
  };
  const auto all = [](std::string text) { return [text](std::string) { return text; }; };
  const std::string whole = bytes(shard(1));
  const std::string manifest_text = bytes(manifest_);
  const auto file = fs_.open_read(shard(1));
  const SafetensorsHeader header = read_safetensors_header(**file, "shard").value();
  const std::string first_end = cat(",", header.tensors[0].end, "]");
  const std::string deep = cat("{\"a\":", std::string(100000, '['), std::string(100000, ']'), "}");
  const std::vector<Lie> lies = {
      {replaced(first_end, cat(",", header.tensors[0].end + 4, "]")), "does not fill"},
      {replaced("\"data_offsets\":[0,", "\"data_offsets\":[4,"), "does not fill"},
      {replaced("\"data_offsets\":[0,", "\"data_offsets\":[-0.0,"), "data_offsets"},
      {replaced("\"data_offsets\":[0,", "\"data_offsets\":[9007199254740992,"), "data_offsets"},
      {replaced("\"data_offsets\":[0,", "\"data_offsets\":[18446744073709551615,"), "data_offsets"},
      {replaced("\"shape\":[", "\"shape\":[-"), "shape"},
      {replaced("\"shape\":[", "\"shape\":[4294967296,4294967296,"), "does not fill"},
      {replaced("\"shape\":[", "\"shape\":[2.5,"), "shape"},
      {replaced("\"F32\"", "\"I32\""), "other tensors than the manifest"},
      {replaced("param/", "qaram/"), "other tensors than the manifest"},
      {replaced("\"step\":\"20\"", "\"step\":\"21\""), "other tensors than the manifest"},
      {replaced("\"shard\":\"1\"", "\"shard\":\"0\""), "other tensors than the manifest"},
      {replaced("{", "{\"__metadata__\":{},"), "duplicate key"},
      {replaced("block_xxh3_64", "block_xxh3_65"), "other tensors than the manifest"},
      {all("{}"), "tensors end at 0"},
      {all(""), "does not start with '{'"},
      {all("null"), "does not start with '{'"},
      {all("{"), "not JSON"},
      {all("{\"a\":NaN}"), "not JSON"},
      {all("{} {}"), "not JSON"},
      {all(deep), "nested deeper than 16"},
      {all("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"), "tensors end at 1"}};
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.message);
    overwrite_file(fs_, shard(1), whole);
    overwrite_file(fs_, manifest_, manifest_text);
    forge_header(1, lie.change);
    expect_shard_refused(lie.message);
  }
  expect_refused(StatusCode::kCorruption, lies.back().message, Where::kShard);
}

TEST_F(AbuseShard, AHoleAndAnOverlapUnderRightHashes) {
  const std::string whole = bytes(shard(1));
  const std::string manifest_text = bytes(manifest_);
  const auto entry = [](const char* name, int begin, int end) {
    return cat("\"", name, "\":{\"dtype\":\"U8\",\"shape\":[", end - begin, "],\"data_offsets\":[",
               begin, ",", end, "]}");
  };
  const std::string hole = cat("{", entry("a", 0, 4), ",", entry("b", 5, 9), "}");
  const std::string overlap = cat("{", entry("a", 0, 5), ",", entry("b", 4, 9), "}");
  const std::string trailing = cat("{", entry("a", 0, 5), ",", entry("b", 5, 8), "}");
  for (const auto& [json, message] :
       {std::pair(hole, "a hole"), std::pair(overlap, "an overlap"),
        std::pair(trailing, "tensors end at 8, but there are 9 bytes")}) {
    overwrite_file(fs_, shard(1), whole);
    overwrite_file(fs_, manifest_, manifest_text);
    forge_shard(1, json.size(), json, std::string(9, 'd'));
    expect_shard_refused(message);
  }
}

TEST_F(AbuseShard, AnUnknownDtypeIsOfAnotherVersion) {
  forge_header(1, replaced("\"F32\"", "\"F8_E4M3\""));
  expect_refused(StatusCode::kUnsupported, "F8_E4M3", Where::kShard);
}

TEST_F(AbuseShard, AForgedTableDoesNotMakeBlocksRight) {
  // Data, table and the table's hash are exchanged together: what stays is the digest.
  std::string whole = bytes(shard(1));
  const auto file = fs_.open_read(shard(1));
  const SafetensorsHeader header = read_safetensors_header(**file, "shard").value();
  const SafetensorsEntry& table = header.tensors.back();
  const SafetensorsEntry& first = header.tensors.front();
  const size_t data = header.data_offset + first.begin;
  whole[data] = static_cast<char>(whole[data] ^ 1);
  overwrite_file(fs_, shard(1), whole);
  expect_shard_refused("shard-00001-of-00003.safetensors");
  const size_t at = header.data_offset + table.begin;
  whole[at] = static_cast<char>(whole[at] ^ 1);
  overwrite_file(fs_, shard(1), whole);
  expect_shard_refused("checksum table's hash");
}

}  // namespace
}  // namespace lockstep
