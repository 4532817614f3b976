#pragma once
// Bulk files over POSIX: see bulk_file.h.

#include <memory>
#include <string>

#include "lockstep/core/base/bulk_file.h"

namespace lockstep {

/// Errors: as FileSystem::create_bulk.
Result<std::unique_ptr<BulkWritableFile>> create_posix_bulk_file(const std::string& path,
                                                                 const BulkOptions& options);
/// Errors: as FileSystem::open_bulk.
Result<std::unique_ptr<BulkReadableFile>> open_posix_bulk_file(const std::string& path,
                                                               const BulkOptions& options);

}  // namespace lockstep
