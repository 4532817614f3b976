// Helpers over any FileSystem.
#include <algorithm>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

/// Syncs the folder above an existing one. A folder that this user may not even list holds nothing
/// that this user's programs made: then there is nothing to sync.
Status sync_name_of_existing(FileSystem& fs, const std::string& parent) {
  Status synced = fs.sync_dir(parent);
  if (synced.is_ok() || !fs.list(parent).is_ok()) return Status::ok();
  return synced;
}

}  // namespace

Result<std::string> read_whole_file(FileSystem& fs, const std::string& path, uint64_t limit_bytes) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.open_read(path));
  LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t size, file->size_bytes());
  if (size > limit_bytes)
    return corruption_error(
        cat(path, ": ", size, " bytes, but at most ", limit_bytes, " are expected here"));
  std::string content(size, '\0');
  LOCKSTEP_RETURN_IF_ERROR(file->read(0, std::as_writable_bytes(std::span(content))));
  return content;
}

Status write_and_sync_file(FileSystem& fs, const std::string& path, std::string_view content,
                           OpenMode mode) {
  LOCKSTEP_ASSIGN_OR_RETURN(auto file, fs.open_write(path, mode));
  LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(content))));
  LOCKSTEP_RETURN_IF_ERROR(file->sync());
  return file->close();
}

Status make_dirs_durable(FileSystem& fs, const std::string& path) {
  const std::string parent = path_parent(path);
  // "<path>/." asks for what a symbolic link points at: a run folder may be a link to another disk.
  auto info = fs.stat(path_join(path, "."));
  if (info.is_ok()) {
    // Whoever made it may have been killed before its name was synced. One level is enough: nothing
    // is made in a folder here before that folder's own name is durable.
    if (info->type == FileType::kDirectory) return sync_name_of_existing(fs, parent);
    return io_error(
        cat("make folder ", path, ": the name is taken by something that is not a folder"));
  }
  if (info.status().code() != StatusCode::kNotFound) return info.status();
  if (parent != path) LOCKSTEP_RETURN_IF_ERROR(make_dirs_durable(fs, parent));
  Status made = fs.make_dir(path);
  // Another process may have been faster; its sync may not have happened yet, so ours follows all
  // the same.
  if (!made.is_ok() && made.code() != StatusCode::kAlreadyExists) return made;
  LOCKSTEP_ASSIGN_OR_RETURN(auto now, fs.stat(path_join(path, ".")));
  if (now.type != FileType::kDirectory)
    return io_error(
        cat("make folder ", path, ": the name is taken by something that is not a folder"));
  return fs.sync_dir(parent);
}

Status remove_tree(FileSystem& fs, const std::string& path) {
  auto info = fs.stat(path);
  if (!info.is_ok())
    return info.status().code() == StatusCode::kNotFound ? Status::ok() : info.status();
  if (info->type == FileType::kDirectory) {
    const auto entries = fs.list(path);
    if (entries.status().code() == StatusCode::kNotFound)
      return Status::ok();  // another was faster
    LOCKSTEP_RETURN_IF_ERROR(entries.status());
    for (const auto& entry : *entries)
      LOCKSTEP_RETURN_IF_ERROR(remove_tree(fs, path_join(path, entry.name)));
  }
  Status removed = fs.remove(path);
  return removed.code() == StatusCode::kNotFound ? Status::ok() : removed;
}

Status as_output_error(Status status) {
  if (status.code() != StatusCode::kNotFound) return status;
  return io_error(cat(status.message(), "; make the folder first"));
}

Result<bool> exists(FileSystem& fs, const std::string& path) {
  auto info = fs.stat(path);
  if (info.is_ok()) return true;
  if (info.status().code() == StatusCode::kNotFound) return false;
  return info.status();
}

std::string path_join(std::string_view folder, std::string_view name) {
  if (folder.empty()) return std::string(name);
  if (folder.back() == '/') return cat(folder, name);
  return cat(folder, "/", name);
}

std::string path_parent(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  std::string_view parent = path.substr(0, slash);
  while (parent.size() > 1 && parent.back() == '/') parent.remove_suffix(1);
  return parent.empty() ? "/" : std::string(parent);
}

}  // namespace lockstep
