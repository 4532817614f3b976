#include "lockstep/distributed/tree_reducer.h"

#include <algorithm>

#include "lockstep/core/base/check.h"
#include "lockstep/distributed/world.h"

namespace lockstep {
namespace {

// Of a stage of more than two ranks, which holds a chunk of every root for each chunk under way.
constexpr int kMostChunksOfMany = 16;
// Beyond this a step less is worth less than larger messages.
constexpr int kMostDirectRanks = 8;
constexpr int64_t kBf16Bytes = 2;
// Scratch begins anew at so many bytes: what one load or store of a GPU takes.
constexpr int64_t kScratchAlignBytes = 16;

/// The part of `run` that lies `offset` to `offset + num_elems` elements after its start; empty
/// beyond its end.
ElemRun slice_of(ElemRun run, int64_t offset, int64_t num_elems) {
  int64_t first = std::min(run.first + offset, run.end);
  return {first, std::min(first + num_elems, run.end)};
}

int64_t aligned(int64_t num_bytes) {
  return (num_bytes + kScratchAlignBytes - 1) / kScratchAlignBytes * kScratchAlignBytes;
}

}  // namespace

TreeReducerOptions TreeReducerOptions::between(const World& world, const Device& device) {
  TreeReducerOptions options;
  // Of a world that is a power of two, what evenly many ranks a host has is one too.
  if (is_power_of_two(world.ranks_per_host()))
    options.direct_ranks = std::clamp(world.ranks_per_host(), 2, kMostDirectRanks);
  if (!device.is_host()) {
    // Few large transfers: each is a launch of its own.
    options.chunk_bytes = int64_t{32} << 20;
    options.chunks_in_flight = 1;
  } else if (world.num_hosts() > 1) {
    // Messages that Open MPI sends at once, without asking the receiver first, and as many of them
    // under way as keep the wire busy while a window is taken up.
    options.chunk_bytes = 60 * 1024;
    options.chunks_in_flight = 16;
    options.gather_chunk_bytes = 60 * 1024;
  }
  return options;
}

TreeReducer::TreeReducer(Communicator& communicator, const FlatSpace& space, ShardPlan plan,
                         int64_t num_leaves, const TreeReducerOptions& options, Device& device)
    : communicator_(communicator),
      queue_(device.communication()),
      space_(space),
      plan_(std::move(plan)) {
  int world_size = communicator.world_size();
  LOCKSTEP_CHECK(space.dtype == Dtype::kF32 || space.dtype == Dtype::kF64, "space ", space.name,
                 " has elements of type ", dtype_name(space.dtype), "; sums are F32 or F64");
  LOCKSTEP_CHECK(plan_.world_size() == world_size, "a plan for ", plan_.world_size(),
                 " ranks in a world of ", world_size);
  LOCKSTEP_CHECK(plan_.num_blocks() == space.num_blocks(), "a plan for ", plan_.num_blocks(),
                 " blocks, but space ", space.name, " has ", space.num_blocks());
  LOCKSTEP_CHECK(world_size <= num_leaves, "world size ", world_size, " is larger than the ",
                 num_leaves, " leaves of the tree: use fewer ranks or more micro-batches a step");
  LOCKSTEP_CHECK(options.chunk_bytes > 0 && options.chunks_in_flight > 0, "chunk_bytes ",
                 options.chunk_bytes, ", chunks_in_flight ", options.chunks_in_flight);
  LOCKSTEP_CHECK(is_power_of_two(options.direct_ranks), "direct_ranks ", options.direct_ranks,
                 " is not a power of two");
  int64_t elem_bytes = dtype_size_bytes(space.dtype);
  stages_ = plan_stages(num_leaves, options);
  num_roots_ = stages_.empty() ? 1 : static_cast<int>(stages_[0].num_own());
  chunks_in_flight_ = options.chunks_in_flight;
  chunk_elems_ = options.chunk_bytes / elem_bytes;
  gather_elems_ = options.gather_chunk_bytes > 0
                      ? std::max<int64_t>(options.gather_chunk_bytes / elem_bytes, 1)
                      : std::max<int64_t>(space.num_elems, 1);
  if (!stages_.empty()) {
    // The most that one rank keeps: later stages only cut that further.
    int64_t longest = 1;
    for (int b = 0; b < plan_.num_buckets(); ++b) {
      for (size_t m = 0; m < stages_[0].members.size(); ++m)
        longest = std::max(longest, kept_elems(stages_[0], m, b).num_elems());
    }
    chunk_elems_ = std::clamp<int64_t>(chunk_elems_, 1, longest);
  }
  for (const Stage& stage : stages_) {
    int64_t bytes_of_chunk = static_cast<int64_t>(stage.num_others()) *
                             aligned(chunk_elems_ * elem_bytes);
    for (size_t m = 0; m < stage.members.size(); ++m) {
      for (size_t e = stage.first_entry[m]; e < stage.first_entry[m + 1]; ++e) {
        // What arrives as bf16 once; what goes out packed once for each of the others.
        const size_t copies = m == stage.me ? stage.members.size() - 1 : 1;
        if (stage.is_bf16[e])
          bytes_of_chunk += static_cast<int64_t>(copies) * aligned(chunk_elems_ * kBf16Bytes);
      }
    }
    scratch_bytes_ = std::max(
        scratch_bytes_, static_cast<uint64_t>(num_chunks(stage)) *
                            static_cast<uint64_t>(bytes_of_chunk));
    chunks_.resize(std::max(chunks_.size(), static_cast<size_t>(num_chunks(stage))));
  }
  if (scratch_bytes_ > 0) scratch_ = device.allocate(scratch_bytes_);
  for (int i = 0; i < plan_.num_buckets(); ++i) {
    reduce_names_.push_back(cat("reduction of ", space.name, " bucket ", i));
    gather_names_.push_back(cat("all-gather of ", space.name, " bucket ", i));
  }
}

// Where the number of ranks is a power of two, each rank begins with one node of the tree, of the
// depth at which there is one for each rank; a stage of r ranks makes nodes that are log2 r less
// deep, and leaves each of them an r-th of it. Other worlds finish in one stage of all ranks.
std::vector<TreeReducer::Stage> TreeReducer::plan_stages(int64_t num_leaves,
                                                         const TreeReducerOptions& options) const {
  const int rank = communicator_.world_rank(), world_size = communicator_.world_size();
  std::vector<Stage> stages;
  if (world_size == 1) return stages;
  const FinishPlan finish = plan_finish(num_leaves, world_size);
  const auto travels_as_bf16 = [&](size_t root) {
    return options.leaves_are_bf16 && space_.dtype == Dtype::kF32 &&
           finish.roots[root].num_leaves() == 1;
  };
  if (!is_power_of_two(world_size)) {
    Stage& all = stages.emplace_back();
    all.me = static_cast<size_t>(rank);
    all.num_pieces = 1;
    for (int r = 0; r < world_size; ++r) {
      all.members.push_back(r);
      all.first_piece.push_back(plan_.piece_index(r));
    }
    for (int first : finish.first_root_of_rank) all.first_entry.push_back(static_cast<size_t>(first));
    all.merges = finish.merges;
    for (size_t e = 0; e < finish.roots.size(); ++e) all.is_bf16.push_back(travels_as_bf16(e));
    return stages;
  }
  int held_first = 0, held = world_size;  // pieces of what this rank and those like it hold
  for (int stride = 1; stride < world_size;) {
    const int radix = stride == 1 ? std::min(std::max(options.direct_ranks, 2), world_size) : 2;
    const int digit = rank / stride % radix;
    Stage& stage = stages.emplace_back();
    stage.me = static_cast<size_t>(digit);
    stage.num_pieces = held / radix;
    for (int d = 0; d < radix; ++d) {
      const int member = rank + (d - digit) * stride;
      stage.members.push_back(member);
      stage.first_piece.push_back(held_first + reversed_bits(d, radix) * stage.num_pieces);
      stage.first_entry.push_back(static_cast<size_t>(d));
      stage.is_bf16.push_back(stride == 1 && travels_as_bf16(static_cast<size_t>(member)));
    }
    stage.first_entry.push_back(static_cast<size_t>(radix));
    stage.merges = plan_finish(radix, radix).merges;
    held_first = stage.first_piece[stage.me];
    held = stage.num_pieces;
    stride *= radix;
  }
  return stages;
}

int TreeReducer::num_chunks(const Stage& stage) const {
  return stage.members.size() == 2 ? chunks_in_flight_
                                   : std::min(chunks_in_flight_, kMostChunksOfMany);
}

std::span<std::byte> TreeReducer::bytes_of(void* values, ElemRun elems) const {
  const int64_t size = dtype_size_bytes(space_.dtype);
  return {static_cast<std::byte*>(values) + elems.first * size,
          static_cast<size_t>(elems.num_elems() * size)};
}

ElemRun TreeReducer::kept_elems(const Stage& stage, size_t member, int bucket) const {
  const int first = stage.first_piece[member];
  return space_.elems_of(plan_.pieces(bucket, first, first + stage.num_pieces));
}

ElemRun TreeReducer::piece_elems(int bucket) const {
  return space_.elems_of(plan_.piece(bucket, communicator_.world_rank()));
}

uint64_t TreeReducer::reduce_bytes_sent(int bucket) const {
  int64_t bytes = 0;
  for (const Stage& stage : stages_) {
    int64_t bytes_of_elem = 0;
    for (size_t e = stage.first_entry[stage.me]; e < stage.first_entry[stage.me + 1]; ++e)
      bytes_of_elem += stage.is_bf16[e] ? kBf16Bytes : dtype_size_bytes(space_.dtype);
    for (size_t m = 0; m < stage.members.size(); ++m) {
      if (m != stage.me) bytes += kept_elems(stage, m, bucket).num_elems() * bytes_of_elem;
    }
  }
  return static_cast<uint64_t>(bytes);
}

uint64_t TreeReducer::all_gather_bytes_sent(int bucket) const {
  int64_t elems = 0;
  for (const Stage& stage : stages_) {
    elems += kept_elems(stage, stage.me, bucket).num_elems() *
             static_cast<int64_t>(stage.members.size() - 1);
  }
  return static_cast<uint64_t>(elems * dtype_size_bytes(space_.dtype));
}

Status TreeReducer::reduce_bucket(int bucket, std::span<void* const> roots, Deadline deadline) {
  LOCKSTEP_CHECK(static_cast<int>(roots.size()) == num_roots(), roots.size(),
                 " roots, but the tree leaves this rank ", num_roots());
  for (const Stage& stage : stages_)
    LOCKSTEP_RETURN_IF_ERROR(run_stage(stage, bucket, roots.first(stage.num_own()), deadline));
  return Status::ok();
}

// A window of chunks at a time of what each member keeps: every rank sends every other its roots'
// values of the other's chunks, and merges its own chunks as far as what has arrived of each allows.
Status TreeReducer::run_stage(const Stage& stage, int bucket, std::span<void* const> roots,
                              Deadline deadline) {
  int64_t longest = 0;
  for (size_t m = 0; m < stage.members.size(); ++m)
    longest = std::max(longest, kept_elems(stage, m, bucket).num_elems());
  const auto window = static_cast<size_t>(num_chunks(stage));
  for (int64_t start = 0; start < longest; start += chunk_elems_ * static_cast<int64_t>(window)) {
    sends_.clear();
    recvs_.clear();
    entry_of_recv_.clear();
    scratch_used_ = 0;
    for (size_t c = 0; c < window; ++c)
      add_chunk(stage, bucket, roots, start + static_cast<int64_t>(c) * chunk_elems_, c);
    LOCKSTEP_RETURN_IF_ERROR(communicator_.exchange(
        sends_, recvs_, [&](size_t recv) { take(stage, recv); },
        reduce_names_[static_cast<size_t>(bucket)], deadline));
    for (size_t c = 0; c < window; ++c) {
      const std::span<std::byte> sum = bytes_of(roots[0], chunks_[c].elems);
      if (!sum.empty() && chunks_[c].entries[0].values != sum.data())
        queue_.copy(sum.data(), chunks_[c].entries[0].values, sum.size());
    }
  }
  return Status::ok();
}

std::span<std::byte> TreeReducer::take_scratch(int64_t num_bytes) {
  const std::span<std::byte> taken =
      scratch_.bytes().subspan(scratch_used_, static_cast<size_t>(num_bytes));
  scratch_used_ += static_cast<uint64_t>(aligned(num_bytes));
  return taken;
}

/// What is sent and received of the elements from `start` on of every member's run, as chunk `c` of
/// a window.
void TreeReducer::add_chunk(const Stage& stage, int bucket, std::span<void* const> roots,
                            int64_t start, size_t c) {
  Chunk& chunk = chunks_[c];
  chunk.elems = slice_of(kept_elems(stage, stage.me, bucket), start, chunk_elems_);
  chunk.next_merge = 0;
  chunk.entries.assign(stage.is_bf16.size(), {});
  const size_t first_own = stage.first_entry[stage.me];
  for (size_t i = 0; i < roots.size(); ++i)
    chunk.entries[first_own + i] = {bytes_of(roots[i], chunk.elems).data(), true, true};
  for (size_t m = 0; m < stage.members.size(); ++m) {
    if (m == stage.me) continue;
    const int peer = stage.members[m];
    const ElemRun out = slice_of(kept_elems(stage, m, bucket), start, chunk_elems_);
    for (size_t i = 0; i < roots.size() && out.num_elems() > 0; ++i) {
      std::span<std::byte> values = bytes_of(roots[i], out);
      if (stage.is_bf16[first_own + i]) {
        const std::span<std::byte> packed = take_scratch(out.num_elems() * kBf16Bytes);
        queue_.pack_bf16(reinterpret_cast<uint16_t*>(packed.data()),
                         reinterpret_cast<const float*>(values.data()), out.num_elems());
        values = packed;
      }
      sends_.push_back({peer, values});
    }
    const int64_t num_elems = chunk.elems.num_elems();
    for (size_t e = stage.first_entry[m]; e < stage.first_entry[m + 1] && num_elems > 0; ++e) {
      std::span<std::byte> values = take_scratch(num_elems * dtype_size_bytes(space_.dtype));
      chunk.entries[e].values = values.data();
      if (stage.is_bf16[e]) values = take_scratch(num_elems * kBf16Bytes);
      recvs_.push_back({peer, values});
      entry_of_recv_.emplace_back(c, e);
    }
  }
}

/// One root's values of a chunk are there: all merges that they were wanted for.
void TreeReducer::take(const Stage& stage, size_t recv) {
  const auto [c, e] = entry_of_recv_[recv];
  Chunk& chunk = chunks_[c];
  const int64_t num_elems = chunk.elems.num_elems();
  if (stage.is_bf16[e]) {
    queue_.unpack_bf16(reinterpret_cast<float*>(chunk.entries[e].values),
                       reinterpret_cast<const uint16_t*>(recvs_[recv].bytes.data()), num_elems);
  }
  chunk.entries[e].has_arrived = true;
  for (; chunk.next_merge < stage.merges.size(); ++chunk.next_merge) {
    Entry& into = chunk.entries[static_cast<size_t>(stage.merges[chunk.next_merge].into)];
    Entry& from = chunk.entries[static_cast<size_t>(stage.merges[chunk.next_merge].from)];
    if (!into.has_arrived || !from.has_arrived) return;
    // An IEEE sum is the same either way round (DESIGN.md 2): it goes where it belongs in the end.
    if (from.is_mine && !into.is_mine) std::swap(into, from);
    queue_.add_into(space_.dtype, into.values, from.values, num_elems);
  }
}

// The stages backwards: what a rank holds then is what it kept, complete. All at once: receives land
// in place and need no scratch.
Status TreeReducer::all_gather_bucket(int bucket, void* values, Deadline deadline) {
  for (auto stage = stages_.rbegin(); stage != stages_.rend(); ++stage) {
    sends_.clear();
    recvs_.clear();
    const ElemRun mine = kept_elems(*stage, stage->me, bucket);
    for (size_t m = 0; m < stage->members.size(); ++m) {
      if (m == stage->me) continue;
      for (int64_t at = 0; at < mine.num_elems(); at += gather_elems_)
        sends_.push_back({stage->members[m], bytes_of(values, slice_of(mine, at, gather_elems_))});
      const ElemRun theirs = kept_elems(*stage, m, bucket);
      for (int64_t at = 0; at < theirs.num_elems(); at += gather_elems_)
        recvs_.push_back({stage->members[m], bytes_of(values, slice_of(theirs, at, gather_elems_))});
    }
    LOCKSTEP_RETURN_IF_ERROR(communicator_.exchange(
        sends_, recvs_, nullptr, gather_names_[static_cast<size_t>(bucket)], deadline));
  }
  return Status::ok();
}

}  // namespace lockstep
