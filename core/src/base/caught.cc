#include "lockstep/core/base/caught.h"

#include <string>

namespace lockstep {

Status status_of(const std::exception& error) {
  std::string text = error.what();
  text = text.substr(0, text.find("\nException raised from"));
  text = text.substr(0, text.find("\nframe #"));
  // Sources: c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp (LibTorch 2.11), and
  // the text of cudaErrorMemoryAllocation.
  const bool is_memory = text.find("can't allocate memory") != std::string::npos ||
                         text.find("out of memory") != std::string::npos;
  return is_memory ? resource_exhausted_error("not enough memory: " + text) : internal_error(text);
}

}  // namespace lockstep
