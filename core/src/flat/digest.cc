#include "lockstep/core/flat/digest.h"

#include <algorithm>
#include <array>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

void update_with_hashes(std::span<const uint64_t> hashes, Xxh3Stream* stream) {
  std::array<std::byte, 8> little_endian;
  for (const uint64_t hash : hashes) {
    for (size_t i = 0; i < little_endian.size(); ++i)
      little_endian[i] = static_cast<std::byte>(hash >> (8 * i));
    stream->update(little_endian);
  }
}

void update_with_kind(const StateSchema& schema, const StateKind& kind,
                      std::span<const uint64_t> hashes, Xxh3Stream* stream) {
  const FlatSpace* space = schema.layout.find(kind.space);
  LOCKSTEP_CHECK(space != nullptr, "the state has a kind ", kind.kind, " of an unknown space ",
                 kind.space);
  LOCKSTEP_CHECK(static_cast<int64_t>(hashes.size()) == space->num_blocks(), kind.kind, "/",
                 kind.space, " has ", space->num_blocks(), " blocks, found ", hashes.size(),
                 " hashes");
  stream->update(cat("blocks ", kind.kind, "/", kind.space, " ", hashes.size(), "\n"));
  update_with_hashes(hashes, stream);
}

bool is_value(const StateKind& kind) {
  return kind.kind == "param" || kind.kind == "buffer";
}

}  // namespace

void hash_blocks(const FlatSpace& space, BlockRun run, std::span<const std::byte> bytes_of_the_run,
                 std::span<uint64_t> out) {
  const ElemRun elems = space.elems_of(run);
  const int64_t elem_bytes = dtype_size_bytes(space.dtype);
  LOCKSTEP_CHECK(static_cast<int64_t>(bytes_of_the_run.size()) == elems.num_elems() * elem_bytes,
                 "blocks [", run.first, ", ", run.end, ") of ", space.name, " have ",
                 elems.num_elems() * elem_bytes, " bytes, found ", bytes_of_the_run.size());
  LOCKSTEP_CHECK(static_cast<int64_t>(out.size()) == run.num_blocks(), run.num_blocks(),
                 " blocks but room for ", out.size(), " hashes");
  const auto block_bytes = static_cast<size_t>(kBlockElems * elem_bytes);
  for (uint64_t& hash : out) {
    const size_t size = std::min(block_bytes, bytes_of_the_run.size());
    hash = xxh3_64(bytes_of_the_run.first(size));
    bytes_of_the_run = bytes_of_the_run.subspan(size);
  }
}

Hash128 state_digest(const StateSchema& schema, std::span<const std::vector<uint64_t>> block_hashes,
                     const Scalars& scalars) {
  LOCKSTEP_CHECK(block_hashes.size() == schema.kinds.size(), schema.kinds.size(),
                 " kinds but hashes of ", block_hashes.size());
  Xxh3Stream stream;
  stream.update("lockstep-state 1\n");
  stream.update(schema.layout.canonical_text());
  for (const auto& [name, scalar] : scalars) {
    const std::string text = scalar_text(scalar);
    stream.update(cat("scalar ", name.size(), " ", text.size(), "\n", name, "\n", text, "\n"));
  }
  for (size_t i = 0; i < block_hashes.size(); ++i)
    update_with_kind(schema, schema.kinds[i], block_hashes[i], &stream);
  return stream.digest();
}

Hash128 params_digest(const StateSchema& schema,
                      std::span<const std::vector<uint64_t>> block_hashes) {
  LOCKSTEP_CHECK(block_hashes.size() == schema.kinds.size(), schema.kinds.size(),
                 " kinds but hashes of ", block_hashes.size());
  Xxh3Stream stream;
  stream.update("lockstep-params 1\n");
  stream.update(schema.layout.canonical_text());
  for (size_t i = 0; i < block_hashes.size(); ++i) {
    if (is_value(schema.kinds[i]))
      update_with_kind(schema, schema.kinds[i], block_hashes[i], &stream);
  }
  return stream.digest();
}

}  // namespace lockstep
