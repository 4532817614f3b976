#include "progress.h"

#include <cstdio>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr int64_t kTerminalPeriodNs = 100'000'000;
constexpr int64_t kPlainPeriodNs = 5'000'000'000;

std::string two_digits(int64_t value) {
  return cat(value < 10 ? "0" : "", value);
}

}  // namespace

std::string duration_text(double seconds) {
  auto s = static_cast<int64_t>(seconds + 0.5);
  std::string tail = cat(two_digits(s / 60 % 60), ":", two_digits(s % 60));
  return s >= 3600 ? cat(s / 3600, ":", tail) : tail;
}

Progress::Progress(int64_t end_step, bool is_terminal)
    : end_step_(end_step), is_terminal_(is_terminal) {}

void Progress::line(const std::string& text) {
  std::fprintf(stderr, "%s%s\n", has_open_line_ ? "\n" : "", text.c_str());
  has_open_line_ = false;
}

Status Progress::on_step(const StepRecord& record) {
  ++num_steps_seen_;
  step_seconds_ += record.step_ms * 1e-3;
  if (!record.bad_numbers.empty()) line(cat("warning: left out: ", record.bad_numbers));
  int64_t now = monotonic_ns();
  bool is_last = record.step + 1 == end_step_;
  if (num_steps_seen_ > 1 && !is_last &&
      now - last_shown_ns_ < (is_terminal_ ? kTerminalPeriodNs : kPlainPeriodNs)) {
    return Status::ok();
  }
  last_shown_ns_ = now;
  double seconds_per_step = step_seconds_ / static_cast<double>(num_steps_seen_);
  std::string text =
      cat("step ", record.step + 1, "/", end_step_, "  epoch ", record.epoch + 1, "  loss ",
          fixed(record.loss, 4), "  rate ", fixed(record.learning_rate, 6), "  ",
          fixed(static_cast<double>(record.num_samples) / seconds_per_step, 0), " samples/s  left ",
          duration_text(seconds_per_step * static_cast<double>(end_step_ - record.step - 1)));
  if (!is_terminal_) {
    line(text);
  } else {
    std::fprintf(stderr, "\r\033[K%s", text.c_str());
    std::fflush(stderr);
    has_open_line_ = true;
  }
  return Status::ok();
}

Status Progress::on_evaluation(const EvalRecord& record) {
  line(cat("evaluation after step ", record.num_steps, ": accuracy ", fixed(record.accuracy, 4),
           " (", record.num_correct, " of ", record.num_samples, "), loss ",
           fixed(record.loss, 4)));
  return Status::ok();
}

Status Progress::on_save(const SaveRecord& record) {
  if (record.is_skipped) {
    line(cat("no checkpoint after step ", record.num_steps, ": the one before is still written"));
  } else if (record.status.is_ok()) {
    line(cat("checkpoint after step ", record.num_steps, ": generation ", record.generation,
             ", durable in ", fixed(record.save_ms, 0), " ms (training waited ",
             fixed(record.stall_ms, 0), "), state digest ", record.state_digest));
  }
  return Status::ok();
}

Status Progress::on_interval(const IntervalRecord& record) {
  line(cat("after step ", record.num_steps, ": a checkpoint every ", record.steps,
           " steps, before every ", record.was, "; ", record.why));
  return Status::ok();
}

void Progress::on_end(const SaveSummary& saves) {
  if (saves.num_saves() == 0) return;
  const int64_t num_bad = saves.num_failed + saves.num_unknown;
  line(cat(saves.num_saves(), " saves",
           num_bad > 0 ? cat(" (", num_bad, " without a checkpoint)") : std::string(),
           saves.num_skipped > 0 ? cat(", ", saves.num_skipped, " left out") : std::string(),
           ": training waited ", fixed(saves.stall_ms_median, 1), " ms for one, ",
           fixed(saves.stall_ms_worst, 1), " at worst, ", fixed(saves.stall_share * 100, 2),
           "% of the time; ", fixed(saves.behind_share * 100, 2),
           "% of the time one was written behind training. A failure now would cost ",
           saves.at_risk_steps_now, " steps, it never would have cost more than ",
           saves.at_risk_steps_most, " (", fixed(saves.at_risk_s_most, 1), " s)"));
}

Status Progress::on_roll_back(int64_t num_steps, std::string_view reason) {
  line(cat("rolled back to step ", num_steps, ": ", reason));
  return Status::ok();
}

}  // namespace lockstep
