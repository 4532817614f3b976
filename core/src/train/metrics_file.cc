// A file that does not start at step 1 (the run goes on from another run's checkpoint, or its file
// was moved away) says so in its first line: {"event":"begin","num_steps":N}. From there on every
// step is in it, and a file that lacks one is refused: a gap that nobody notices is a wrong curve.
#include "lockstep/core/train/metrics_file.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxFileBytes = uint64_t{4} << 30;
constexpr size_t kBufferBytes = 64 * 1024;

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

// Text of a reason or a path may hold any bytes.
std::string one_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The start of a line: what happened, after how many steps, and when by the wall clock.
Json line_of(const char* event, int64_t num_steps) {
  return {{"event", event},
          {"num_steps", num_steps},
          {"unix_s", static_cast<double>(wall_clock_ns() / 1000) * 1e-6}};
}

constexpr std::string_view kLineStart = "{\"event\":\"";
constexpr const char* kSaveEvent = "save";

struct MetricsLine {
  std::string event;
  int64_t num_steps = 0;
};

// What a line says, if this class has written it.
std::optional<MetricsLine> parse_line(std::string_view line) {
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!line.starts_with(kLineStart) || !json.is_object() || !json.contains("num_steps") ||
      !json["num_steps"].is_number_integer() || !json["event"].is_string()) {
    return std::nullopt;
  }
  return MetricsLine{json["event"].get<std::string>(), json["num_steps"].get<int64_t>()};
}

// Steps that should stand before a line, or before the end of the file, and do not.
Status gap_error(const std::string& where, int64_t num_found, int64_t num_expected) {
  return corruption_error(cat(where, ": expected the lines of all steps up to ", num_expected,
                              ", found those up to ", num_found,
                              "; the file is left as it is: move it away to start a new one"));
}

// Whether a crash can have made this of one of our lines: cut it off, or left zeros in it.
bool may_be_torn(std::string_view line) {
  std::string_view head = line.substr(0, std::min(line.find('\0'), kLineStart.size()));
  return !line.empty() && kLineStart.starts_with(head);
}

// The beginning of a line that may hold anything, fit for a terminal.
std::string shown(std::string_view line) {
  std::string text(line.substr(0, 60));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

// The bytes up to the first line that belongs to a later step or is torn. Every line up to the
// restored step was synced before its checkpoint was committed, so a crash can only have damaged
// what stands behind them.
Result<size_t> kept_bytes(const std::string& path, const std::string& text, int64_t num_steps) {
  size_t begin = 0;
  int64_t seen_steps = 0;
  for (int64_t line_number = 1; begin < text.size(); ++line_number) {
    size_t end = text.find('\n', begin);
    bool is_whole = end != std::string::npos;
    std::string_view line = std::string_view(text).substr(begin, is_whole ? end - begin : end);
    auto parsed = is_whole ? parse_line(line) : std::nullopt;
    if (!parsed) {
      if (may_be_torn(line) && (!is_whole || seen_steps >= num_steps)) break;
      return corruption_error(cat(path, ":", line_number, ": expected a line of metrics ('",
                                  kLineStart, "...' with \"num_steps\"), found '", shown(line),
                                  "'; the file is left as it is: move it away to start a new one"));
    }
    if (parsed->num_steps > num_steps) break;
    bool is_first = parsed->event == "begin" && begin == 0;
    bool is_next = parsed->event == "step" && parsed->num_steps == seen_steps + 1;
    if (is_first || is_next) seen_steps = parsed->num_steps;
    if (parsed->num_steps > seen_steps)
      return gap_error(cat(path, ":", line_number), seen_steps, parsed->num_steps);
    begin = end + 1;
  }
  if (begin > 0 && seen_steps < num_steps) return gap_error(path, seen_steps, num_steps);
  return begin;
}

// What is told of a save beside its status and step. The times of phases are those of this rank.
Json json_of(const SaveRecord& record) {
  const SaveFigures& figures = record.figures;
  Json json = {{"mode", record.is_behind ? "async" : "sync"},
               {"reached", record.reached ? Json(save_word_text(*record.reached)) : Json(nullptr)},
               {"generation", record.generation},
               {"state_digest", record.state_digest},
               {"save_ms", record.save_ms},
               {"stall_ms", record.stall_ms},
               {"plan_ms", figures.plan_ms},
               {"stage_ms", figures.stage_ms},
               {"write_ms", figures.write_ms},
               {"sync_ms", figures.sync_ms},
               {"vote_ms", figures.vote_ms},
               {"commit_ms", figures.commit_ms},
               {"bytes",
                {{"own", figures.own_bytes},
                 {"total", figures.total_bytes},
                 {"unique", figures.unique_bytes}}}};
  if (!figures.io.empty()) json["io"] = figures.io;
  if (!record.status.is_ok()) json["error"] = record.status.to_string();
  if (const auto spread = spread_of(figures)) {
    json["gb_per_s"] = {{"min", spread->min_gb_per_s},
                        {"median", spread->median_gb_per_s},
                        {"max", spread->max_gb_per_s}};
    json["slowest_rank"] = {{"rank", spread->slowest_rank},
                            {"ms", spread->slowest_ms},
                            {"gb_per_s", spread->slowest_gb_per_s}};
    json["written_per_unique"] = spread->written_per_unique;
    json["largest_per_mean"] = spread->largest_per_mean;
  }
  return json;
}

}  // namespace

Result<std::unique_ptr<MetricsFile>> MetricsFile::open(FileSystem& fs, const std::string& path,
                                                       int64_t num_steps) {
  std::unique_ptr<MetricsFile> metrics(new MetricsFile(fs, path));
  LOCKSTEP_RETURN_IF_ERROR(metrics->cut_back_and_open(num_steps));
  return metrics;
}

Result<std::optional<int64_t>> MetricsFile::last_durable_steps(FileSystem& fs,
                                                               const std::string& path) {
  LOCKSTEP_ASSIGN_OR_RETURN(bool is_there, exists(fs, path));
  if (!is_there) return std::optional<int64_t>();
  LOCKSTEP_ASSIGN_OR_RETURN(std::string text, read_whole_file(fs, path, kMaxFileBytes));
  std::optional<int64_t> last;
  for (const std::string& line : split(text, '\n')) {
    if (!line.starts_with(cat(kLineStart, kSaveEvent))) continue;
    Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("status") || !json.contains("saved_num_steps") ||
        json["status"] != save_word_text(SaveWord::kDurable) ||
        !json["saved_num_steps"].is_number_integer()) {
      continue;
    }
    last = json["saved_num_steps"].get<int64_t>();
  }
  return last;
}

Status MetricsFile::cut_back_and_open(int64_t num_steps) {
  LOCKSTEP_ASSIGN_OR_RETURN(bool is_there, exists(fs_, path_));
  size_t keep = 0;
  if (is_there) {
    LOCKSTEP_ASSIGN_OR_RETURN(std::string text, read_whole_file(fs_, path_, kMaxFileBytes));
    LOCKSTEP_ASSIGN_OR_RETURN(keep, kept_bytes(path_, text, num_steps));
    text.resize(keep);
    // A file of its own, even when nothing is cut: an older start that was taken over and does not
    // know it yet goes on writing into the one it opened, which then has no name.
    std::string fresh = path_ + ".new";
    LOCKSTEP_RETURN_IF_ERROR(write_and_sync_file(fs_, fresh, text, OpenMode::kTruncate));
    LOCKSTEP_RETURN_IF_ERROR(fs_.rename(fresh, path_));
  }
  LOCKSTEP_ASSIGN_OR_RETURN(file_, fs_.open_write(path_, OpenMode::kAppend));
  LOCKSTEP_ASSIGN_OR_RETURN(syncer_, fs_.open_write(path_, OpenMode::kAppend));
  file_bytes_ = keep;
  flush_at_bytes_ = kBufferBytes;
  if (keep == 0 && num_steps > 0) {
    LOCKSTEP_RETURN_IF_ERROR(write_line(one_line(line_of("begin", num_steps))));
    LOCKSTEP_RETURN_IF_ERROR(flush());
  }
  LOCKSTEP_RETURN_IF_ERROR(file_->sync());
  return fs_.sync_dir(path_parent(path_));
}

Status MetricsFile::write_line(std::string line) {
  pending_ += line;
  pending_ += '\n';
  return pending_.size() >= flush_at_bytes_ ? flush_if_there_is_room() : Status::ok();
}

// All that is pending, or nothing: what a full disk took of it is cut off again. By the open file,
// not by its name, which may be a newer start's by now.
Status MetricsFile::flush() {
  if (pending_.empty()) return Status::ok();
  const Status status = file_->write(std::as_bytes(std::span(pending_.data(), pending_.size())));
  if (status.code() == StatusCode::kResourceExhausted) {
    LOCKSTEP_RETURN_IF_ERROR(file_->cut(file_bytes_));
    flush_at_bytes_ = pending_.size() + kBufferBytes;
    return status;
  }
  file_bytes_ += pending_.size();
  flush_at_bytes_ = kBufferBytes;
  pending_.clear();
  return status;
}

Status MetricsFile::flush_if_there_is_room() {
  const bool may_wait = pending_.size() < kMaxPendingBytes;
  Status status = flush();
  return may_wait && status.code() == StatusCode::kResourceExhausted ? Status::ok() : status;
}

Status MetricsFile::on_step(const StepRecord& record) {
  Json json = line_of("step", record.step + 1);
  json.update({{"epoch", record.epoch},
               {"loss", number(record.loss)},
               {"gradient_norm", number(record.gradient_norm)},
               {"learning_rate", record.learning_rate},
               {"clip_factor", record.clip_factor},
               {"num_samples", record.num_samples},
               {"is_applied", record.is_applied},
               {"step_ms", record.step_ms},
               {"communication_ms", record.communication_ms},
               {"exposed_ms", record.exposed_ms},
               {"loader_ms", record.loader_ms},
               {"update_ms", record.update_ms}});
  if (!record.bad_numbers.empty()) json["reason"] = record.bad_numbers;
  return write_line(one_line(json));
}

Status MetricsFile::on_evaluation(const EvalRecord& record) {
  Json json = line_of("evaluation", record.num_steps);
  json.update({{"epoch", record.epoch},
               {"loss", number(record.loss)},
               {"accuracy", record.accuracy},
               {"num_correct", record.num_correct},
               {"num_samples", record.num_samples}});
  LOCKSTEP_RETURN_IF_ERROR(write_line(one_line(json)));
  return flush_if_there_is_room();
}

Status MetricsFile::sync_flushed() {
  return syncer_->sync();
}

Status MetricsFile::on_save(const SaveRecord& record) {
  Json json = line_of(kSaveEvent, record.told_after_steps);
  json["status"] = record.is_skipped ? "skipped" : save_word_text(record.word());
  json["saved_num_steps"] = record.num_steps;
  if (!record.is_skipped) json.update(json_of(record));
  LOCKSTEP_RETURN_IF_ERROR(write_line(one_line(json)));
  return flush_if_there_is_room();
}

Status MetricsFile::on_interval(const IntervalRecord& record) {
  Json json = line_of("save_interval", record.num_steps);
  json.update({{"steps", record.steps}, {"was", record.was}, {"why", record.why}});
  return write_line(one_line(json));
}

Status MetricsFile::on_roll_back(int64_t num_steps, std::string_view reason) {
  LOCKSTEP_RETURN_IF_ERROR(flush());
  LOCKSTEP_RETURN_IF_ERROR(syncer_->close());
  LOCKSTEP_RETURN_IF_ERROR(file_->close());
  LOCKSTEP_RETURN_IF_ERROR(cut_back_and_open(num_steps));
  Json json = line_of("roll_back", num_steps);
  json["reason"] = std::string(reason);
  return write_line(one_line(json));
}

Status MetricsFile::close() {
  LOCKSTEP_RETURN_IF_ERROR(flush());
  LOCKSTEP_RETURN_IF_ERROR(file_->sync());
  LOCKSTEP_RETURN_IF_ERROR(syncer_->close());
  return file_->close();
}

}  // namespace lockstep
