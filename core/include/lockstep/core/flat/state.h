#pragma once
// What "the state of a run" is, apart from where it lives: kinds of values over flat spaces, and
// scalars. The engine describes its state in these types; checkpoints save and restore it; the
// state digest is computed over it. Pure: knows no ranks, no files, no LibTorch.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

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

/// A contiguous piece of memory that holds a run of blocks of one kind. Does not own the memory.
struct StateSlice {
  StateKind kind;
  BlockRun blocks;
  std::span<std::byte> bytes;  ///< exactly the run's elements (FlatSpace::elems_of)
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
