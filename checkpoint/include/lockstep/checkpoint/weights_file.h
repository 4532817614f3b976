#pragma once
// Weights from a safetensors file that anybody made (ckpt export, Python) into the state of a run:
// whole tensors in row-major order, by name. Thread-safety: any thread.

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/flat/state.h"

namespace lockstep {

struct ImportedWeights {
  int64_t num_tensors = 0;
  uint64_t bytes = 0;
  std::vector<std::string> kept;  ///< buffers that the file does not have: they stay as they are
};

/// Fills the values in `into` (parameters and buffers; optimizer state is left alone) from the
/// file, bit for bit, in the storage order of each tensor. Every parameter must be there, under its
/// name or, when it is tied, one of its aliases; buffers may be; nothing else. `into` may be a part
/// of the state: as much of each tensor is read as lies in it.
/// Errors: kInvalidArgument with a list of what is missing, unexpected, or of another shape or
/// dtype, or when tied names have different values; kCorruption and kUnsupported for a file that is
/// no safetensors file or has an unknown dtype; kNotFound; kIoError. `into` is untouched unless the
/// whole list fits. Cost: a tensor that is not stored in row-major order is held from the first
/// dimension that is moved.
Result<ImportedWeights> import_weights(FileSystem& fs, const std::string& path,
                                       const StateSchema& schema, const OwnedState& into);

}  // namespace lockstep
