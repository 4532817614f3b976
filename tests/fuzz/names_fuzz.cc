// Fuzzes everything that parses a name, an attempt file or another short text of a checkpoint. What
// is accepted must be what building writes, byte for byte (an attempt file: read back to the same).
// The input's first bytes are also taken as numbers, to build names that must parse back.
#include <cstring>

#include "lockstep/checkpoint/attempt.h"
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

template <typename Parsed, typename Build>
void check_same(const std::optional<Parsed>& parsed, const Build& build, std::string_view input) {
  if (!parsed) return;
  const std::string built = build(*parsed);
  LOCKSTEP_CHECK(built == input, "\"", input, "\" is built as \"", built, "\"");
}

void check_parsing(std::string_view input) {
  check_same(parse_generation_folder(input), generation_folder, input);
  check_same(parse_partial_folder(input), partial_folder, input);
  check_same(parse_doomed_folder(input), doomed_folder, input);
  check_same(parse_shard_file(input), shard_file, input);
  check_same(parse_attempt_file(input), attempt_file, input);
  check_same(parse_aside_folder(input), aside_folder, input);
  check_same(parse_run_tensor(input), run_tensor, input);
  check_same(parse_scalar(input), scalar_text, input);
  check_same(
      parse_hash128(input), [](const Hash128& hash) { return hash.hex(); }, input);
  uint64_t hex = 0;
  if (parse_hex64(input, &hex)) LOCKSTEP_CHECK(hex64(hex) == input, hex);
}

void check_attempt_record(std::string_view input) {
  const auto record = parse_attempt_record(input, "input");
  if (!record.is_ok()) {
    LOCKSTEP_CHECK(record.status().code() == StatusCode::kCorruption, record.status().to_string());
    return;
  }
  std::string text = attempt_record_text(*record) + std::string(record->num_heartbeats, '.');
  if (record->ended) text += kAttemptEndMark;
  const auto again = parse_attempt_record(text, "written");
  LOCKSTEP_CHECK(again.is_ok(), again.status().message());
  LOCKSTEP_CHECK(again->process == record->process && again->job_id == record->job_id &&
                     again->utc_time == record->utc_time && again->ended == record->ended &&
                     again->num_heartbeats == record->num_heartbeats,
                 text);
}

/// A number below 2^53 out of the input's bytes.
int64_t number_at(std::string_view input, size_t index) {
  uint64_t value = 0;
  std::memcpy(&value, input.data() + 8 * index, 8);
  return static_cast<int64_t>(value & ((uint64_t{1} << 53) - 1));
}

void check_building(std::string_view input) {
  if (input.size() < 24) return;
  const GenerationName name{number_at(input, 0), number_at(input, 1)};
  const int64_t third = number_at(input, 2);
  LOCKSTEP_CHECK(parse_generation_folder(generation_folder(name)) == name, generation_folder(name));
  const TransientName transient{name, third};
  LOCKSTEP_CHECK(parse_partial_folder(partial_folder(transient)) == transient, third);
  LOCKSTEP_CHECK(parse_doomed_folder(doomed_folder(transient)) == transient, third);
  LOCKSTEP_CHECK(!parse_generation_folder(partial_folder(transient)), partial_folder(transient));
  const ShardName shard{name.step, third};
  LOCKSTEP_CHECK(parse_shard_file(shard_file(shard)) == shard, shard_file(shard));
  LOCKSTEP_CHECK(parse_attempt_file(attempt_file(third)) == third, third);
}

}  // namespace
}  // namespace lockstep

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  lockstep::check_parsing(input);
  lockstep::check_attempt_record(input);
  lockstep::check_building(input);
  return 0;
}
