// The library for GPUs, on a machine that has none: it loads, is ours, and says what is missing.
// Covers: cuda_library_entry.cc
#include "cuda_library.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep {
namespace {

using ::testing::HasSubstr;

bool has_driver() {
  return load_cuda_library().status().code() != StatusCode::kNotFound;
}

// Loading it runs LibTorch's CUDA side and NCCL through the linker, with or without a GPU.
TEST(CudaLibrary, IsCompleteAndSaysWhatIsMissing) {
  void* library = dlopen(LOCKSTEP_TEST_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  auto* version = reinterpret_cast<const char* (*)()>(dlsym(library, kCudaLibraryVersion));
  auto* entry = reinterpret_cast<const CudaLibrary* (*)()>(dlsym(library, kCudaLibraryEntry));
  ASSERT_NE(version, nullptr);
  ASSERT_NE(entry, nullptr);
  EXPECT_STREQ(version(), kCudaInterface);
  const auto gpus = entry()->visible_gpus();
  if (has_driver()) return;
  EXPECT_EQ(gpus.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(gpus.status().message(), HasSubstr("no NVIDIA driver"));
}

}  // namespace
}  // namespace lockstep
