#include "lockstep/core/base/exit_code.h"

namespace lockstep {

ExitCode exit_code_for(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return ExitCode::kDone;
    case StatusCode::kInvalidArgument:
    case StatusCode::kAlreadyExists:
      return ExitCode::kUsage;
    case StatusCode::kUnsupported:
    case StatusCode::kNotFound:
    case StatusCode::kCorruption:
      return ExitCode::kData;
    case StatusCode::kIoError:
    case StatusCode::kResourceExhausted:
      return ExitCode::kIo;
    case StatusCode::kTimeout:
    case StatusCode::kPeerFailure:
    case StatusCode::kAborted:
      return ExitCode::kTryAgain;
    case StatusCode::kInternal:
      return ExitCode::kInternal;
  }
  return ExitCode::kInternal;
}

}  // namespace lockstep
