#include "step_message.h"

#include <cstring>

#include "lockstep/core/base/check.h"

namespace lockstep {
namespace {

constexpr size_t kHeaderWords =
    5;  // flags, buffers hash, error, number of micro-batches, number of blocks

size_t bitmap_bytes(int64_t n) {
  return static_cast<size_t>((n + 63) / 64) * 8;
}

template <typename T>
std::byte* put(std::byte* at, const std::vector<T>& values, int64_t capacity) {
  if (!values.empty()) std::memcpy(at, values.data(), values.size() * sizeof(T));
  return at + static_cast<size_t>(capacity) * sizeof(T);
}

template <typename T>
const std::byte* get(const std::byte* at, std::vector<T>* values, size_t n, int64_t capacity) {
  values->resize(n);
  if (n > 0) std::memcpy(values->data(), at, n * sizeof(T));
  return at + static_cast<size_t>(capacity) * sizeof(T);
}

}  // namespace

size_t StepMessageShape::num_bytes() const {
  return kHeaderWords * 8 +
         static_cast<size_t>(2 * max_micro_batches + max_blocks) * sizeof(double) +
         bitmap_bytes(num_parameters);
}

void StepMessage::pack(const StepMessageShape& shape, std::span<std::byte> out) const {
  LOCKSTEP_CHECK(out.size() == shape.num_bytes(), "step message of ", out.size(),
                 " bytes, expected ", shape.num_bytes());
  LOCKSTEP_CHECK(losses.size() == weights.size() &&
                     losses.size() <= static_cast<size_t>(shape.max_micro_batches) &&
                     block_sums.size() <= static_cast<size_t>(shape.max_blocks) &&
                     parameter_used.size() == static_cast<size_t>(shape.num_parameters),
                 "step message does not fit its shape");
  std::memset(out.data(), 0, out.size());
  const uint64_t header[kHeaderWords] = {flags, integer_buffers_hash, error, losses.size(),
                                         block_sums.size()};
  std::memcpy(out.data(), header, sizeof(header));
  std::byte* at = out.data() + sizeof(header);
  at = put(at, losses, shape.max_micro_batches);
  at = put(at, weights, shape.max_micro_batches);
  at = put(at, block_sums, shape.max_blocks);
  for (size_t i = 0; i < parameter_used.size(); ++i) {
    if (parameter_used[i]) at[i / 8] |= static_cast<std::byte>(1u << (i % 8));
  }
}

StepMessage StepMessage::unpack(const StepMessageShape& shape, std::span<const std::byte> in) {
  LOCKSTEP_CHECK(in.size() == shape.num_bytes(), "step message of ", in.size(), " bytes, expected ",
                 shape.num_bytes());
  uint64_t header[kHeaderWords];
  std::memcpy(header, in.data(), sizeof(header));
  LOCKSTEP_CHECK(header[3] <= static_cast<uint64_t>(shape.max_micro_batches) &&
                     header[4] <= static_cast<uint64_t>(shape.max_blocks),
                 "step message with counts beyond its shape");
  StepMessage message;
  message.flags = header[0];
  message.integer_buffers_hash = header[1];
  message.error = header[2];
  const std::byte* at = in.data() + sizeof(header);
  at = get(at, &message.losses, header[3], shape.max_micro_batches);
  at = get(at, &message.weights, header[3], shape.max_micro_batches);
  at = get(at, &message.block_sums, header[4], shape.max_blocks);
  message.parameter_used.resize(static_cast<size_t>(shape.num_parameters));
  for (size_t i = 0; i < message.parameter_used.size(); ++i) {
    message.parameter_used[i] = (static_cast<unsigned>(at[i / 8]) >> (i % 8) & 1u) != 0;
  }
  return message;
}

}  // namespace lockstep
