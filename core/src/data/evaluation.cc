#include "lockstep/core/data/evaluation.h"

#include <algorithm>
#include <numeric>

#include "lockstep/core/base/check.h"

namespace lockstep {

int64_t num_evaluation_batches(int64_t num_samples, int64_t batch_size) {
  LOCKSTEP_CHECK(num_samples >= 0 && batch_size >= 1, num_samples, " samples in batches of ",
                 batch_size);
  return num_samples / batch_size + (num_samples % batch_size != 0 ? 1 : 0);
}

std::vector<int64_t> evaluation_batch(int64_t num_samples, int64_t batch_size, int64_t index) {
  LOCKSTEP_CHECK(index >= 0 && index < num_evaluation_batches(num_samples, batch_size),
                 "evaluation batch ", index, " of ", num_samples, " samples in batches of ",
                 batch_size);
  int64_t first = index * batch_size;
  std::vector<int64_t> indices(static_cast<size_t>(std::min(batch_size, num_samples - first)));
  std::iota(indices.begin(), indices.end(), first);
  return indices;
}

IndexRange evaluation_batches_of_rank(int64_t num_batches, int world_rank, int world_size) {
  LOCKSTEP_CHECK(world_size >= 1 && world_rank >= 0 && world_rank < world_size, "rank ", world_rank,
                 " of ", world_size);
  return {.first = num_batches * world_rank / world_size,
          .end = num_batches * (world_rank + 1) / world_size};
}

}  // namespace lockstep
