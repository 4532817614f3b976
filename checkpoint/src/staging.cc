#include "staging.h"

#include <algorithm>
#include <chrono>

#include "lockstep/core/base/hash.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

Result<std::vector<IndexedSlice>> index_slices(const StateSchema& schema, const OwnedState& owned) {
  std::vector<IndexedSlice> slices;
  for (const StateSlice& slice : owned.slices) {
    if (slice.blocks.num_blocks() == 0) continue;
    const auto it = std::find(schema.kinds.begin(), schema.kinds.end(), slice.kind);
    const FlatSpace* space = schema.layout.find(slice.kind.space);
    const std::string what = cat("slice [", slice.blocks.first, ", ", slice.blocks.end, ") of ",
                                 slice.kind.kind, "/", slice.kind.space);
    if (it == schema.kinds.end() || space == nullptr)
      return internal_error(cat(what, ": not in the schema"));
    if (slice.blocks.first < 0 || slice.blocks.end < slice.blocks.first ||
        slice.blocks.end > space->num_blocks() ||
        slice.bytes.size() != run_bytes(*space, slice.blocks)) {
      return internal_error(cat(what, ": outside its ", space->num_blocks(), " blocks, or ",
                                slice.bytes.size(), " bytes are not its size"));
    }
    slices.push_back({static_cast<size_t>(it - schema.kinds.begin()), &slice});
  }
  std::sort(slices.begin(), slices.end(), [](const IndexedSlice& a, const IndexedSlice& b) {
    return std::pair(a.kind_index, a.slice->blocks.first) <
           std::pair(b.kind_index, b.slice->blocks.first);
  });
  for (size_t i = 1; i < slices.size(); ++i) {
    if (slices[i].kind_index == slices[i - 1].kind_index &&
        slices[i].slice->blocks.first < slices[i - 1].slice->blocks.end) {
      return internal_error(cat("block ", slices[i].slice->blocks.first, " of ",
                                slices[i].slice->kind.kind, "/", slices[i].slice->kind.space,
                                " is owned twice by one rank"));
    }
  }
  return slices;
}

std::vector<KindRuns> runs_of(const StateSchema& schema, const std::vector<IndexedSlice>& slices) {
  std::vector<KindRuns> all;
  size_t last_kind = schema.kinds.size();
  for (const IndexedSlice& item : slices) {
    if (item.kind_index != last_kind) all.push_back({schema.kinds[item.kind_index], {}});
    last_kind = item.kind_index;
    std::vector<BlockRun>& runs = all.back().runs;
    if (!runs.empty() && runs.back().end == item.slice->blocks.first) {
      runs.back().end = item.slice->blocks.end;
    } else {
      runs.push_back(item.slice->blocks);
    }
  }
  return all;
}

Status Staging::begin(const StateSchema& schema, const OwnedState& owned, uint64_t budget_bytes,
                      uint64_t piece_bytes) {
  drop_ahead();
  slices_.clear();
  next_ = {};
  next_offset_ = 0;
  hash_of_cut_.reset();
  hashes_.clear();
  filled_.clear();
  num_taken_ = 0;
  stopped_ = Status::ok();
  fill_ms_ = 0;
  layout_ = {};
  runs_.clear();

  LOCKSTEP_ASSIGN_OR_RETURN(slices_, index_slices(schema, owned));
  schema_ = &schema;
  runs_ = runs_of(schema, slices_);
  auto layout = plan_shard(schema, runs_);
  if (!layout.is_ok()) return internal_error(layout.status().message());
  layout_ = std::move(*layout);
  hashes_.reserve(layout_.num_blocks);
  if (!slices_.empty()) next_.block = slices_.front().slice->blocks.first;
  device_ = slices_.empty() ? nullptr : slices_.front().slice->memory;
  for (const IndexedSlice& item : slices_)
    LOCKSTEP_CHECK(item.slice->memory == device_, "a state lies in one memory, found two");

  // A state smaller than a piece takes no more memory than it needs.
  piece_bytes = std::min(bulk_align_up(piece_bytes), bulk_align_up(layout_.data_bytes()));
  if (piece_bytes > piece_bytes_ || device_ != pinned_by_) {
    unpin_all();
    buffers_.clear();
    pinned_by_ = device_;
    piece_bytes_ = piece_bytes;
  }
  num_pieces_ = piece_bytes_ == 0
                    ? 0
                    : static_cast<size_t>((layout_.data_bytes() + piece_bytes_ - 1) / piece_bytes_);
  constexpr size_t kLeastBuffers = 2;
  max_buffers_ = std::max(num_pieces_, kLeastBuffers);
  if (budget_bytes > 0 && piece_bytes_ > 0) {
    max_buffers_ = std::clamp<size_t>(budget_bytes / piece_bytes_, kLeastBuffers, max_buffers_);
  }
  max_buffers_ = std::max(max_buffers_, buffers_.size());  // those of an earlier save stay
  free_.clear();
  for (size_t i = buffers_.size(); i-- > 0;) free_.push_back(i);
  return Status::ok();
}

/// Memory that is pinned: a copy to other memory would wait for the device.
Status Staging::make_room_for_hashes() {
  const uint64_t bytes = layout_.num_blocks * sizeof(uint64_t);
  if (bytes <= hashes_of_device_.size_bytes()) return Status::ok();
  unpin_hashes();
  LOCKSTEP_ASSIGN_OR_RETURN(hashes_of_device_, AlignedBuffer::make(bytes));
  device_->pin(hashes_of_device_.bytes());
  return Status::ok();
}

/// Those of a save that failed may still be under way.
void Staging::unpin_hashes() {
  if (hashes_of_device_.size_bytes() == 0) return;
  pinned_by_->settle().ignore();
  pinned_by_->unpin(hashes_of_device_.bytes());
  hashes_of_device_ = {};
}

uint64_t Staging::capacity_bytes() {
  std::lock_guard lock(mutex_);
  return piece_bytes_ * buffers_.size() + hashes_of_device_.size_bytes() + 8 * hashes_.capacity();
}

bool Staging::has_room() {
  return ahead_.has_value() || has_buffer();
}

bool Staging::has_buffer() {
  std::lock_guard lock(mutex_);
  return !stopped_.is_ok() || !free_.empty() || buffers_.size() < max_buffers_;
}

Result<size_t> Staging::free_buffer(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (stopped_.is_ok() && free_.empty() && buffers_.size() < max_buffers_) {
    LOCKSTEP_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::make(piece_bytes_));
    if (pinned_by_ != nullptr) pinned_by_->pin(buffer.bytes());
    buffers_.push_back(std::move(buffer));
    return buffers_.size() - 1;
  }
  const auto left = std::chrono::duration<double>(deadline.remaining_s());
  const bool came =
      changed_.wait_for(lock, left, [&] { return !stopped_.is_ok() || !free_.empty(); });
  LOCKSTEP_RETURN_IF_ERROR(stopped_);
  if (!came) {
    return timeout_error(
        cat("staging: no buffer was written and given back within ", deadline.length_s(), " s"));
  }
  const size_t buffer = free_.back();
  free_.pop_back();
  return buffer;
}

Status Staging::fill_next(Deadline deadline) {
  LOCKSTEP_CHECK(!is_filled(), "everything is staged");
  const Stopwatch watch;
  if (!ahead_) {
    const bool is_first = device_ != nullptr && next_offset_ == 0;
    if (is_first) LOCKSTEP_RETURN_IF_ERROR(make_room_for_hashes());
    LOCKSTEP_ASSIGN_OR_RETURN(const size_t buffer, free_buffer(deadline));
    if (is_first) begin_hashes();
    ahead_ = begin_piece(buffer, next_);
  }
  // The next one crosses to the host while this one is handed on. What fails here leaves this one
  // for drop_ahead() to wait for.
  std::optional<PieceAhead> following;
  if (device_ != nullptr && ahead_->end.slice < slices_.size() && has_buffer()) {
    LOCKSTEP_ASSIGN_OR_RETURN(const size_t buffer, free_buffer(deadline));
    following = begin_piece(buffer, ahead_->end);
  }
  const PieceAhead piece = *std::exchange(ahead_, std::move(following));
  if (device_ != nullptr) LOCKSTEP_RETURN_IF_ERROR(device_->settle(piece.copied));
  const size_t index = piece.buffer;
  const std::span<std::byte> to = buffers_[index].bytes().first(piece_bytes_);
  const uint64_t offset = next_offset_;
  const uint64_t bytes = fill(piece, to);
  const uint64_t padded = bulk_align_up(bytes);
  std::fill(to.begin() + static_cast<ptrdiff_t>(bytes), to.begin() + static_cast<ptrdiff_t>(padded),
            std::byte{0});
  std::lock_guard lock(mutex_);
  next_offset_ = offset + bytes;
  filled_.push_back({index, offset, to.first(padded)});
  fill_ms_ += watch.elapsed_ms();
  changed_.notify_all();
  return Status::ok();
}

Staging::~Staging() {
  unpin_all();
}

void Staging::unpin_all() {
  if (pinned_by_ == nullptr) return;
  drop_ahead();
  for (const AlignedBuffer& buffer : buffers_) pinned_by_->unpin(buffer.bytes());
  unpin_hashes();
}

/// Blocks, then what fits of the checksum table. Returns the bytes that are used.
uint64_t Staging::fill(const PieceAhead& piece, std::span<std::byte> to) {
  const uint64_t blocks = device_ != nullptr ? take_blocks(piece) : copy_blocks(to);
  if (next_.slice < slices_.size()) return blocks;
  const uint64_t done = next_offset_ + blocks - layout_.table_begin;
  const uint64_t part = std::min<uint64_t>(table().size() - done, to.size() - blocks);
  std::copy_n(table().begin() + static_cast<ptrdiff_t>(done), part,
              to.begin() + static_cast<ptrdiff_t>(blocks));
  return blocks + part;
}

std::span<const std::byte> Staging::rest_of_block(const Cursor& at) const {
  const IndexedSlice& item = slices_[at.slice];
  const FlatSpace& space = space_of(*schema_, item.kind_index);
  return std::span<const std::byte>(item.slice->bytes)
      .subspan(run_bytes(space, {item.slice->blocks.first, at.block}),
               run_bytes(space, {at.block, at.block + 1}))
      .subspan(at.done_of_block);
}

void Staging::advance(uint64_t bytes, bool is_block_done, Cursor* at) const {
  at->done_of_block += bytes;
  if (!is_block_done) return;
  at->done_of_block = 0;
  if (++at->block == slices_[at->slice].slice->blocks.end && ++at->slice < slices_.size())
    at->block = slices_[at->slice].slice->blocks.first;
}

/// Those of the whole state, before its copies: a device hashes far faster than it copies to the
/// host if it is given much at once, and no piece's end cuts a block here.
void Staging::begin_hashes() {
  auto* to = reinterpret_cast<uint64_t*>(hashes_of_device_.bytes().data());
  for (const IndexedSlice& item : slices_) {
    const auto count = static_cast<size_t>(item.slice->blocks.num_blocks());
    const uint64_t block_bytes = run_bytes(space_of(*schema_, item.kind_index), {0, 1});
    device_->read_block_hashes({to, count}, item.slice->bytes, block_bytes);
    to += count;
  }
}

/// A device's blocks of a piece are under way to `buffer` from here on.
Staging::PieceAhead Staging::begin_piece(size_t buffer, Cursor at) {
  if (device_ == nullptr) return {buffer, at, 0, nullptr};
  std::span<std::byte> to = buffers_[buffer].bytes().first(piece_bytes_);
  while (at.slice < slices_.size() && !to.empty()) {
    const std::span<const std::byte> from = rest_of_block(at);
    const uint64_t part = std::min<uint64_t>(from.size(), to.size());
    device_->read(to.first(part), from.first(part));
    to = to.subspan(part);
    advance(part, part == from.size(), &at);
  }
  return {buffer, at, piece_bytes_ - to.size(), device_->mark()};
}

/// Of a save that failed: its buffers are to be free of copies.
void Staging::drop_ahead() {
  if (ahead_ && pinned_by_ != nullptr) pinned_by_->settle(ahead_->copied).ignore();
  ahead_.reset();
}

/// What has come from a device; with its first piece, all hashes.
uint64_t Staging::take_blocks(const PieceAhead& piece) {
  if (hashes_.empty()) {
    const auto* first = reinterpret_cast<const uint64_t*>(hashes_of_device_.bytes().data());
    hashes_.assign(first, first + layout_.num_blocks);
  }
  next_ = piece.end;
  return piece.num_bytes;
}

/// Copies and hashes in one pass.
uint64_t Staging::copy_blocks(std::span<std::byte> to) {
  const uint64_t room = to.size();
  while (next_.slice < slices_.size() && !to.empty()) {
    const std::span<const std::byte> from = rest_of_block(next_);
    const uint64_t part = std::min<uint64_t>(from.size(), to.size());
    const bool is_block_done = part == from.size();
    if (next_.done_of_block == 0 && is_block_done) {
      hashes_.push_back(stream_and_xxh3_64(from, to.first(part)));
    } else {  // the block lies in two pieces, or more
      if (!hash_of_cut_) hash_of_cut_.emplace();
      stream_copy(from.first(part), to.first(part));
      hash_of_cut_->update(from.first(part));
      if (is_block_done) {
        hashes_.push_back(hash_of_cut_->digest_64());
        hash_of_cut_.reset();
      }
    }
    to = to.subspan(part);
    advance(part, is_block_done, &next_);
  }
  return room - to.size();
}

std::optional<StagedPiece> Staging::take() {
  std::lock_guard lock(mutex_);
  if (num_taken_ == filled_.size()) return std::nullopt;
  return filled_[num_taken_++];
}

bool Staging::is_all_taken() {
  std::lock_guard lock(mutex_);
  return num_taken_ == num_pieces_;
}

Status Staging::wait_filled(Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto left = std::chrono::duration<double>(deadline.remaining_s());
  const bool came = changed_.wait_for(
      lock, left, [&] { return !stopped_.is_ok() || num_taken_ < filled_.size(); });
  LOCKSTEP_RETURN_IF_ERROR(stopped_);
  if (came) return Status::ok();
  return timeout_error(
      cat("staging: training did not copy its state within ", deadline.length_s(), " s"));
}

void Staging::give_back(const StagedPiece& piece) {
  std::lock_guard lock(mutex_);
  free_.push_back(piece.buffer);
  changed_.notify_all();
}

double Staging::fill_ms() {
  std::lock_guard lock(mutex_);
  return fill_ms_;
}

void Staging::stop(Status why) {
  std::lock_guard lock(mutex_);
  if (stopped_.is_ok()) stopped_ = std::move(why);
  changed_.notify_all();
}

}  // namespace lockstep
