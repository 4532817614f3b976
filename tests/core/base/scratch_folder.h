#pragma once
// A folder of a test's own on the real disk.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace lockstep {

inline std::string make_scratch_folder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "lockstep-base-XXXXXX").string();
  EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
  return pattern;
}

}  // namespace lockstep
