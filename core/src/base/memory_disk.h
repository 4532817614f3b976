#pragma once
// The two states of a disk in memory, and the unsynced operations between them.
// Nodes (files and folders) are numbered and refer to each other by number, so that a disk is
// copied by copying its tables, and a crash that loses a rename can leave one node under two names
// or under none. Thread-safety: none but `mutex`, which the file system around it holds during each
// call.

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/core/base/memory_file_system.h"

namespace lockstep {

using NodeId = int64_t;
using FileBytes = std::vector<std::byte>;
using NameTable = std::map<std::string, NodeId>;
/// Names to set (a node) or to remove (none), together or not at all.
using NameChanges = std::vector<std::pair<std::string, std::optional<NodeId>>>;

inline constexpr NodeId kRootNode = 0;
inline constexpr const char* kNoSuchName = "No such file or directory";

struct MemoryNode {
  bool is_directory = false;
  int num_open = 0;
  FileBytes seen;           ///< a file's bytes as processes see them
  FileBytes durable;        ///< its bytes on the disk for certain
  NameTable seen_names;     ///< a folder's names as processes see them
  NameTable durable_names;  ///< its names on the disk for certain
};

struct PendingOperation {
  UnsyncedOperation description;
  NodeId node = kRootNode;      ///< the file, or the folder of the names
  uint64_t offset_or_size = 0;  ///< kData: offset; kSize: new size
  FileBytes bytes;              ///< kData
  NameChanges names;            ///< kNames
};

struct MemoryDisk {
  mutable std::mutex mutex;
  std::map<NodeId, MemoryNode> nodes;
  NodeId next_id = kRootNode + 1;
  std::vector<PendingOperation> pending;
  uint64_t capacity_bytes = uint64_t{1} << 40;
  uint64_t epoch = 0;  // counts crashes: files opened before the last one are dead

  MemoryDisk() { nodes[kRootNode].is_directory = true; }

  struct Place {
    NodeId folder = kRootNode;
    std::string name;  // empty: the root itself
    std::optional<NodeId> node;
  };

  Result<Place> find(std::string_view operation, const std::string& path) const;
  Result<NodeId> find_existing(std::string_view operation, const std::string& path) const;
  Result<NodeId> find_folder(std::string_view operation, const std::string& path) const;
  NodeId add_node(bool is_directory);
  void change_names(NodeId folder, std::string what, NameChanges names);
  void change_size(NodeId file, const std::string& path, uint64_t size_bytes);
  Status write(NodeId file, const std::string& path, uint64_t offset,
               std::span<const std::byte> bytes);
  void make_durable(NodeId node);
  void forget_unreachable();
  bool is_inside(NodeId node, NodeId ancestor) const;
  uint64_t used_bytes() const;
  void crash(const std::vector<CrashFate>& fates);
};

}  // namespace lockstep
