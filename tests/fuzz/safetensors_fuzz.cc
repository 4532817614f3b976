// Fuzzes the reader of safetensors headers. An input is a line "<header length> <bytes of data>",
// where "-" stands for the right length, then the header: so that the fuzzer can say anything of a
// file's size without the bytes being there. What is accepted must be written and read back to the
// same, and must tile the data exactly.
#include <charconv>
#include <cstring>

#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

/// A length, a header, and so many zeros.
class VirtualFile : public ReadableFile {
 public:
  VirtualFile(std::string head, uint64_t data_bytes)
      : head_(std::move(head)), data_bytes_(data_bytes) {}

  Status read(uint64_t offset_bytes, std::span<std::byte> out) const override {
    if (offset_bytes + out.size() > head_.size() + data_bytes_)
      return corruption_error("the file ends before");
    for (size_t i = 0; i < out.size(); ++i) {
      const uint64_t at = offset_bytes + i;
      out[i] = at < head_.size() ? static_cast<std::byte>(head_[at]) : std::byte{0};
    }
    return Status::ok();
  }
  Result<uint64_t> size_bytes() const override { return head_.size() + data_bytes_; }

 private:
  std::string head_;
  uint64_t data_bytes_;
};

uint64_t number_or(std::string_view text, uint64_t fallback) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : fallback;
}

void check_accepted(const SafetensorsHeader& header, uint64_t data_bytes) {
  uint64_t covered = 0;
  for (const SafetensorsEntry& entry : header.tensors) {
    LOCKSTEP_CHECK(entry.begin == covered && entry.end >= entry.begin, "a hole at ", covered);
    const auto num_elems = static_cast<uint64_t>(checked_num_elems(entry.shape));
    LOCKSTEP_CHECK(
        num_elems * static_cast<uint64_t>(dtype_size_bytes(entry.dtype)) == entry.end - entry.begin,
        "the shape of ", entry.name);
    covered = entry.end;
  }
  LOCKSTEP_CHECK(covered == data_bytes, "covered ", covered, " of ", data_bytes);

  const std::string prefix = safetensors_prefix(header.tensors, header.metadata);
  LOCKSTEP_CHECK(prefix.size() % kSafetensorsDataAlignBytes == 0, prefix.size());
  const VirtualFile written(prefix, data_bytes);
  const auto again = read_safetensors_header(written, "written");
  LOCKSTEP_CHECK(again.is_ok(), again.status().message());
  LOCKSTEP_CHECK(again->tensors == header.tensors && again->metadata == header.metadata,
                 "reads back to something else: ", prefix.substr(8));
}

}  // namespace
}  // namespace lockstep

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lockstep;  // NOLINT(google-build-using-namespace): as a main
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line_end = std::min(input.find('\n'), size);
  const std::string_view line = input.substr(0, line_end);
  const std::string_view json = input.substr(std::min(line_end + 1, size));
  const size_t blank = std::min(line.find(' '), line.size());
  const uint64_t length = number_or(line.substr(0, blank), json.size());
  // Above 2^60 the sum with the header could wrap, which no real size does.
  const uint64_t data_bytes =
      number_or(line.substr(std::min(blank + 1, line.size())), 0) & ((uint64_t{1} << 60) - 1);

  std::string head(8, '\0');
  std::memcpy(head.data(), &length, 8);
  head += json;
  const VirtualFile file(head, data_bytes);
  const auto header = read_safetensors_header(file, "input");
  if (header.is_ok()) {
    check_accepted(*header, head.size() + data_bytes - header->data_offset);
  } else {
    const StatusCode code = header.status().code();
    LOCKSTEP_CHECK(code == StatusCode::kCorruption || code == StatusCode::kUnsupported,
                   header.status().to_string());
  }
  return 0;
}
