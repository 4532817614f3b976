// The two functions that the library gives to whoever loads it (cuda_library.h), and what they
// stand for.
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include "cuda_device.h"
#include "cuda_library.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/text.h"

namespace lockstep::cuda {
namespace {

// The oldest GPUs that the kernels are compiled for (cmake/LockstepCuda.cmake).
constexpr int kLeastMajor = 8;

std::string version_of(int version) {
  return cat(version / 1000, ".", version % 1000 / 10);
}

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Status check_driver() {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return not_found_error("no NVIDIA driver here");
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess)
    return unsupported_error("the CUDA runtime does not tell its version");
  // Within a major version an older driver is enough (minor version compatibility).
  if (driver / 1000 >= runtime / 1000) return Status::ok();
  return unsupported_error(cat("the NVIDIA driver is for CUDA ", version_of(driver),
                               ", older than the CUDA ", version_of(runtime),
                               " that this was built with: update the driver"));
}

class Library final : public CudaLibrary {
 public:
  Result<std::vector<VisibleGpu>> visible_gpus() const override {
    LOCKSTEP_RETURN_IF_ERROR(check_driver());
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return unsupported_error(cat("no usable GPU: ", cudaGetErrorString(error)));
    }
    std::vector<VisibleGpu> gpus;
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp properties{};
      if (const cudaError_t error = cudaGetDeviceProperties(&properties, i); error != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
        return unsupported_error(cat("GPU ", i, ": ", cudaGetErrorString(error)));
      }
      if (properties.major < kLeastMajor) {
        return unsupported_error(cat("GPU ", i, " (", properties.name, ") has compute capability ",
                                     properties.major, ".", properties.minor, ", this needs ",
                                     kLeastMajor, ".0: leave it out of CUDA_VISIBLE_DEVICES"));
      }
      gpus.push_back({uuid_text(properties.uuid), properties.name});
    }
    return gpus;
  }

  Result<std::shared_ptr<Accelerator>> open(int index, const Log& log) const override {
    try {
      // LibTorch's allocator of GPU memory wants this before the first allocation that is not a
      // tensor's.
      at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
      c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
      return std::shared_ptr<Accelerator>(std::make_shared<CudaDevice>(index, log));
    } catch (const std::exception& error) {
      const Status status = status_of(error).with_context(cat("cuda:", index, " can't be used"));
      // LibTorch asks for its CUDA side once, and remembers that it was not there.
      const bool was_asked = status.message().find("ATen_cuda") != std::string::npos;
      if (!was_asked) return status;
      return invalid_argument_error(cat(
          "LibTorch was asked about GPUs before open_accelerator() or Trainer::make() loaded what "
          "knows them (by torch::manual_seed() or torch::cuda::is_available(), say): call those "
          "first. ",
          status.message()));
    }
  }
};

}  // namespace
}  // namespace lockstep::cuda

extern "C" {

[[gnu::visibility("default")]] const lockstep::CudaLibrary* lockstep_cuda_library() {
  static const lockstep::cuda::Library library;
  return &library;
}

[[gnu::visibility("default")]] const char* lockstep_cuda_version() {
  return lockstep::kCudaInterface;
}
}
