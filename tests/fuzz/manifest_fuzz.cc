// Fuzzes the reader of manifests. An input is a manifest; its last member is made right before it
// is read, or the hash would keep all that is behind it out of reach. What is accepted must be
// written and read back to the same, its shards must be such that they can be written, and their
// headers read.
#include "lockstep/checkpoint/manifest.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr std::string_view kHashMember = " \"manifest_hash\":\"";

std::string with_right_hash(std::string_view input) {
  const std::string_view body = input.substr(0, std::min(input.rfind(kHashMember), input.size()));
  return cat(body, kHashMember, xxh3_128(body).hex(), "\"\n}\n");
}

void check_refusal(const Status& status) {
  LOCKSTEP_CHECK(
      status.code() == StatusCode::kCorruption || status.code() == StatusCode::kUnsupported,
      status.to_string());
}

void check_shards(const Manifest& manifest) {
  const Status covered = check_coverage(manifest.schema, manifest.shards);
  LOCKSTEP_CHECK(covered.is_ok(), covered.message());
  for (size_t i = 0; i < manifest.shards.size(); ++i) {
    const auto layout = plan_shard(manifest.schema, manifest.shards[i].runs);
    LOCKSTEP_CHECK(layout.is_ok(), layout.status().message());
    const std::string prefix = shard_prefix(manifest.schema, *layout, manifest.shard_identity(i));
    const auto header =
        parse_safetensors_header(std::string_view(prefix).substr(8), layout->data_bytes(), "shard");
    LOCKSTEP_CHECK(header.is_ok(), header.status().message());
    LOCKSTEP_CHECK(header->tensors.size() == layout->extents.size() + 1, prefix.substr(8));
  }
}

}  // namespace
}  // namespace lockstep

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lockstep;  // NOLINT(google-build-using-namespace): as a main
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string text = with_right_hash(input);
  if (text != input) check_refusal(parse_manifest(input, "input").status());
  const auto manifest = parse_manifest(text, "input");
  if (!manifest.is_ok()) {
    check_refusal(manifest.status());
    return 0;
  }
  const std::string written = manifest_text(*manifest);
  const auto again = parse_manifest(written, "written");
  LOCKSTEP_CHECK(again.is_ok(), again.status().message(), "\n", written);
  LOCKSTEP_CHECK(manifest_text(*again) == written, "reads back to something else:\n", written);
  LOCKSTEP_CHECK(
      again->name() == manifest->name() && again->scalars.size() == manifest->scalars.size(),
      written);
  check_shards(*manifest);
  return 0;
}
