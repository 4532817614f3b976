// The restore protocol.
//  1. Rank 0 lists the run's checkpoints and syncs their folder: a name that was seen is durable
//  only then. A checkpoint given by its path is the only candidate; its parent is synced too.
//  2. Rank 0 takes the newest whose manifest is whole and sends its text to all.
//  3. Every rank parses it and checks that model and recipe fit. Vote: a misfit stops here and
//  moves nothing. The parts of all ranks must be the whole state, each block once.
//  4. Each rank reads the blocks that its own part needs; a block is handed out only after its hash
//  was right.
//  5. Every rank tells how it went. All well: done. Anything but bad content (EIO, permission,
//  time): stop, move nothing.
//  6. Content that a rank found bad is read again by rank 0. Bad again: the checkpoint is
//  quarantined and 2 goes on with
//     the next older. Good on rank 0: the disks or views differ: stop, move nothing.
// Checkpoints that exist but are all bad end the run with kCorruption; nothing ever starts from
// scratch silently.
#include "restore.h"

#include <algorithm>
#include <set>

#include "block_hashes.h"
#include "lockstep/checkpoint/model_difference.h"
#include "lockstep/core/base/caught.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/text.h"
#include "read_plan.h"

namespace lockstep {
RestoreProtocol::RestoreProtocol(const RestoreContext& context, const RestoreRequest& request)
    : context_(context), request_(request) {}

Result<std::optional<Restored>> RestoreProtocol::run() {
  const Stopwatch watch;
  if (request_.mode == ResumeMode::kNever) {
    Result<std::string> outcome = std::string();
    if (is_rank_0()) outcome = refuse_or_move_aside();
    LOCKSTEP_RETURN_IF_ERROR(
        share(*context_.plane, "starting without a checkpoint", outcome, data_deadline()).status());
    return std::optional<Restored>();
  }
  while (true) {
    since_look_ = Stopwatch();
    Result<std::optional<Candidate>> mine = std::optional<Candidate>();
    if (is_rank_0()) mine = caught([&] { return next_candidate(); });
    LOCKSTEP_ASSIGN_OR_RETURN(const std::optional<Candidate> candidate, share_candidate(mine));
    if (!candidate) return std::optional<Restored>();
    const auto parsed = caught([&] {
      return parse_manifest(candidate->manifest_text, path_join(candidate->folder, kManifestFile));
    });
    Status fits = parsed.is_ok() ? check_fit(*parsed) : parsed.status();
    LOCKSTEP_RETURN_IF_ERROR(
        context_.plane->vote("checkpoint fits the run", fits, control_deadline()));
    const Manifest& manifest = *parsed;
    candidate_bytes_ = manifest.shard_bytes();
    LOCKSTEP_RETURN_IF_ERROR(check_parts(manifest));
    LOCKSTEP_ASSIGN_OR_RETURN(const bool is_good, read_together(manifest, candidate->folder));
    if (!is_good) continue;
    if (is_rank_0()) warn_of_stray_files(manifest, candidate->folder);
    Restored restored{candidate->folder,
                      manifest.generation,
                      manifest.step,
                      manifest.epoch,
                      manifest.attempt,
                      manifest.world_size,
                      manifest.seed,
                      manifest.scalars,
                      manifest.metrics,
                      manifest.recipe_text,
                      manifest.recipe_hash,
                      manifest.state_digest,
                      {manifest.instruction_set, manifest.versions},
                      quarantined_,
                      own_bytes_read_,
                      watch.elapsed_ms()};
    return std::optional<Restored>(std::move(restored));
  }
}

Result<std::string> RestoreProtocol::refuse_or_move_aside() {
  LOCKSTEP_ASSIGN_OR_RETURN(const RunFolder folder, list_run_folder(fs(), context_.paths));
  if (folder.committed.empty() && folder.impostors.empty() && !folder.has_quarantine)
    return std::string();
  const std::string from = context_.paths.checkpoints();
  if (!context_.options->overwrite) {
    return invalid_argument_error(
        cat(from, " has ",
            folder.committed.size() + folder.quarantined.size() + folder.impostors.size(),
            " checkpoints, and the run was told not to resume. Resume (--resume auto), use "
            "another run directory, or pass --overwrite to move them aside"));
  }
  LOCKSTEP_RETURN_IF_ERROR(context_.attempt->check_not_fenced());
  const std::string to = path_join(context_.paths.run_dir, aside_folder(context_.attempt_number));
  LOCKSTEP_RETURN_IF_ERROR(fs().rename(from, to));
  // Whoever stood still between the look and the rename gives back what a newer attempt counts on.
  if (Status fenced = context_.attempt->check_not_fenced(); !fenced.is_ok()) {
    LOCKSTEP_RETURN_IF_ERROR(fs().rename(to, from));
    return fenced;
  }
  // Nothing may take the old name on the disk before the old folder has its new one.
  LOCKSTEP_RETURN_IF_ERROR(fs().sync_dir(context_.paths.run_dir));
  LOCKSTEP_RETURN_IF_ERROR(fs().make_dir(from));
  LOCKSTEP_RETURN_IF_ERROR(fs().sync_dir(context_.paths.run_dir));
  context_.options->log.warn(
      cat("moved ", folder.committed.size(), " earlier checkpoints to ", to));
  return to;
}

Result<std::optional<RestoreProtocol::Candidate>> RestoreProtocol::next_candidate() {
  if (request_.mode == ResumeMode::kPath) {
    Candidate candidate{request_.path, {}};
    LOCKSTEP_RETURN_IF_ERROR(read_manifest(fs(), request_.path, &candidate.manifest_text).status());
    // A folder above that this user may not list is not one in which this user's runs save.
    const std::string parent = path_parent(request_.path);
    const Status synced = fs().sync_dir(parent);
    if (!synced.is_ok() && fs().list(parent).is_ok()) return synced;
    return std::optional(std::move(candidate));
  }
  LOCKSTEP_ASSIGN_OR_RETURN(const RunFolder folder, list_run_folder(fs(), context_.paths));
  // What a link stands for may be the newest state there is: going on without it would lose it.
  if (!folder.impostors.empty()) {
    return corruption_error(
        cat(path_join(context_.paths.checkpoints(), folder.impostors.back()),
            " has the name of a checkpoint, but is a file or a symbolic link, expected a folder. "
            "Nothing was moved; move it away, or name a checkpoint with --resume"));
  }
  if (folder.committed.empty() && !folder.has_quarantine) {
    if (context_.attempt_number > 1) {
      context_.options->log.warn(
          cat(context_.paths.checkpoints(), " has no checkpoint, and this is attempt ",
              context_.attempt_number,
              " of the run: it starts from the beginning. If there were some, stop it and look for "
              "them (another disk, another name)"));
    }
    return std::optional<Candidate>();
  }
  LOCKSTEP_RETURN_IF_ERROR(fs().sync_dir(context_.paths.checkpoints()));
  LOCKSTEP_ASSIGN_OR_RETURN(auto candidate, newest_whole(folder));
  if (candidate) return candidate;
  return corruption_error(
      cat(context_.paths.checkpoints(), ": there were checkpoints, but none is good (see ",
          context_.paths.quarantine(),
          "). To start again from the beginning pass --resume never --overwrite"));
}

Result<std::optional<RestoreProtocol::Candidate>> RestoreProtocol::newest_whole(
    const RunFolder& folder) {
  for (const GenerationName& name : folder.committed) {
    Candidate candidate{context_.paths.generation(name), {}};
    Status status = read_manifest(fs(), candidate.folder, &candidate.manifest_text).status();
    if (is_bad_content(status)) {  // once more: only what is bad twice is proven bad
      status = read_manifest(fs(), candidate.folder, &candidate.manifest_text).status();
    }
    if (status.is_ok()) return std::optional(std::move(candidate));
    if (!is_bad_content(status)) return status;
    LOCKSTEP_RETURN_IF_ERROR(quarantine(name, status));
  }
  return std::optional<Candidate>();
}

Status RestoreProtocol::quarantine(const GenerationName& name, const Status& why) {
  LOCKSTEP_RETURN_IF_ERROR(context_.attempt->check_not_fenced());
  const std::string path = context_.paths.generation(name);
  LOCKSTEP_ASSIGN_OR_RETURN(const bool is_there, exists(fs(), path));
  if (!is_there) {
    return io_error(cat(path,
                        ": the checkpoint was there at the start and is gone: somebody deletes "
                        "checkpoints while they are read. Nothing was moved; start again once "
                        "nobody does (",
                        why.message(), ")"));
  }
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string to, quarantine_checkpoint(fs(), context_.paths, name,
                                                                        context_.attempt_number));
  context_.options->log.error(cat("the checkpoint of step ", name.step, " is bad and was moved to ",
                                  to, ": ", why.message(), ". Going back to the one before"));
  quarantined_.push_back(to);
  return Status::ok();
}

Result<std::optional<RestoreProtocol::Candidate>> RestoreProtocol::share_candidate(
    const Result<std::optional<Candidate>>& mine) {
  const auto head = [&]() -> Result<std::string> {
    if (!mine.is_ok()) return mine.status();
    Packer packer;
    packer.number(mine->has_value()).text(mine->has_value() ? (*mine)->folder : std::string());
    packer.number(quarantined_.size());
    for (const std::string& path : quarantined_) packer.text(path);
    return packer.take();
  };
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string text, share(*context_.plane, "choice of a checkpoint",
                                                          head(), data_deadline()));
  Unpacker unpacker(text);
  const bool is_there = unpacker.number() != 0;
  Candidate candidate{unpacker.text(), {}};
  quarantined_.clear();
  for (uint64_t left = unpacker.number(); left > 0 && unpacker.good(); --left) {
    quarantined_.push_back(unpacker.text());
  }
  if (!is_there) return std::optional<Candidate>();
  Result<std::string> manifest = std::string();
  if (is_rank_0()) manifest = (*mine)->manifest_text;
  LOCKSTEP_ASSIGN_OR_RETURN(candidate.manifest_text,
                            share_long(*context_.plane, "manifest", manifest, control_deadline()));
  return std::optional(std::move(candidate));
}

Status RestoreProtocol::check_fit(const Manifest& manifest) const {
  const std::string where = generation_folder(manifest.name());
  const auto differences = compare_models(*request_.schema, manifest.schema);
  if (!differences.empty()) {
    return invalid_argument_error(
        cat(where, " is of another model, ", differences.size(),
            " differences:", differences_text(differences),
            "\nUse the recipe it was saved with, or another run directory"));
  }
  if (!request_.differing_keys) return Status::ok();
  LOCKSTEP_ASSIGN_OR_RETURN(std::vector<std::string> keys,
                            request_.differing_keys(manifest.recipe_text, request_.recipe_text));
  const auto& allowed = request_.allowed_recipe_changes;
  std::erase_if(keys, [&](const std::string& key) {
    return std::find(allowed.begin(), allowed.end(), key) != allowed.end();
  });
  if (keys.empty()) return Status::ok();
  return invalid_argument_error(
      cat(where, " was saved with another recipe; these keys differ: ", join(keys, ", "),
          ". To go on all the same pass --allow-recipe-change ", join(keys, ",")));
}

/// Whether the parts of all ranks together are the whole state. Collective.
Status RestoreProtocol::check_parts(const Manifest& manifest) const {
  const auto slices = index_slices(manifest.schema, *request_.into);
  Packer packer;
  packer.status(slices.status());
  if (slices.is_ok()) pack_runs(runs_of(manifest.schema, *slices), &packer);
  LOCKSTEP_ASSIGN_OR_RETURN(
      const auto messages,
      context_.plane->all_gather("parts to restore", packer.take(), control_deadline()));
  // Every rank sees the same messages and so comes to the same verdict.
  std::vector<ShardEntry> parts(messages.size());
  for (size_t rank = 0; rank < messages.size(); ++rank) {
    Unpacker unpacker(messages[rank]);
    LOCKSTEP_RETURN_IF_ERROR(unpacker.status().with_context(cat("rank ", rank)));
    parts[rank].runs = unpack_runs(&unpacker);
  }
  const Status covered = check_coverage(manifest.schema, parts);
  if (covered.is_ok()) return Status::ok();
  return internal_error(
      cat("the ranks do not take each block once (shard i: rank i): ", covered.message()));
}

BlockStream RestoreProtocol::make_stream(bool may_read_cache) const {
  return {fs(),
          {.method = context_.options->io_method,
           .may_read_cache = may_read_cache,
           .timeout_s = data_seconds()}};
}

Status RestoreProtocol::read_own(const Manifest& manifest, const std::string& folder,
                                 int64_t* shard_at_fault) {
  LOCKSTEP_ASSIGN_OR_RETURN(const auto slices, index_slices(manifest.schema, *request_.into));
  LOCKSTEP_ASSIGN_OR_RETURN(const auto reads, plan_reads(manifest.schema, manifest.shards, slices));
  BlockStream stream = make_stream(/*may_read_cache=*/true);
  for (const ShardReads& of_shard : reads) {
    *shard_at_fault = static_cast<int64_t>(of_shard.shard_index);
    LOCKSTEP_ASSIGN_OR_RETURN(
        const ShardReader reader,
        ShardReader::open(fs(), folder, manifest.schema, manifest.shards[of_shard.shard_index],
                          manifest.shard_identity(of_shard.shard_index)));
    LOCKSTEP_RETURN_IF_ERROR(stream.read(reader, of_shard.items));
  }
  own_bytes_read_ += stream.bytes_read();
  if (is_rank_0()) {
    // Shards of ranks that owned nothing are read by nobody else.
    for (size_t i = 0; i < manifest.shards.size(); ++i) {
      if (!manifest.shards[i].runs.empty()) continue;
      *shard_at_fault = static_cast<int64_t>(i);
      LOCKSTEP_RETURN_IF_ERROR(verify_shard(fs(), folder, manifest, i, stream));
    }
  }
  *shard_at_fault = -1;
  return Status::ok();
}

// Every byte that was restored is proven, so what lies beside it costs nobody a checkpoint.
void RestoreProtocol::warn_of_stray_files(const Manifest& manifest,
                                          const std::string& folder) const {
  const auto stray = stray_files(fs(), folder, manifest);
  if (!stray.is_ok() || stray->empty()) return;
  context_.options->log.warn(cat(folder,
                                 " has files that its manifest does not name: ", join(*stray, ", "),
                                 ". They were not read; remove them (`lockstep ckpt verify` calls "
                                 "such a checkpoint bad)"));
}

Result<bool> RestoreProtocol::read_together(const Manifest& manifest, const std::string& folder) {
  int64_t shard_at_fault = -1;
  const Status own = caught([&] { return read_own(manifest, folder, &shard_at_fault); });
  const std::string message =
      Packer().status(own).number(static_cast<uint64_t>(shard_at_fault)).take();
  LOCKSTEP_ASSIGN_OR_RETURN(
      const auto messages,
      context_.plane->all_gather("reading the checkpoint", message, data_deadline()));
  // Every rank sees the same messages and so comes to the same verdict.
  Status worst;
  std::vector<int64_t> accused;
  for (size_t rank = 0; rank < messages.size(); ++rank) {
    Unpacker unpacker(messages[rank]);
    const Status status = unpacker.status().with_context(cat("rank ", rank));
    const auto shard = static_cast<int64_t>(unpacker.number());
    if (status.is_ok()) continue;
    if (is_bad_content(status) && shard >= 0) {
      accused.push_back(shard);
      if (worst.is_ok()) worst = status;
    } else {
      return status;
    }
  }
  if (worst.is_ok()) return true;
  if (request_.mode == ResumeMode::kPath) return corruption_error(worst.message());

  since_look_ = Stopwatch();
  Result<std::string> verdict = std::string();
  if (is_rank_0()) verdict = caught([&] { return judge(manifest, folder, accused); });
  LOCKSTEP_RETURN_IF_ERROR(
      share(*context_.plane, "second look at what was bad", verdict, data_deadline())
          .status()
          .with_context(worst.message()));
  return false;
}

Result<std::string> RestoreProtocol::judge(const Manifest& manifest, const std::string& folder,
                                           const std::vector<int64_t>& accused) {
  // The disk itself is asked: a page of the cache may be what is bad.
  BlockStream stream = make_stream(/*may_read_cache=*/false);
  for (int64_t shard : std::set<int64_t>(accused.begin(), accused.end())) {
    const Status status = verify_shard(fs(), folder, manifest, static_cast<size_t>(shard), stream);
    if (status.is_ok()) continue;
    if (!is_bad_content(status)) return status;
    LOCKSTEP_RETURN_IF_ERROR(quarantine(manifest.name(), status));
    return std::string("quarantined");
  }
  return io_error(
      cat(folder,
          ": a rank read bad content or found a file missing, and rank 0 finds the same "
          "files good. Nothing was moved; check that all hosts see the same disk"));
}

}  // namespace lockstep
