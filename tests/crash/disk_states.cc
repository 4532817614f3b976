#include "disk_states.h"

#include <algorithm>
#include <array>
#include <random>
#include <string_view>

#include "lockstep/checkpoint/names.h"
#include "lockstep/core/base/text.h"

namespace lockstep::crash {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 26;

std::vector<CrashFate> choices(const UnsyncedOperation& operation) {
  std::vector<CrashFate> fates = {{CrashFate::Kind::kLost, 0}, {CrashFate::Kind::kKept, 0}};
  if (operation.kind != UnsyncedOperation::Kind::kData) return fates;
  fates.push_back({CrashFate::Kind::kZeroed, 0});
  for (uint64_t kept : {uint64_t{1}, operation.size_bytes / 2, operation.size_bytes - 1}) {
    if (kept > 0 && kept < operation.size_bytes) fates.push_back({CrashFate::Kind::kTorn, kept});
  }
  return fates;
}

/// Names are mostly kept: where a folder is lost, so is all that differs in it. Bytes end anywhere.
CrashFate drawn(const UnsyncedOperation& operation, std::mt19937_64& random) {
  if (operation.kind != UnsyncedOperation::Kind::kData)
    return {random() % 8 == 0 ? CrashFate::Kind::kLost : CrashFate::Kind::kKept, 0};
  CrashFate fate{static_cast<CrashFate::Kind>(random() % 4)};
  if (operation.size_bytes > 0) fate.kept_bytes = random() % operation.size_bytes;
  return fate;
}

void mask_after(std::string* text, std::string_view key, size_t size) {
  const size_t at = text->find(key);
  if (at == std::string::npos) return;
  const size_t begin = at + key.size();
  for (size_t i = begin; i < std::min(begin + size, text->size()); ++i) {
    if ((*text)[i] != '\0') (*text)[i] = 'x';
  }
}

std::string without_time(const std::string& name, std::string text) {
  if (name == kTokenFile) {
    std::replace_if(
        text.begin(), text.end(), [](char c) { return c != '\0'; }, 'x');
  }
  if (name.ends_with(".safetensors")) return text;
  mask_after(&text, "\"utc_time\":\"", 20);
  mask_after(&text, "\"manifest_hash\":\"", 32);
  return text;
}

void append_names(FileSystem& fs, const std::string& folder, std::string* out) {
  const auto entries = fs.list(folder);
  if (!entries.is_ok()) return;
  for (const DirectoryEntry& entry : *entries) {
    const std::string path = path_join(folder, entry.name);
    *out += cat(path, '\0', static_cast<int>(entry.type), '\0');
    if (entry.type == FileType::kDirectory) {
      append_names(fs, path, out);
    } else {
      const auto content = read_whole_file(fs, path, kMaxFileBytes);
      LOCKSTEP_CHECK(content.is_ok(), content.status().message());
      *out += cat(content->size(), '\0', without_time(entry.name, *content));
    }
  }
}

}  // namespace

std::vector<Fates> fates_to_try(const std::vector<UnsyncedOperation>& operations,
                                const FateBudget& budget, uint64_t seed) {
  size_t num_combinations = 1;
  for (const UnsyncedOperation& operation : operations) {
    num_combinations =
        std::min(num_combinations * choices(operation).size(), budget.most_exhaustive + 1);
  }
  const bool is_exhaustive = num_combinations <= budget.most_exhaustive;
  std::mt19937_64 random(seed);
  std::vector<Fates> all;
  for (size_t i = 0; i < (is_exhaustive ? num_combinations : budget.num_samples); ++i) {
    Fates fates;
    size_t digits = i;
    for (const UnsyncedOperation& operation : operations) {
      const auto options = choices(operation);
      if (!is_exhaustive && i >= 2) {
        fates.push_back(drawn(operation, random));
        continue;
      }
      fates.push_back(
          options[is_exhaustive ? digits % options.size() : i]);  // i: lose all, keep all
      digits /= options.size();
    }
    all.push_back(std::move(fates));
  }
  return all;
}

Fates keep_all(const MemoryFileSystem& disk) {
  return Fates(disk.unsynced().size(), {CrashFate::Kind::kKept, 0});
}

Hash128 disk_hash(FileSystem& fs, const std::string& folder) {
  std::string names;
  append_names(fs, folder, &names);
  return xxh3_128(names);
}

}  // namespace lockstep::crash
