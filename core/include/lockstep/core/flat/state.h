#pragma once
// What "the state of a run" is, apart from where it lives: kinds of values over flat spaces, and
// scalars. The engine describes its state in these types; checkpoints save and restore it; the
// state digest is computed over it. Pure: knows no ranks, no files, no LibTorch.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "lockstep/core/base/status.h"
#include "lockstep/core/flat/layout.h"

namespace lockstep {

/// A named number or text that travels with the state (optimizer step count, loss scale, user
/// values).
using Scalar = std::variant<int64_t, double, std::string>;
/// Canonical text of a scalar: "i:42", "f:" and the hex64 of the double's bits, "s:" and the text.
std::string scalar_text(const Scalar& scalar);
using Scalars = std::map<std::string, Scalar>;

/// One kind of value over one whole space: "param" and each optimizer slot ("adamw.exp_avg") of a
/// trainable space, "param" of a frozen one, "buffer" of a buffer space. A slot has its space's
/// dtype.
struct StateKind {
  std::string space;
  std::string kind;
  bool operator==(const StateKind&) const = default;
};

/// A point in the order of copies.
using CopyMark = std::shared_ptr<void>;

/// Memory that the processor can't reach by itself: a GPU's. Thread-safety: one thread at a time.
class StateMemory {
 public:
  virtual ~StateMemory() = default;
  /// Begin a copy to or from memory of the host, which must stay until it is settled. Copies see
  /// what training has written so far. Pieces that adjoin on both sides cost as much as one.
  virtual void read(std::span<std::byte> to_host, std::span<const std::byte> from) = 0;
  virtual void write(std::span<std::byte> to, std::span<const std::byte> from_host) = 0;
  /// As read(), of xxh3_64() of each `block_bytes` of `from` (the last block may be short), which
  /// the device computes from its own memory. Requires: as check_block_hashes.
  virtual void read_block_hashes(std::span<uint64_t> to_host, std::span<const std::byte> from,
                                 uint64_t block_bytes) = 0;
  /// The copies begun so far.
  virtual CopyMark mark() = 0;
  /// Returns once the copies up to `mark` are done. Errors: kInternal, kTimeout: the device is lost.
  virtual Status settle(const CopyMark& mark) = 0;
  Status settle() { return settle(mark()); }
  /// Memory of the host that is copied to or from again and again.
  virtual void pin(std::span<std::byte> host) = 0;
  virtual void unpin(std::span<std::byte> host) = 0;
};

/// A contiguous piece of memory that holds a run of blocks of one kind. Does not own the memory.
struct StateSlice {
  StateKind kind;
  BlockRun blocks;
  std::span<std::byte> bytes;  ///< exactly the run's elements (FlatSpace::elems_of)
  /// Through which alone `bytes` may be read and written; null: they are ordinary memory.
  std::shared_ptr<StateMemory> memory = nullptr;
};

/// Everything that has to be known to save or restore, the same on every rank.
struct StateSchema {
  FlatLayout layout;
  std::vector<StateKind>
      kinds;  ///< in (space order of the layout, then kind) order; "param"/"buffer" first
};

/// The part that one rank owns. Over all ranks each block of each kind is owned exactly once.
struct OwnedState {
  std::vector<StateSlice> slices;
};

}  // namespace lockstep
