#include "parts.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/file_system.h"
#include "lockstep/core/base/text.h"

namespace lockstep::crash {
namespace {

constexpr size_t kMaxKept = 20;
constexpr int64_t kProgressPauseNs = 100'000'000;

}  // namespace

int64_t PartOptions::number(const std::string& name, int64_t fallback) const {
  const auto it = values.find(name);
  return it == values.end() ? fallback : std::stoll(it->second);
}

std::string PartOptions::text(const std::string& name, const std::string& fallback) const {
  const auto it = values.find(name);
  return it == values.end() ? fallback : it->second;
}

CaseShare::CaseShare(const PartOptions& options)
    : stride(static_cast<uint64_t>(options.number("every", 1) * options.number("parts", 1))),
      offset(static_cast<uint64_t>(options.number("every", 1) * options.number("part", 0))) {}

PartFolder::PartFolder(const PartOptions& options, const std::string& name)
    : path_(path_join(options.text("folder", "."), cat(name, "-", options.number("part", 0)))) {}

void PartFolder::renew() const {
  remove();
  LOCKSTEP_CHECK(make_dirs_durable(posix_file_system(), path_).is_ok(), path_, ": can't be made");
}

void PartFolder::remove() const {
  remove_tree(posix_file_system(), path_).ignore();
}

std::string PartFolder::base() const {
  return path_join(path_, "base");
}

std::string PartFolder::run_dir() const {
  return path_join(path_, "run");
}

void PartResult::violate(const std::string& what) {
  ++num_violations_;
  if (violations_.size() < kMaxKept) violations_.push_back(what);
}

void PartResult::add_violations(const std::vector<std::string>& all) {
  for (const std::string& each : all) violate(each);
}

std::string PartResult::to_json() const {
  nlohmann::json json;
  json["counts"] = counts_;
  json["tables"] = tables_;
  json["num_violations"] = num_violations_;
  json["violations"] = violations_;
  return json.dump();
}

void tell_progress(int64_t done, int64_t total) {
  static thread_local int64_t last_ns = 0;
  const int64_t now = monotonic_ns();
  if (done != total && now - last_ns < kProgressPauseNs) return;
  last_ns = now;
  std::fprintf(stderr, "progress %lld %lld\n", static_cast<long long>(done),
               static_cast<long long>(total));
}

}  // namespace lockstep::crash
