#pragma once
// Exit codes of the programs: what a launch script decides by.

#include "lockstep/core/base/status.h"

namespace lockstep {

enum class ExitCode : int {
  kDone = 0,
  kUsage = 64,     ///< command line or recipe; do not retry
  kData = 65,      ///< bad data or corrupt checkpoint; do not retry
  kInternal = 70,  ///< a defect
  kIo = 74,        ///< the disk
  kTryAgain = 75,  ///< a peer failed
  kRequeue = 85,   ///< stopped by a signal after a durable checkpoint
};

/// The code a program leaves with for `status` (design.md section 7).
ExitCode exit_code_for(const Status& status);

}  // namespace lockstep
