#include "cuda_library.h"

#include <dlfcn.h>

#include <string_view>

#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

// The driver comes with the machine, not with us. Without it there is no need to load the rest,
// which takes half a second.
Status find_driver() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return not_found_error("no NVIDIA driver here (libcuda.so.1)");
  dlclose(driver);
  return Status::ok();
}

std::string system_reason() {
  const char* reason = dlerror();
  return reason == nullptr ? "no reason given" : reason;
}

std::vector<std::string> places() {
  if (const auto named = environment_variable("LOCKSTEP_CUDA_LIBRARY")) return {*named};
  std::vector<std::string> paths;
  if (const std::string folder = program_folder(); !folder.empty()) {
    paths.push_back(cat(folder, "/", kCudaLibraryFile));
    paths.push_back(cat(folder, "/../lib/", kCudaLibraryFile));
  }
  paths.emplace_back(LOCKSTEP_BUILT_CUDA_LIBRARY);
  paths.emplace_back(LOCKSTEP_INSTALLED_CUDA_LIBRARY);
  return paths;
}

template <typename Function>
Function* find(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

Result<const CudaLibrary*> load() {
  LOCKSTEP_RETURN_IF_ERROR(find_driver());
  std::string tried;
  for (const std::string& path : places()) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      tried += cat("\n  ", path, ": ", system_reason());
      continue;
    }
    auto* version = find<const char*()>(library, kCudaLibraryVersion);
    auto* entry = find<const CudaLibrary*()>(library, kCudaLibraryEntry);
    if (version == nullptr || entry == nullptr || std::string_view(version()) != kCudaInterface) {
      tried += cat("\n  ", path, ": of another version of Lockstep");
      continue;
    }
    return entry();
  }
  return unsupported_error(
      cat("this machine has a GPU driver, but the library for GPUs can't be loaded:", tried,
          "\nBuild it (a CUDA toolkit was not found when this was built?), or name it in "
          "LOCKSTEP_CUDA_LIBRARY"));
}

}  // namespace

Result<const CudaLibrary*> load_cuda_library() {
  static const Result<const CudaLibrary*> loaded = load();  // never unloaded
  return loaded;
}

}  // namespace lockstep
