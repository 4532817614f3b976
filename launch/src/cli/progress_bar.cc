#include "progress_bar.h"

#include <algorithm>
#include <cstdio>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr double kFirstAfterS = 0.3;  // work that is shorter needs no bar
constexpr double kPeriodS = 0.1;
constexpr int kCells = 20;

std::string time_left(double seconds) {
  const auto s = static_cast<int64_t>(std::min(seconds, 359'999.0) + 0.5);
  const auto two = [](int64_t value) { return cat(value < 10 ? "0" : "", value); };
  const std::string tail = cat(two(s / 60 % 60), ":", two(s % 60));
  return s >= 3600 ? cat(s / 3600, ":", tail) : tail;
}

}  // namespace

std::string progress_line(const std::string& what, uint64_t done_bytes, uint64_t total_bytes,
                          double seconds) {
  const double total = static_cast<double>(std::max<uint64_t>(total_bytes, 1));
  const double share = std::min(static_cast<double>(done_bytes) / total, 1.0);
  const double rate = seconds > 0 ? static_cast<double>(done_bytes) / seconds : 0;
  const auto filled = static_cast<size_t>(share * kCells);
  std::string line = cat(what, "  [", std::string(filled, '#'), std::string(kCells - filled, '.'),
                         "]  ", static_cast<int>(share * 100), "%  ", human_bytes(done_bytes),
                         " of ", human_bytes(total_bytes));
  if (rate <= 0) return line;
  const double left_s = (total - static_cast<double>(done_bytes)) / rate;
  return cat(line, "  ", fixed(rate * 1e-9, 2), " GB/s  left ", time_left(std::max(left_s, 0.0)));
}

OnProgress ProgressBar::on_progress() {
  if (!is_shown_) return {};
  return [this](uint64_t done_bytes, uint64_t total_bytes) {
    const double now_s = watch_.elapsed_s();
    if (now_s < kFirstAfterS || now_s - last_shown_s_ < kPeriodS) return;
    last_shown_s_ = now_s;
    is_on_screen_ = true;
    std::fprintf(stderr, "\r\033[K%s",
                 progress_line(what_, done_bytes, total_bytes, now_s).c_str());
    std::fflush(stderr);
  };
}

void ProgressBar::finish() {
  if (!is_on_screen_) return;
  is_on_screen_ = false;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace lockstep
