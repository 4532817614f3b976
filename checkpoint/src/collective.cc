#include "collective.h"

#include <algorithm>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr size_t kPieceBytes = size_t{32} << 20;  // half of what a plane takes in one message

}  // namespace

Packer& Packer::number(uint64_t value) {
  for (int i = 0; i < 8; ++i) bytes_.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return *this;
}

Packer& Packer::text(std::string_view value) {
  number(value.size());
  bytes_.append(value);
  return *this;
}

Packer& Packer::status(const Status& value) {
  return number(static_cast<uint64_t>(value.code())).text(value.message());
}

uint64_t Unpacker::number() {
  good_ = good_ && rest_.size() >= 8;
  if (!good_) return 0;
  uint64_t value = 0;
  for (size_t i = 8; i-- > 0;) value = value << 8 | static_cast<unsigned char>(rest_[i]);
  rest_.remove_prefix(8);
  return value;
}

std::string Unpacker::text() {
  const uint64_t size = number();
  good_ = good_ && size <= rest_.size();
  if (!good_) return {};
  std::string value(rest_.substr(0, size));
  rest_.remove_prefix(size);
  return value;
}

Hash128 Unpacker::hash() {
  const uint64_t high = number();
  return {high, number()};
}

Status Unpacker::status() {
  const uint64_t code = number();
  std::string message = text();
  if (!good_ || code > static_cast<uint64_t>(StatusCode::kInternal)) {
    good_ = false;
    return internal_error("a status that can't be read");
  }
  return code == 0 ? Status::ok() : Status(static_cast<StatusCode>(code), std::move(message));
}

void pack_runs(const std::vector<KindRuns>& all, Packer* packer) {
  packer->number(all.size());
  for (const KindRuns& entry : all) {
    packer->text(entry.kind.space).text(entry.kind.kind).number(entry.runs.size());
    for (const BlockRun& run : entry.runs) {
      packer->number(static_cast<uint64_t>(run.first)).number(static_cast<uint64_t>(run.end));
    }
  }
}

std::vector<KindRuns> unpack_runs(Unpacker* unpacker) {
  std::vector<KindRuns> all;
  for (uint64_t left = unpacker->number(); left > 0 && unpacker->good(); --left) {
    KindRuns entry;
    entry.kind.space = unpacker->text();
    entry.kind.kind = unpacker->text();
    for (uint64_t runs = unpacker->number(); runs > 0 && unpacker->good(); --runs) {
      const auto first = static_cast<int64_t>(unpacker->number());
      entry.runs.push_back({first, static_cast<int64_t>(unpacker->number())});
    }
    all.push_back(std::move(entry));
  }
  return all;
}

Result<std::string> share(ControlPlane& plane, std::string_view what,
                          const Result<std::string>& of_rank_0, Deadline deadline) {
  std::string message;
  if (plane.world_rank() == 0) {
    message = Packer()
                  .status(of_rank_0.status())
                  .text(of_rank_0.is_ok() ? *of_rank_0 : std::string())
                  .take();
  }
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string received,
                            plane.broadcast(what, std::move(message), deadline));
  Unpacker unpacker(received);
  Status status = unpacker.status();
  std::string value = unpacker.text();
  if (!status.is_ok()) return status.with_context("rank 0");
  if (!unpacker.is_whole()) return internal_error(cat(what, ": a message that can't be read"));
  return value;
}

Result<std::string> share_long(ControlPlane& plane, std::string_view what,
                               const Result<std::string>& of_rank_0, Deadline deadline) {
  const auto head = [&]() -> Result<std::string> {
    if (!of_rank_0.is_ok()) return of_rank_0.status();
    return Packer().number(of_rank_0->size()).take();
  };
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string size_text, share(plane, what, head(), deadline));
  const uint64_t size = Unpacker(size_text).number();
  std::string value;
  while (value.size() < size) {
    const auto piece = [&]() -> Result<std::string> {
      return of_rank_0.is_ok() ? of_rank_0->substr(value.size(), kPieceBytes) : std::string();
    };
    LOCKSTEP_ASSIGN_OR_RETURN(const std::string received, share(plane, what, piece(), deadline));
    if (received.empty()) return internal_error(cat(what, ": an empty piece"));
    value += received;
  }
  return value;
}

Deadline deadline_within(const Stopwatch& start, double whole_s, double seconds) {
  return Deadline::after_s(std::clamp(whole_s - start.elapsed_s(), seconds / 4, seconds));
}

}  // namespace lockstep
