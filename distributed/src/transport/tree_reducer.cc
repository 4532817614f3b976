#include "lockstep/distributed/tree_reducer.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "lockstep/core/base/check.h"
#include "lockstep/core/flat/vector_ops.h"

namespace lockstep {
namespace {

template <typename T>
std::span<const std::byte> bytes_of(const T* values, int64_t num_elems) {
  return std::as_bytes(std::span(values, static_cast<size_t>(num_elems)));
}

template <typename T>
std::span<std::byte> writable_bytes_of(T* values, int64_t num_elems) {
  return std::as_writable_bytes(std::span(values, static_cast<size_t>(num_elems)));
}

/// The part of `run` that lies `offset` to `offset + num_elems` elements after its start; empty
/// beyond its end.
ElemRun slice_of(ElemRun run, int64_t offset, int64_t num_elems) {
  int64_t first = std::min(run.first + offset, run.end);
  return {first, std::min(first + num_elems, run.end)};
}

template <typename T>
constexpr Dtype dtype_of() {
  return std::is_same_v<T, float> ? Dtype::kF32 : Dtype::kF64;
}

}  // namespace

TreeReducer::TreeReducer(Communicator& communicator, const FlatSpace& space, ShardPlan plan,
                         int64_t num_leaves, const TreeReducerOptions& options)
    : communicator_(communicator), space_(space), plan_(std::move(plan)) {
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
  finish_ = plan_finish(num_leaves, world_size);
  entries_.resize(finish_.roots.size());
  has_arrived_.resize(finish_.roots.size());
  int64_t elem_bytes = dtype_size_bytes(space.dtype);
  chunk_elems_ = std::max<int64_t>(options.chunk_bytes / elem_bytes, 1);
  chunks_in_flight_ = options.chunks_in_flight;
  if (world_size > 1) {
    int64_t num_chunks = is_power_of_two(world_size) ? chunks_in_flight_
                                                     : static_cast<int64_t>(finish_.roots.size());
    scratch_bytes_ = static_cast<uint64_t>(num_chunks * chunk_elems_ * elem_bytes);
    scratch_ = std::make_unique_for_overwrite<std::byte[]>(scratch_bytes_);
  }
  for (int i = 0; i < plan_.num_buckets(); ++i) {
    reduce_names_.push_back(cat("reduction of ", space.name, " bucket ", i));
    gather_names_.push_back(cat("all-gather of ", space.name, " bucket ", i));
  }
}

int TreeReducer::num_roots() const {
  auto rank = static_cast<size_t>(communicator_.world_rank());
  return finish_.first_root_of_rank[rank + 1] - finish_.first_root_of_rank[rank];
}

ElemRun TreeReducer::pieces_elems(int bucket, int first, int end) const {
  return space_.elems_of(plan_.pieces(bucket, first, end));
}

ElemRun TreeReducer::piece_elems(int bucket) const {
  return space_.elems_of(plan_.piece(bucket, communicator_.world_rank()));
}

uint64_t TreeReducer::reduce_bytes_sent(int bucket) const {
  int64_t elems =
      space_.elems_of(plan_.bucket(bucket)).num_elems() - piece_elems(bucket).num_elems();
  return static_cast<uint64_t>(elems * num_roots() * dtype_size_bytes(space_.dtype));
}

uint64_t TreeReducer::all_gather_bytes_sent(int bucket) const {
  int rank = communicator_.world_rank();
  int world_size = communicator_.world_size();
  int64_t elems = 0;
  if (is_power_of_two(world_size)) {
    // Before the exchange at distance `step` a rank holds the pieces of all ranks that differ from
    // it above `step`.
    int index = plan_.piece_index(rank);
    int held = 1;
    for (int step = world_size / 2; step >= 1; step /= 2, held *= 2) {
      int first = index / held * held;
      elems += pieces_elems(bucket, first, first + held).num_elems();
    }
  } else {
    elems = piece_elems(bucket).num_elems() * (world_size - 1);
  }
  return static_cast<uint64_t>(elems * dtype_size_bytes(space_.dtype));
}

// Recursive halving. Before the exchange with rank ^ step, this rank holds in pieces [low, high)
// the sum of the tree node that covers the ranks which differ from it below `step`; after it, in
// half of those pieces, the parent's sum.
template <typename T>
Status TreeReducer::halve(int bucket, T* values, Deadline deadline) {
  int rank = communicator_.world_rank();
  int low = 0;
  int high = communicator_.world_size();
  for (int step = 1; step < communicator_.world_size(); step <<= 1) {
    int middle = (low + high) / 2;
    ElemRun lower = pieces_elems(bucket, low, middle);
    ElemRun upper = pieces_elems(bucket, middle, high);
    bool keep_lower = (rank & step) == 0;
    LOCKSTEP_RETURN_IF_ERROR(swap_and_add(values, keep_lower ? upper : lower,
                                          keep_lower ? lower : upper, rank ^ step,
                                          reduce_names_[static_cast<size_t>(bucket)], deadline));
    (keep_lower ? high : low) = middle;
  }
  return Status::ok();
}

template <typename T>
Status TreeReducer::swap_and_add(T* values, ElemRun give, ElemRun keep, int peer,
                                 std::string_view what, Deadline deadline) {
  T* scratch = reinterpret_cast<T*>(scratch_.get());
  int64_t num_elems = std::max(give.num_elems(), keep.num_elems());
  int64_t window_elems = chunk_elems_ * chunks_in_flight_;
  for (int64_t start = 0; start < num_elems; start += window_elems) {
    sends_.clear();
    recvs_.clear();
    for (int64_t i = 0; i < chunks_in_flight_; ++i) {
      ElemRun out = slice_of(give, start + i * chunk_elems_, chunk_elems_);
      if (out.num_elems() > 0) {
        sends_.push_back({peer, bytes_of(values + out.first, out.num_elems())});
      }
      ElemRun in = slice_of(keep, start + i * chunk_elems_, chunk_elems_);
      if (in.num_elems() > 0) {
        recvs_.push_back({peer, writable_bytes_of(scratch + i * chunk_elems_, in.num_elems())});
      }
    }
    // Whether ours or the peer's is the left operand makes no difference to an IEEE sum (DESIGN.md
    // 2).
    auto add_chunk = [&](size_t i) {
      ElemRun in = slice_of(keep, start + static_cast<int64_t>(i) * chunk_elems_, chunk_elems_);
      add_into(values + in.first, scratch + static_cast<int64_t>(i) * chunk_elems_, in.num_elems());
    };
    LOCKSTEP_RETURN_IF_ERROR(communicator_.exchange(sends_, recvs_, add_chunk, what, deadline));
  }
  return Status::ok();
}

// Direct exchange, chunk by chunk of the pieces: each rank sends every owner its roots' slices of
// the owner's chunk; the owner merges in the order of the finish plan, as far as what has arrived
// allows.
template <typename T>
Status TreeReducer::finish_directly(int bucket, std::span<T* const> roots, Deadline deadline) {
  int rank = communicator_.world_rank();
  int world_size = communicator_.world_size();
  T* scratch = reinterpret_cast<T*>(scratch_.get());
  ElemRun mine = piece_elems(bucket);
  int64_t longest = 0;
  for (int r = 0; r < world_size; ++r) {
    longest = std::max(longest, space_.elems_of(plan_.piece(bucket, r)).num_elems());
  }
  auto first_root = [&](int r) { return finish_.first_root_of_rank[static_cast<size_t>(r)]; };
  auto entry = [&](size_t e) { return static_cast<T*>(entries_[e]); };
  for (int64_t start = 0; start < longest; start += chunk_elems_) {
    ElemRun in = slice_of(mine, start, chunk_elems_);
    sends_.clear();
    recvs_.clear();
    entry_of_recv_.clear();
    for (int r = 0; r < world_size; ++r) {
      ElemRun out = slice_of(space_.elems_of(plan_.piece(bucket, r)), start, chunk_elems_);
      if (r != rank && out.num_elems() > 0) {
        for (T* root : roots) {
          sends_.push_back({r, bytes_of(root + out.first, out.num_elems())});
        }
      }
      for (int e = first_root(r); e < first_root(r + 1) && in.num_elems() > 0; ++e) {
        auto index = static_cast<size_t>(e);
        has_arrived_[index] = r == rank;
        T* values = r == rank ? roots[static_cast<size_t>(e - first_root(r))] + in.first
                              : scratch + e * chunk_elems_;
        entries_[index] = values;
        if (r == rank) continue;
        recvs_.push_back({r, writable_bytes_of(values, in.num_elems())});
        entry_of_recv_.push_back(index);
      }
    }
    size_t next_merge = 0;
    auto merge_what_is_there = [&](size_t i) {
      has_arrived_[entry_of_recv_[i]] = 1;
      for (; next_merge < finish_.merges.size(); ++next_merge) {
        auto into = static_cast<size_t>(finish_.merges[next_merge].into);
        auto from = static_cast<size_t>(finish_.merges[next_merge].from);
        if (!has_arrived_[into] || !has_arrived_[from]) return;
        add_into(entry(into), entry(from), in.num_elems());
      }
    };
    LOCKSTEP_RETURN_IF_ERROR(communicator_.exchange(
        sends_, recvs_, merge_what_is_there, reduce_names_[static_cast<size_t>(bucket)], deadline));
    if (in.num_elems() > 0 && entry(0) != roots[0] + in.first) {
      std::copy_n(entry(0), in.num_elems(), roots[0] + in.first);
    }
  }
  return Status::ok();
}

template <typename T>
Status TreeReducer::reduce(int bucket, std::span<T* const> roots, Deadline deadline) {
  LOCKSTEP_CHECK(space_.dtype == dtype_of<T>(), "space ", space_.name, " is of type ",
                 dtype_name(space_.dtype), ", the roots are ", dtype_name(dtype_of<T>()));
  LOCKSTEP_CHECK(static_cast<int>(roots.size()) == num_roots(), roots.size(),
                 " roots, but the tree leaves this rank ", num_roots());
  if (is_power_of_two(communicator_.world_size())) return halve(bucket, roots[0], deadline);
  return finish_directly(bucket, roots, deadline);
}

// Recursive doubling for powers of two, the halving backwards: the pieces that a rank holds are
// always one run. Direct otherwise. Chunked like the reduction, but all at once: receives land in
// place and need no scratch.
template <typename T>
Status TreeReducer::gather(int bucket, T* values, Deadline deadline) {
  LOCKSTEP_CHECK(space_.dtype == dtype_of<T>(), "space ", space_.name, " is of type ",
                 dtype_name(space_.dtype), ", the values are ", dtype_name(dtype_of<T>()));
  int rank = communicator_.world_rank();
  int world_size = communicator_.world_size();
  const std::string& what = gather_names_[static_cast<size_t>(bucket)];
  if (!is_power_of_two(world_size)) {
    sends_.clear();
    recvs_.clear();
    ElemRun mine = piece_elems(bucket);
    for (int r = 0; r < world_size; ++r) {
      ElemRun theirs = space_.elems_of(plan_.piece(bucket, r));
      if (r == rank) continue;
      if (mine.num_elems() > 0) {
        sends_.push_back({r, bytes_of(values + mine.first, mine.num_elems())});
      }
      if (theirs.num_elems() > 0) {
        recvs_.push_back({r, writable_bytes_of(values + theirs.first, theirs.num_elems())});
      }
    }
    return communicator_.exchange(sends_, recvs_, nullptr, what, deadline);
  }
  int held = 1;
  for (int step = world_size / 2; step >= 1; step /= 2, held *= 2) {
    int first = plan_.piece_index(rank) / held * held;
    ElemRun out = pieces_elems(bucket, first, first + held);
    int theirs = plan_.piece_index(rank ^ step) / held * held;
    ElemRun in = pieces_elems(bucket, theirs, theirs + held);
    std::array<SendOp, 1> send{{{rank ^ step, bytes_of(values + out.first, out.num_elems())}}};
    std::array<RecvOp, 1> recv{
        {{rank ^ step, writable_bytes_of(values + in.first, in.num_elems())}}};
    LOCKSTEP_RETURN_IF_ERROR(communicator_.exchange(
        std::span(send).first(out.num_elems() > 0 ? 1 : 0),
        std::span(recv).first(in.num_elems() > 0 ? 1 : 0), nullptr, what, deadline));
  }
  return Status::ok();
}

Status TreeReducer::reduce_bucket(int bucket, std::span<float* const> roots, Deadline deadline) {
  return reduce(bucket, roots, deadline);
}
Status TreeReducer::reduce_bucket(int bucket, std::span<double* const> roots, Deadline deadline) {
  return reduce(bucket, roots, deadline);
}
Status TreeReducer::all_gather_bucket(int bucket, float* values, Deadline deadline) {
  return gather(bucket, values, deadline);
}
Status TreeReducer::all_gather_bucket(int bucket, double* values, Deadline deadline) {
  return gather(bucket, values, deadline);
}

}  // namespace lockstep
