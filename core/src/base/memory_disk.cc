#include "memory_disk.h"

#include <algorithm>
#include <set>

#include "lockstep/core/base/text.h"

namespace lockstep {

namespace {

constexpr const char* kNotAFolder = "Not a directory";

void write_into(FileBytes& content, uint64_t offset, std::span<const std::byte> bytes) {
  if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size());
  std::copy(bytes.begin(), bytes.end(), content.begin() + static_cast<ptrdiff_t>(offset));
}

void apply(const PendingOperation& op, const CrashFate& fate, MemoryNode& node) {
  LOCKSTEP_CHECK(op.description.kind == UnsyncedOperation::Kind::kData ||
                     fate.kind == CrashFate::Kind::kKept || fate.kind == CrashFate::Kind::kLost,
                 "only written bytes can be torn or zeroed, not: ", op.description.what);
  if (fate.kind == CrashFate::Kind::kLost) return;
  switch (op.description.kind) {
    case UnsyncedOperation::Kind::kData: {
      if (fate.kind == CrashFate::Kind::kZeroed) {
        write_into(node.durable, op.offset_or_size, FileBytes(op.bytes.size()));
        return;
      }
      size_t kept = op.bytes.size();
      if (fate.kind == CrashFate::Kind::kTorn) kept = std::min<size_t>(kept, fate.kept_bytes);
      write_into(node.durable, op.offset_or_size, std::span(op.bytes).first(kept));
      return;
    }
    case UnsyncedOperation::Kind::kSize:
      node.durable.resize(op.offset_or_size);
      return;
    case UnsyncedOperation::Kind::kNames:
      for (const auto& [name, id] : op.names) {
        if (id) {
          node.durable_names[name] = *id;
        } else {
          node.durable_names.erase(name);
        }
      }
      return;
  }
}

}  // namespace

Result<MemoryDisk::Place> MemoryDisk::find(std::string_view operation,
                                           const std::string& path) const {
  Place place{.folder = kRootNode, .name = {}, .node = kRootNode};
  if (path.empty()) return not_found_error(cat(operation, " ", path, ": ", kNoSuchName));
  for (const auto& part : split(path, '/')) {
    if (part.empty()) continue;
    if (!place.node) return not_found_error(cat(operation, " ", path, ": ", kNoSuchName));
    const MemoryNode& node = nodes.at(*place.node);
    if (!node.is_directory) return io_error(cat(operation, " ", path, ": ", kNotAFolder));
    if (part == ".") continue;
    LOCKSTEP_CHECK(part != "..", "the in-memory file system has no \"..\": ", path);
    place.folder = *place.node;
    place.name = part;
    auto found = node.seen_names.find(part);
    place.node = found == node.seen_names.end() ? std::nullopt : std::optional(found->second);
  }
  return place;
}

Result<NodeId> MemoryDisk::find_existing(std::string_view operation,
                                         const std::string& path) const {
  LOCKSTEP_ASSIGN_OR_RETURN(const Place place, find(operation, path));
  if (!place.node) return not_found_error(cat(operation, " ", path, ": ", kNoSuchName));
  return *place.node;
}

Result<NodeId> MemoryDisk::find_folder(std::string_view operation, const std::string& path) const {
  LOCKSTEP_ASSIGN_OR_RETURN(const NodeId id, find_existing(operation, path));
  if (!nodes.at(id).is_directory) return io_error(cat(operation, " ", path, ": ", kNotAFolder));
  return id;
}

NodeId MemoryDisk::add_node(bool is_directory) {
  const NodeId id = next_id++;
  nodes[id].is_directory = is_directory;
  return id;
}

void MemoryDisk::change_names(NodeId folder, std::string what, NameChanges names) {
  NameTable& seen = nodes.at(folder).seen_names;
  for (const auto& [name, id] : names) {
    if (id) {
      seen[name] = *id;
    } else {
      seen.erase(name);
    }
  }
  PendingOperation op;
  op.description = {UnsyncedOperation::Kind::kNames, std::move(what), 0};
  op.node = folder;
  op.names = std::move(names);
  pending.push_back(std::move(op));
}

void MemoryDisk::change_size(NodeId file, const std::string& path, uint64_t size_bytes) {
  nodes.at(file).seen.resize(size_bytes);
  PendingOperation op;
  op.description = {UnsyncedOperation::Kind::kSize, cat("cut ", path, " to ", size_bytes, " bytes"),
                    0};
  op.node = file;
  op.offset_or_size = size_bytes;
  pending.push_back(std::move(op));
}

Status MemoryDisk::write(NodeId file, const std::string& path, uint64_t offset,
                         std::span<const std::byte> bytes) {
  const uint64_t used = used_bytes();
  const uint64_t room = capacity_bytes > used ? capacity_bytes - used : 0;
  const bool fits = bytes.size() <= room;
  if (!fits) bytes = bytes.first(room);
  if (!bytes.empty()) {
    write_into(nodes.at(file).seen, offset, bytes);
    PendingOperation op;
    op.description = {UnsyncedOperation::Kind::kData,
                      cat("write ", bytes.size(), " bytes at ", offset, " of ", path),
                      bytes.size()};
    op.node = file;
    op.offset_or_size = offset;
    op.bytes.assign(bytes.begin(), bytes.end());
    pending.push_back(std::move(op));
  }
  if (!fits) return resource_exhausted_error(cat("write ", path, ": No space left on device"));
  return Status::ok();
}

void MemoryDisk::make_durable(NodeId id) {
  MemoryNode& node = nodes.at(id);
  for (const PendingOperation& op : pending) {
    if (op.node == id) apply(op, {CrashFate::Kind::kKept}, node);
  }
  std::erase_if(pending, [id](const PendingOperation& op) { return op.node == id; });
  if (node.is_directory) forget_unreachable();
}

// Operations on files that no crash can bring back would only lengthen unsynced().
void MemoryDisk::forget_unreachable() {
  std::set<NodeId> reachable;
  std::vector<NodeId> todo{kRootNode};
  while (!todo.empty()) {
    const NodeId id = todo.back();
    todo.pop_back();
    if (!reachable.insert(id).second) continue;
    for (const auto& [name, child] : nodes.at(id).seen_names) todo.push_back(child);
    for (const auto& [name, child] : nodes.at(id).durable_names) todo.push_back(child);
    for (const PendingOperation& op : pending) {
      if (op.node != id) continue;
      for (const auto& [name, child] : op.names) {
        if (child) todo.push_back(*child);
      }
    }
  }
  std::erase_if(pending, [&](const PendingOperation& op) { return !reachable.contains(op.node); });
  std::erase_if(nodes, [&](const auto& item) {
    return item.second.num_open == 0 && !reachable.contains(item.first);
  });
}

bool MemoryDisk::is_inside(NodeId node, NodeId ancestor) const {
  if (node == ancestor) return true;
  const NameTable& names = nodes.at(ancestor).seen_names;
  return std::any_of(names.begin(), names.end(),
                     [&](const auto& item) { return is_inside(node, item.second); });
}

uint64_t MemoryDisk::used_bytes() const {
  uint64_t total = 0;
  for (const auto& [id, node] : nodes) total += node.seen.size();
  return total;
}

void MemoryDisk::crash(const std::vector<CrashFate>& fates) {
  LOCKSTEP_CHECK(fates.size() == pending.size(),
                 "a crash needs one fate for each unsynced operation: expected ", pending.size(),
                 ", got ", fates.size());
  for (size_t i = 0; i < pending.size(); ++i)
    apply(pending[i], fates[i], nodes.at(pending[i].node));
  pending.clear();
  for (auto& [id, node] : nodes) {
    node.seen = node.durable;
    node.seen_names = node.durable_names;
    node.num_open = 0;
  }
  ++epoch;
  forget_unreachable();
}

}  // namespace lockstep
