// The text of an attempt file: one line of JSON, a byte for each heartbeat, the end mark.
#include <algorithm>

#include "json_reader.h"
#include "lockstep/checkpoint/attempt.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

std::string attempt_record_text(const AttemptRecord& record) {
  return cat("{\"format\":\"lockstep.attempt\",\"host\":", json_quoted(record.process.host),
             ",\"boot_id\":", json_quoted(record.process.boot_id), ",\"pid\":", record.process.pid,
             ",\"start_ticks\":\"", hex64(record.process.start_ticks),
             "\",\"job_id\":", json_quoted(record.job_id),
             ",\"utc_time\":", json_quoted(record.utc_time), "}\n");
}

Result<AttemptRecord> parse_attempt_record(std::string_view text, std::string_view where) {
  const size_t line_end = text.find('\n');
  if (line_end == std::string_view::npos)
    return corruption_error(cat(where, ": no whole first line"));
  LOCKSTEP_ASSIGN_OR_RETURN(const Json root, parse_json(text.substr(0, line_end), where));
  JsonFields fields(root, std::string(where));
  AttemptRecord record;
  if (fields.text("format") != "lockstep.attempt") fields.fail("format", "is not lockstep.attempt");
  record.process.host = fields.text("host");
  record.process.boot_id = fields.text("boot_id");
  record.process.pid = fields.count("pid");
  record.process.start_ticks = fields.hex64("start_ticks");
  record.job_id = fields.text("job_id");
  record.utc_time = fields.text("utc_time");
  LOCKSTEP_RETURN_IF_ERROR(fields.status());
  const std::string_view beats = text.substr(line_end + 1);
  record.num_heartbeats = static_cast<uint64_t>(std::count(beats.begin(), beats.end(), '.'));
  record.ended = beats.ends_with(kAttemptEndMark);
  return record;
}

}  // namespace lockstep
