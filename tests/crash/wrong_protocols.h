#pragma once
// Protocols that are wrong on purpose, the controls of the campaign: a harness that passes one of
// them proves nothing. Each saves a state over an older one as somebody once wrote it.
// Thread-safety: values.

#include <string>
#include <vector>

#include "operations.h"
#include "rehearsal.h"

namespace lockstep::crash {

struct Control {
  std::string name;
  bool is_wrong = true;  ///< false: the right order, which the harness must pass
  /// What was there before, and what may come back.
  Operation operation;
  Protocol protocol;
};

/// The right order, and the eight wrong protocols of the design with their variants.
/// `run_dir` is where they save.
std::vector<Control> controls(const std::string& run_dir);

}  // namespace lockstep::crash
