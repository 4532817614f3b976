#include "block_stream.h"

#include <algorithm>

#include "lockstep/core/base/bulk_file.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr uint64_t kWindowBytes = uint64_t{4} << 20;

}  // namespace

void BlockStream::advance(const std::vector<ReadItem>& items, Cursor* cursor) {
  if (++cursor->block < items[cursor->item].blocks.end) return;
  if (++cursor->item < items.size()) cursor->block = items[cursor->item].blocks.first;
}

BlockStream::Window BlockStream::next_window(const ShardReader& shard,
                                             const std::vector<ReadItem>& items,
                                             Cursor* cursor) const {
  Window window;
  window.first_item = cursor->item;
  window.first_block = cursor->block;
  uint64_t end = 0;
  while (cursor->item < items.size()) {
    const BlockPlace place = shard.place_of(items[cursor->item].extent_index, cursor->block);
    if (window.num_blocks == 0) {
      window.begin = place.file_begin / kBulkAlignBytes * kBulkAlignBytes;
    } else if (place.file_begin != end ||
               bulk_align_up(place.file_begin + place.bytes) - window.begin > kWindowBytes) {
      break;
    }
    end = place.file_begin + place.bytes;
    ++window.num_blocks;
    advance(items, cursor);
  }
  window.bytes = bulk_align_up(end) - window.begin;
  return window;
}

Status BlockStream::make_buffers() {
  while (buffers_.size() < static_cast<size_t>(options_.max_in_flight)) {
    LOCKSTEP_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::make(kWindowBytes));
    buffers_.push_back(std::move(buffer));
  }
  return Status::ok();
}

Status BlockStream::read(const ShardReader& shard, const std::vector<ReadItem>& items) {
  std::vector<ReadItem> wanted;
  std::copy_if(items.begin(), items.end(), std::back_inserter(wanted),
               [](const ReadItem& item) { return item.blocks.num_blocks() > 0; });
  if (wanted.empty()) return Status::ok();
  LOCKSTEP_RETURN_IF_ERROR(make_buffers());
  BulkOptions bulk;
  bulk.method = options_.method;
  bulk.max_in_flight = options_.max_in_flight;
  bulk.may_read_cache = options_.may_read_cache;
  std::vector<size_t> free(buffers_.size());
  for (size_t i = 0; i < free.size(); ++i) free[i] = i;
  std::map<uint64_t, Window> under_way;
  uint64_t num_started = 0;
  LOCKSTEP_ASSIGN_OR_RETURN(const auto file, fs_.open_bulk(shard.path(), bulk));
  Cursor cursor{0, wanted.front().blocks.first};
  while (cursor.item < wanted.size() || !under_way.empty()) {
    if (cursor.item < wanted.size() && !free.empty()) {
      Window window = next_window(shard, wanted, &cursor);
      window.buffer = free.back();
      free.pop_back();
      under_way.emplace(num_started, window);
      LOCKSTEP_RETURN_IF_ERROR(file->start_read(
          window.begin, buffers_[window.buffer].bytes().first(window.bytes), num_started++));
      continue;
    }
    LOCKSTEP_ASSIGN_OR_RETURN(const BulkEnd end,
                              file->wait_one(Deadline::after_s(options_.timeout_s)));
    const auto node = under_way.extract(end.ticket);
    LOCKSTEP_CHECK(!node.empty(), "an unknown read ended in ", shard.path());
    bytes_read_ += end.bytes;
    LOCKSTEP_RETURN_IF_ERROR(hand_out(shard, wanted, node.mapped(), end.bytes));
    free.push_back(node.mapped().buffer);
  }
  return Status::ok();
}

Status BlockStream::hand_out(const ShardReader& shard, const std::vector<ReadItem>& items,
                             const Window& window, uint64_t bytes) const {
  StateMemory* written = nullptr;  // all of a state are in the same
  const Status handed = hand_out_blocks(shard, items, window, bytes, &written);
  // Whatever came of it, nothing may still be under way out of the buffer.
  const Status settled = written == nullptr ? Status::ok() : written->settle();
  return handed.is_ok() ? settled : handed;
}

Status BlockStream::hand_out_blocks(const ShardReader& shard, const std::vector<ReadItem>& items,
                                    const Window& window, uint64_t bytes,
                                    StateMemory** written) const {
  const std::span<const std::byte> buffer = buffers_[window.buffer].bytes();
  Cursor cursor{window.first_item, window.first_block};
  for (size_t i = 0; i < window.num_blocks; ++i, advance(items, &cursor)) {
    const ReadItem& item = items[cursor.item];
    const BlockPlace place = shard.place_of(item.extent_index, cursor.block);
    const uint64_t begin = place.file_begin - window.begin;
    if (begin + place.bytes > bytes) {
      return corruption_error(cat(shard.path(), ": the file ends at byte ", window.begin + bytes,
                                  ", expected a block up to byte ",
                                  place.file_begin + place.bytes));
    }
    const auto block = buffer.subspan(begin, place.bytes);
    std::span<std::byte> to;
    if (!item.to.empty()) {
      const uint64_t skip =
          place.file_begin - shard.place_of(item.extent_index, item.blocks.first).file_begin;
      to = item.to.subspan(skip, place.bytes);
    }
    if (item.memory != nullptr && !to.empty()) {
      LOCKSTEP_RETURN_IF_ERROR(
          shard.check_hash(item.extent_index, cursor.block, xxh3_64(block)));
      item.memory->write(to, block);
      *written = item.memory;
      continue;
    }
    // What is hashed is the copy that the tensor keeps.
    const uint64_t found = to.empty() ? xxh3_64(block) : copy_and_xxh3_64(block, to);
    const Status good = shard.check_hash(item.extent_index, cursor.block, found);
    if (!good.is_ok()) std::fill(to.begin(), to.end(), std::byte{0});  // no false byte stays
    LOCKSTEP_RETURN_IF_ERROR(good);
  }
  return Status::ok();
}

Status BlockStream::verify(const ShardReader& shard) {
  std::vector<ReadItem> all;
  for (size_t i = 0; i < shard.layout().extents.size(); ++i) {
    all.push_back({i, shard.layout().extents[i].blocks, {}});
  }
  return read(shard, all);
}

}  // namespace lockstep
