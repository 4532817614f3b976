#pragma once
// A line on a terminal that says how far long work is: share, bytes, rate, time left.
// Thread-safety: the function that on_progress() returns from one thread at a time; the rest from
// the one that made the bar.

#include <functional>
#include <string>

#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/core/base/deadline.h"

namespace lockstep {

class ProgressBar {
 public:
  /// `is_shown` false: nothing is ever written.
  ProgressBar(std::string what, bool is_shown) : what_(std::move(what)), is_shown_(is_shown) {}

  /// For a tool to call. Lifetime: that of the bar.
  OnProgress on_progress();
  /// Takes the line away, so that what follows stands by itself.
  void finish();

 private:
  std::string what_;
  bool is_shown_;
  bool is_on_screen_ = false;
  Stopwatch watch_;
  double last_shown_s_ = 0;
};

/// "verify  [#########...........]  45%  1.2 GiB of 2.7 GiB  1.10 GB/s  left 00:02"
std::string progress_line(const std::string& what, uint64_t done_bytes, uint64_t total_bytes,
                          double seconds);

}  // namespace lockstep
