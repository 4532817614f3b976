// The save protocol. The numbers are those that tests stop at (CheckpointerOptions::on_save_step).
//  1. Rank 0 makes the partial folder (generation, step and attempt in its name) and writes a
//  random token into it;
//     every rank reads that token back: ranks that see different disks end here.
//  2. Preflight: same step and schema on all ranks; the bytes of all against the free space. Vote.
//  3. Each rank copies its blocks in pieces, hashing in the same pass, and writes each piece of its
//  shard while it copies the next; sets the shard's exact size, syncs it, closes it, checks its
//  size, syncs the partial folder. A failed sync is never retried. (Behind training the copy begins
//  before 1 on the training thread, which waits only where the buffers do not hold all of it.)
//  4. Vote. Any error: rank 0 removes the partial folder and every rank returns that error. Then
//  every rank sends sizes and hashes of its shard.
//  5. Rank 0 reads every shard's header and checksum table back, checks that each block of each
//  kind is there once,
//     computes the state digest, makes sure that the manifest reads back as it was meant, writes
//     and syncs the manifest, removes the token, syncs the partial folder.
//  6. Fencing: rank 0 makes sure that no newer attempt exists (once more: it did so before it ran
//  before_commit at the end of 5).
//  7. Rename to the final name, sync the checkpoints folder. (The folders above it were synced when
//  the attempt began.)
//  8. The verdict goes to all ranks. Only now is it durable for them. A rank that loses rank 0
//  after it sent its part in 4
//     and before the verdict does not know: kUnknown.
//  9. Retention, on older checkpoints than this one.
#include "save_protocol.h"

#include <algorithm>
#include <utility>

#include "block_hashes.h"
#include "block_stream.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "lockstep/core/flat/digest.h"
#include "manifest_check.h"
#include "run_folder.h"

namespace lockstep {
namespace {

constexpr uint64_t kSpareBytes = uint64_t{16} << 20;  // manifest, headers, file system overhead
constexpr uint64_t kMaxTokenBytes = 64;
constexpr std::string_view kMayBeDurable =
    " may or may not have become durable; the next start finds out";

uint64_t as_us(double ms) {
  return static_cast<uint64_t>(ms * 1e3);
}

/// The manifest lists kinds space by space: in another order shards would not be what it says.
Status check_kind_order(const StateSchema& schema) {
  std::vector<StateKind> in_order;
  for (const FlatSpace& space : schema.layout.spaces()) {
    for (const StateKind& kind : schema.kinds) {
      if (kind.space == space.name) in_order.push_back(kind);
    }
  }
  if (in_order == schema.kinds) return Status::ok();
  return internal_error("the state's kinds are not listed space by space in the layout's order");
}

uint64_t state_bytes(const StateSchema& schema) {
  uint64_t bytes = 0;
  for (const StateKind& kind : schema.kinds)
    bytes += static_cast<uint64_t>(schema.layout.find(kind.space)->num_bytes());
  return bytes;
}

std::string schema_text(const StateSchema& schema) {
  std::string text = schema.layout.canonical_text();
  for (const StateKind& kind : schema.kinds) text += cat("kind ", kind.kind, " ", kind.space, "\n");
  return text;
}

}  // namespace

SaveProtocol::SaveProtocol(const SaveContext& context, SaveRequest request)
    : context_(context), request_(std::move(request)) {
  for (const StateSlice& slice : request_.owned->slices) own_state_bytes_ += slice.bytes.size();
}

double SaveProtocol::data_seconds() const {
  const CheckpointerOptions& options = *context_.options;
  const double passes = options.reads_back ? 2 : 1;
  double seconds = options.data_timeout_s +
                   passes * static_cast<double>(total_state_bytes_) / options.least_bytes_per_s;
  if (options.max_write_bytes_per_s > 0) {
    seconds += static_cast<double>(largest_state_bytes_) /
               static_cast<double>(options.max_write_bytes_per_s);
  }
  return seconds;
}

Deadline SaveProtocol::fill_deadline() const {
  // On the thread that trains: knows this rank's bytes alone. prepare() waits for peers four times.
  const CheckpointerOptions& options = *context_.options;
  const double of_all = static_cast<double>(own_state_bytes_) * context_.plane->world_size();
  double seconds = 4 * options.control_timeout_s + options.data_timeout_s +
                   2 * of_all / options.least_bytes_per_s;
  if (options.max_write_bytes_per_s > 0) {
    seconds +=
        static_cast<double>(own_state_bytes_) / static_cast<double>(options.max_write_bytes_per_s);
  }
  return Deadline::after_s(seconds);
}

std::string SaveProtocol::what(std::string_view part) const {
  return cat("saving step ", request_.step, ": ", part);
}

void SaveProtocol::enter(int step) const {
  if (context_.options->on_save_step)
    context_.options->on_save_step(step, context_.plane->world_rank());
}

ShardName SaveProtocol::own_shard() const {
  return {context_.plane->world_rank(), context_.plane->world_size()};
}

Result<std::string> SaveProtocol::make_partial() {
  LOCKSTEP_RETURN_IF_ERROR(context_.attempt->check_not_fenced());
  LOCKSTEP_ASSIGN_OR_RETURN(const RunFolder folder, list_run_folder(fs(), context_.paths));
  name_ = {std::max(folder.highest_generation + 1, context_.lowest_generation), request_.step};
  report_.generation = name_.generation;  // also of a save that fails: its number is used up
  partial_ =
      path_join(context_.paths.checkpoints(), partial_folder({name_, context_.attempt_number}));
  LOCKSTEP_RETURN_IF_ERROR(fs().make_dir(partial_));
  const std::string token =
      hex64(mix(static_cast<uint64_t>(wall_clock_ns()), static_cast<uint64_t>(monotonic_ns()),
                static_cast<uint64_t>(context_.options->process.pid)));
  LOCKSTEP_ASSIGN_OR_RETURN(
      auto file, fs().open_write(path_join(partial_, kTokenFile), OpenMode::kCreateExclusive));
  LOCKSTEP_RETURN_IF_ERROR(file->write(std::as_bytes(std::span(token))));
  LOCKSTEP_RETURN_IF_ERROR(file->close());
  return Packer().number(static_cast<uint64_t>(name_.generation)).text(partial_).text(token).take();
}

Status SaveProtocol::read_token(const std::string& token) const {
  const std::string path = path_join(partial_, kTokenFile);
  auto found = read_whole_file(fs(), path, kMaxTokenBytes);
  if (found.is_ok() && *found == token) return Status::ok();
  if (!found.is_ok() && found.status().code() != StatusCode::kNotFound) return found.status();
  return io_error(cat(path, ": this rank does not see what rank 0 wrote there (",
                      found.is_ok() ? "another token" : found.status().message(),
                      "). The run directory must be on a disk that all hosts share"));
}

Status SaveProtocol::prepare() {
  const Stopwatch watch;
  since_begin_ = Stopwatch();
  enter(1);
  Result<std::string> made = std::string();
  if (is_rank_0()) made = make_partial();
  auto shared = share(*context_.plane, what("partial folder"), made, control_deadline());
  if (!shared.is_ok()) {
    abandon();
    return shared.status();
  }
  Unpacker unpacker(*shared);
  name_ = {static_cast<int64_t>(unpacker.number()), request_.step};
  report_.generation = name_.generation;
  partial_ = unpacker.text();
  const std::string token = unpacker.text();
  Status status =
      context_.plane->vote(what("partial folder seen"), read_token(token), control_deadline());
  if (status.is_ok()) {
    enter(2);
    status = check_space();
  }
  if (!status.is_ok()) abandon();
  report_.path = final_folder();
  report_.prepare_ms = watch.elapsed_ms();
  return status;
}

Status SaveProtocol::check_space() {
  const auto free = fs().free_bytes(context_.paths.checkpoints());
  const Status order = check_kind_order(*request_.schema);
  const std::string message = Packer()
                                  .status(order.is_ok() ? free.status() : order)
                                  .number(static_cast<uint64_t>(request_.step))
                                  .hash(xxh3_128(schema_text(*request_.schema)))
                                  .number(own_state_bytes_)
                                  .number(free.is_ok() ? *free : 0)
                                  .take();
  LOCKSTEP_ASSIGN_OR_RETURN(
      const auto messages,
      context_.plane->all_gather(what("free space"), message, control_deadline()));
  // Every rank sees the same messages and so comes to the same verdict.
  uint64_t needed = kSpareBytes;
  uint64_t least_free = UINT64_MAX;
  uint64_t step_of_rank_0 = 0;
  Hash128 schema_of_rank_0;
  for (size_t rank = 0; rank < messages.size(); ++rank) {
    Unpacker unpacker(messages[rank]);
    Status status = unpacker.status();
    const uint64_t step = unpacker.number();
    const Hash128 schema = unpacker.hash();
    const uint64_t of_rank = unpacker.number();
    needed += of_rank;
    total_state_bytes_ += of_rank;
    largest_state_bytes_ = std::max(largest_state_bytes_, of_rank);
    least_free = std::min(least_free, unpacker.number());
    if (!status.is_ok()) return status.with_context(cat("rank ", rank));
    if (rank == 0) {
      step_of_rank_0 = step;
      schema_of_rank_0 = schema;
    }
    if (step != step_of_rank_0 || schema != schema_of_rank_0) {
      return internal_error(cat("rank ", rank, " saves step ", step, " and rank 0 step ",
                                step_of_rank_0,
                                schema == schema_of_rank_0 ? "" : ", or their models differ"));
    }
  }
  if (needed > least_free) {
    return resource_exhausted_error(cat(context_.paths.checkpoints(), ": saving step ",
                                        request_.step, " needs ", human_bytes(needed),
                                        ", free are ", human_bytes(least_free),
                                        ". Free some space or keep fewer checkpoints"));
  }
  return Status::ok();
}

void SaveProtocol::begin_stage() {
  const CheckpointerOptions& options = *context_.options;
  own_status_ = caught([&] {
    return context_.staging->begin(*request_.schema, *request_.owned, context_.staging_budget_bytes,
                                   options.staging_piece_bytes);
  });
}

void SaveProtocol::stage_what_fits() {
  if (!own_status_.is_ok()) return;
  fill_while([this] { return context_.staging->has_room(); });
}

void SaveProtocol::stage_rest() {
  fill_while([] { return true; });
}

void SaveProtocol::fill_while(const std::function<bool()>& goes_on) {
  Staging& staging = *context_.staging;
  const Status status = caught([&] {
    while (!staging.is_filled() && goes_on()) {
      LOCKSTEP_RETURN_IF_ERROR(staging.fill_next(fill_deadline()));
    }
    return Status::ok();
  });
  if (!status.is_ok()) staging.stop(status);  // write() finds it and tells
}

void SaveProtocol::write(bool stages_itself) {
  enter(3);
  if (!own_status_.is_ok()) return;
  const Stopwatch watch;
  const CheckpointerOptions& options = *context_.options;
  ShardWriteOptions how;
  how.method = options.io_method;
  how.fills_itself = stages_itself;
  how.max_bytes_per_s = stages_itself ? 0 : options.max_write_bytes_per_s;
  how.timeout_s = data_seconds();
  auto shard = caught([&] {
    return write_shard(fs(), partial_, *request_.schema, {name_, own_shard()}, *context_.staging,
                       how);
  });
  own_status_ = shard.status();
  if (shard.is_ok()) {
    written_ = *shard;
    if (options.reads_back) own_status_ = caught([&] { return read_back(); });
  } else {
    stop_staging(own_status_);
  }
  if (context_.staging->is_all_taken()) report_.reached = SaveProgress::kStaged;
  report_.own_bytes = written_.bytes;
  report_.io_method = written_.method;
  report_.sync_ms = written_.sync_ms;
  report_.write_ms = watch.elapsed_ms();
  report_.stage_ms = context_.staging->fill_ms();
  report_.staging_bytes = context_.staging->capacity_bytes();
}

/// What the disk itself has is what was staged.
Status SaveProtocol::read_back() const {
  const ShardEntry entry{shard_file(own_shard()), written_.bytes, context_.staging->runs(),
                         written_.header_hash, written_.table_hash};
  LOCKSTEP_ASSIGN_OR_RETURN(
      const ShardReader reader,
      ShardReader::open(fs(), partial_, *request_.schema, entry, {name_, own_shard()}));
  BlockStream stream(fs(), {.method = context_.options->io_method,
                            .may_read_cache = false,
                            .timeout_s = data_seconds()});
  return stream.verify(reader).with_context("reading back what was written");
}

void SaveProtocol::stop_staging(const Status& why) {
  context_.staging->stop(why);
}

Status SaveProtocol::vote() {
  const Stopwatch watch;
  enter(4);
  Status status = context_.plane->vote(what("shards written"), own_status_, data_deadline());
  if (status.is_ok()) {
    report_.reached = SaveProgress::kWritten;
    status = gather_shards();
    // This rank's part is on its way: rank 0 may have all it needs and commit without this rank.
    if (!status.is_ok() && !is_rank_0()) {
      outcome_ = SaveOutcome::kUnknown;
      status = status.with_context(cat(final_folder(), kMayBeDurable));
    }
  }
  report_.vote_ms = watch.elapsed_ms();
  if (!status.is_ok()) abandon();
  return status;
}

Status SaveProtocol::gather_shards() {
  Packer packer;
  packer.number(written_.bytes).hash(written_.header_hash).hash(written_.table_hash);
  packer.number(as_us(report_.stage_ms)).number(as_us(report_.write_ms));
  packer.number(as_us(report_.sync_ms));
  pack_runs(context_.staging->runs(), &packer);
  LOCKSTEP_ASSIGN_OR_RETURN(
      const auto messages,
      context_.plane->all_gather(what("shards"), packer.take(), control_deadline()));
  for (const std::string& message : messages) {
    Unpacker unpacker(message);
    Peer peer;
    peer.written.bytes = unpacker.number();
    peer.written.header_hash = unpacker.hash();
    peer.written.table_hash = unpacker.hash();
    RankSaveReport told{peer.written.bytes};
    for (double* ms : {&told.stage_ms, &told.write_ms, &told.sync_ms})
      *ms = static_cast<double>(unpacker.number()) * 1e-3;
    peer.runs = unpack_runs(&unpacker);
    if (!unpacker.is_whole()) return internal_error("a shard message that can't be read");
    report_.total_bytes += peer.written.bytes;
    report_.ranks.push_back(told);
    peers_.push_back(std::move(peer));
  }
  report_.unique_bytes = state_bytes(*request_.schema);
  return Status::ok();
}

Result<Manifest> SaveProtocol::make_manifest() const {
  Manifest manifest;
  manifest.generation = name_.generation;
  manifest.parent_generation = context_.parent_generation;
  manifest.step = request_.step;
  manifest.epoch = request_.epoch;
  manifest.attempt = context_.attempt_number;
  manifest.world_size = context_.plane->world_size();
  manifest.seed = request_.seed;
  manifest.recipe_hash = request_.recipe_hash;
  manifest.recipe_text = request_.recipe_text;
  manifest.instruction_set = context_.options->build.instruction_set;
  manifest.versions = context_.options->build.versions;
  manifest.utc_time = utc_text(wall_clock_ns());
  manifest.metrics = request_.metrics;
  manifest.scalars = request_.scalars;
  manifest.schema = *request_.schema;
  for (size_t i = 0; i < peers_.size(); ++i) {
    const ShardName shard{static_cast<int64_t>(i), static_cast<int64_t>(peers_.size())};
    manifest.shards.push_back({shard_file(shard), peers_[i].written.bytes, peers_[i].runs,
                               peers_[i].written.header_hash, peers_[i].written.table_hash});
  }
  if (Status status = check_coverage(manifest.schema, manifest.shards); !status.is_ok()) {
    return internal_error(cat("the ranks do not own each block once: ", status.message()));
  }
  LOCKSTEP_ASSIGN_OR_RETURN(const auto hashes, read_block_hashes(fs(), partial_, manifest));
  manifest.state_digest = state_digest(manifest.schema, hashes, manifest.scalars);
  return manifest;
}

Result<Hash128> SaveProtocol::publish() {
  enter(5);
  LOCKSTEP_ASSIGN_OR_RETURN(const Manifest manifest, caught([&] { return make_manifest(); }));
  const std::string text = manifest_text(manifest);
  LOCKSTEP_RETURN_IF_ERROR(caught([&] { return check_reads_back(manifest, text); }));
  LOCKSTEP_RETURN_IF_ERROR(write_and_sync_file(fs(), path_join(partial_, kManifestFile), text,
                                               OpenMode::kCreateExclusive));
  LOCKSTEP_RETURN_IF_ERROR(fs().remove(path_join(partial_, kTokenFile)));
  LOCKSTEP_RETURN_IF_ERROR(fs().sync_dir(partial_));
  // A fenced writer must not touch the files of the one that took over.
  LOCKSTEP_RETURN_IF_ERROR(context_.attempt->check_not_fenced());
  if (request_.before_commit) LOCKSTEP_RETURN_IF_ERROR(request_.before_commit());
  enter(6);
  LOCKSTEP_RETURN_IF_ERROR(context_.attempt->check_not_fenced());
  enter(7);
  // From here on the final name may be there: nobody may call the save failed or durable.
  outcome_ = SaveOutcome::kUnknown;
  if (Status status = fs().rename(partial_, final_folder()); !status.is_ok()) {
    if (is_still_partial() || was_taken_away()) outcome_ = SaveOutcome::kFailed;
    return status;
  }
  LOCKSTEP_RETURN_IF_ERROR(fs().sync_dir(context_.paths.checkpoints()));
  outcome_ = SaveOutcome::kDurable;
  return manifest.state_digest;
}

/// Whether a rename that reported an error did not happen: over a network it may have.
bool SaveProtocol::is_still_partial() const {
  const auto is_partial = exists(fs(), partial_);
  const auto is_final = exists(fs(), final_folder());
  return is_partial.is_ok() && *is_partial && is_final.is_ok() && !*is_final;
}

/// Whether a newer attempt took the partial folder before the rename.
bool SaveProtocol::was_taken_away() const {
  const auto is_final = exists(fs(), final_folder());
  return is_final.is_ok() && !*is_final &&
         context_.attempt->check_not_fenced().code() == StatusCode::kAborted;
}

Status SaveProtocol::commit() {
  const Stopwatch watch;
  std::string message;
  if (is_rank_0()) {
    const auto published = publish();
    if (outcome_ == SaveOutcome::kFailed) abandon();
    message = Packer()
                  .number(static_cast<uint64_t>(outcome_))
                  .status(published.status())
                  .hash(published.is_ok() ? *published : Hash128())
                  .take();
  }
  enter(8);
  const auto received =
      context_.plane->broadcast(what("verdict"), std::move(message), data_deadline());
  report_.commit_ms = watch.elapsed_ms();
  if (!received.is_ok()) {
    // Rank 0 knows what it did, whoever was lost. The others can't know what it did last.
    if (!is_rank_0()) outcome_ = SaveOutcome::kUnknown;
    return received.status().with_context(
        cat(final_folder(), outcome_ == SaveOutcome::kDurable
                                ? " is durable, but not every rank could be told"
                                : kMayBeDurable));
  }
  Unpacker unpacker(*received);
  outcome_ = static_cast<SaveOutcome>(unpacker.number());
  if (outcome_ == SaveOutcome::kDurable) report_.reached = SaveProgress::kDurable;
  const Status status = unpacker.status();
  report_.state_digest = unpacker.hash();
  return status.with_context(
      cat("rank 0: saving step ", request_.step,
          outcome_ == SaveOutcome::kUnknown ? " (whether it is durable is unknown)" : ""));
}

void SaveProtocol::retain() {
  if (!is_rank_0()) return;
  enter(9);
  const auto fence = [this] { return context_.attempt->check_not_fenced(); };
  Status status =
      apply_retention(fs(), context_.paths, context_.options->retention, name_.generation,
                      context_.attempt_number, fence, context_.options->log);
  if (!status.is_ok())
    context_.options->log.warn(cat("old checkpoints were not deleted: ", status.message()));
}

void SaveProtocol::abandon() {
  if (!is_rank_0() || partial_.empty()) return;
  // Best effort: what is left has a name that is never read, and the next attempt removes it.
  Status status = remove_tree(fs(), partial_);
  if (!status.is_ok())
    context_.options->log.warn(cat("left behind, it only takes space: ", status.message()));
}

}  // namespace lockstep
