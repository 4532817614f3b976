#include "lockstep/launch/version.h"

#include <torch/version.h>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

const char* const kVersion = LOCKSTEP_VERSION;

std::string version_text() {
  return cat("lockstep ", kVersion, "\nbuild ", build_id(), "\nLibTorch ", TORCH_VERSION,
             "\ninstruction set ", instruction_set(), "\n");
}

}  // namespace lockstep
