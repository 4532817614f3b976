// Tasks are pieces of tensors, in the order in which they lie in the first checkpoint, so threads
// read it about as it lies on the disk. What the two hold is compared as memory first; only what
// differs is looked at element by element.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "block_hashes.h"
#include "elem_values.h"
#include "lockstep/checkpoint/ckpt_tools.h"
#include "lockstep/checkpoint/safetensors.h"
#include "lockstep/core/base/text.h"
#include "parallel.h"
#include "tensor_reader.h"

namespace lockstep {
namespace {

/// A tensor that both have, of one dtype and shape.
struct Pair {
  const StoredTensor* a = nullptr;
  const StoredTensor* b = nullptr;
  bool is_same_order = true;  ///< then storage order will do
  TensorDiff diff;
};

struct Piece {
  size_t pair = 0;
  ElemRun elems;
};

std::map<std::string, const StoredTensor*> by_name(const std::vector<StoredTensor>& tensors) {
  std::map<std::string, const StoredTensor*> names;
  for (const StoredTensor& tensor : tensors) names[tensor.name] = &tensor;
  return names;
}

std::string type_text(const TensorSpec& spec) {
  return cat(dtype_name(spec.dtype), " ", shape_text(spec.shape));
}

void compare_elems(Dtype dtype, std::span<const std::byte> a, std::span<const std::byte> b,
                   TensorDiff* diff) {
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return;
  const auto elem_bytes = static_cast<size_t>(dtype_size_bytes(dtype));
  for (size_t i = 0; i < a.size(); i += elem_bytes) {
    if (std::memcmp(a.data() + i, b.data() + i, elem_bytes) == 0) continue;
    ++diff->num_different;
    const double distance =
        std::abs(elem_as_double(dtype, a.data() + i) - elem_as_double(dtype, b.data() + i));
    if (std::isnan(distance) || distance > diff->largest) diff->largest = distance;
  }
}

class Comparison {
 public:
  Comparison(const BlockSource& a, const BlockSource& b)
      : a_(a),
        b_(b),
        tensors_a_(stored_tensors(a.manifest().schema)),
        tensors_b_(stored_tensors(b.manifest().schema)) {}

  Result<DiffReport> run(const ToolRun& how) {
    match();
    uint64_t total_bytes = 0;
    for (const Pair& pair : pairs_) total_bytes += bytes_of(pair, {0, pair.diff.num_elems});
    ByteProgress progress(how.on_progress, total_bytes);
    LOCKSTEP_RETURN_IF_ERROR(run_parallel(tasks_.size(), how.num_threads, [&] {
      return Worker(
          [&, reader_a = TensorReader(a_), reader_b = TensorReader(b_)](size_t task) mutable {
            for (const Piece& piece : tasks_[task]) {
              LOCKSTEP_RETURN_IF_ERROR(compare(piece, reader_a, reader_b));
              progress.add(bytes_of(pairs_[piece.pair], piece.elems));
            }
            return Status::ok();
          });
    }));
    for (Pair& pair : pairs_) {
      if (pair.diff.num_different > 0) differences_.push_back(std::move(pair.diff));
    }
    std::sort(differences_.begin(), differences_.end(),
              [](const TensorDiff& x, const TensorDiff& y) { return x.name < y.name; });
    report_.tensors = std::move(differences_);
    compare_scalars(a_.manifest().scalars, b_.manifest().scalars);
    return std::move(report_);
  }

 private:
  static uint64_t bytes_of(const Pair& pair, ElemRun elems) {
    return static_cast<uint64_t>(elems.num_elems() * dtype_size_bytes(pair.a->place->spec.dtype));
  }

  void match() {
    const auto in_b = by_name(tensors_b_);
    for (const StoredTensor& tensor : tensors_a_) {
      const auto it = in_b.find(tensor.name);
      if (it == in_b.end()) {
        differences_.push_back({tensor.name, "a", {}, tensor.place->spec.num_elems(), 0, 0});
      } else {
        match(tensor, *it->second);
      }
    }
    const auto in_a = by_name(tensors_a_);
    for (const StoredTensor& tensor : tensors_b_) {
      if (in_a.count(tensor.name) == 0)
        differences_.push_back({tensor.name, "b", {}, tensor.place->spec.num_elems(), 0, 0});
    }
    if (!task_.empty()) tasks_.push_back(std::move(task_));
  }

  void match(const StoredTensor& a, const StoredTensor& b) {
    const TensorSpec& spec_a = a.place->spec;
    const TensorSpec& spec_b = b.place->spec;
    TensorDiff diff;
    diff.name = a.name;
    diff.num_elems = spec_a.num_elems();
    ++report_.num_compared;
    if (spec_a.dtype != spec_b.dtype || spec_a.shape != spec_b.shape) {
      diff.mismatch = cat(type_text(spec_a), " and ", type_text(spec_b));
      differences_.push_back(std::move(diff));
      return;
    }
    const bool is_same_order = spec_a.order == spec_b.order;
    // A tensor's pieces must be whole in both orders.
    const int64_t unit =
        is_same_order ? 1 : std::max(row_major_unit(spec_a), row_major_unit(spec_b));
    for (int64_t first = 0; first < diff.num_elems;) {
      const ElemRun elems = next_elems(*a.place, first, unit, kReadPieceBytes);
      task_.push_back({pairs_.size(), elems});
      task_bytes_ += static_cast<uint64_t>(elems.num_elems() * dtype_size_bytes(spec_a.dtype));
      if (task_bytes_ >= kReadPieceBytes / 2) {
        tasks_.push_back(std::move(task_));
        task_.clear();
        task_bytes_ = 0;
      }
      first = elems.end;
    }
    pairs_.push_back({&a, &b, is_same_order, std::move(diff)});
  }

  Status compare(const Piece& piece, TensorReader& reader_a, TensorReader& reader_b) {
    Pair& pair = pairs_[piece.pair];
    const auto read = [&](TensorReader& reader, const StoredTensor& tensor) {
      return pair.is_same_order ? reader.read_stored(tensor, piece.elems)
                                : reader.read_row_major(tensor, piece.elems);
    };
    LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes_a, read(reader_a, *pair.a));
    LOCKSTEP_ASSIGN_OR_RETURN(const auto bytes_b, read(reader_b, *pair.b));
    TensorDiff found;
    compare_elems(pair.a->place->spec.dtype, bytes_a, bytes_b, &found);
    if (found.num_different == 0) return Status::ok();
    std::lock_guard lock(mutex_);
    pair.diff.num_different += found.num_different;
    // A difference that is not a number stays one.
    if (!std::isnan(pair.diff.largest) && !(found.largest <= pair.diff.largest))
      pair.diff.largest = found.largest;
    return Status::ok();
  }

  void compare_scalars(const Scalars& a, const Scalars& b) {
    Scalars all = a;
    all.insert(b.begin(), b.end());
    const auto text = [](const Scalars& scalars, const std::string& name) {
      const auto it = scalars.find(name);
      return it == scalars.end() ? std::string("absent") : scalar_text(it->second);
    };
    for (const auto& [name, value] : all) {
      const std::string text_a = text(a, name);
      const std::string text_b = text(b, name);
      if (text_a != text_b) report_.scalars.push_back(cat(name, ": ", text_a, " and ", text_b));
    }
  }

  const BlockSource& a_;
  const BlockSource& b_;
  std::vector<StoredTensor> tensors_a_;
  std::vector<StoredTensor> tensors_b_;
  std::vector<Pair> pairs_;
  std::vector<std::vector<Piece>> tasks_;
  std::vector<Piece> task_;  // being filled
  uint64_t task_bytes_ = 0;
  std::vector<TensorDiff> differences_;
  DiffReport report_;
  std::mutex mutex_;
};

}  // namespace

Result<DiffReport> diff_checkpoints(FileSystem& fs, const std::string& path_a,
                                    const std::string& path_b, const ToolRun& how) {
  LOCKSTEP_ASSIGN_OR_RETURN(const BlockSource a, BlockSource::open(fs, path_a));
  LOCKSTEP_ASSIGN_OR_RETURN(const BlockSource b, BlockSource::open(fs, path_b));
  return Comparison(a, b).run(how);
}

}  // namespace lockstep
