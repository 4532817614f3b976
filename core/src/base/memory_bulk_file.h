#pragma once
// Bulk files in memory: see bulk_file.h. The disk's mutex is held by whoever makes one.

#include <memory>
#include <string>

#include "lockstep/core/base/bulk_file.h"
#include "memory_disk.h"

namespace lockstep {

std::unique_ptr<BulkWritableFile> make_memory_bulk_writable(std::shared_ptr<MemoryDisk> disk,
                                                            NodeId node, const std::string& path,
                                                            const BulkOptions& options);
std::unique_ptr<BulkReadableFile> make_memory_bulk_readable(std::shared_ptr<MemoryDisk> disk,
                                                            NodeId node, const std::string& path,
                                                            const BulkOptions& options);

}  // namespace lockstep
