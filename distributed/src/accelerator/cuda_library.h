#pragma once
// CudaLibrary: what the library behind a GPU gives to the program that loads it. The library holds
// all that knows CUDA or NCCL (distributed/src/cuda); nothing else links them. Thread-safety: one
// thread.

#include <memory>
#include <string>
#include <vector>

#include "lockstep/core/base/log.h"
#include "lockstep/core/base/status.h"
#include "lockstep/distributed/accelerator.h"

namespace lockstep {

struct VisibleGpu {
  std::string uuid;
  std::string name;  ///< "NVIDIA H200"
};

class CudaLibrary {
 public:
  virtual ~CudaLibrary() = default;
  /// In the order of their indices. Errors: kUnsupported: no driver, one older than the toolkit,
  /// no device.
  virtual Result<std::vector<VisibleGpu>> visible_gpus() const = 0;
  /// Makes it the current device of this process's LibTorch.
  virtual Result<std::shared_ptr<Accelerator>> open(int index, const Log& log) const = 0;
};

/// Of the library: its CudaLibrary, which lives as long as the process; and what must be equal in
/// program and library for them to understand each other.
inline constexpr const char* kCudaLibraryFile = "liblockstep_cuda.so";
inline constexpr const char* kCudaLibraryEntry = "lockstep_cuda_library";
inline constexpr const char* kCudaLibraryVersion = "lockstep_cuda_version";
inline constexpr const char* kCudaInterface = "lockstep-cuda 1";

/// Loads the library, once a process. Errors: kNotFound without a driver (nothing is loaded);
/// kUnsupported with the places looked at and the system's reason.
Result<const CudaLibrary*> load_cuda_library();

}  // namespace lockstep
