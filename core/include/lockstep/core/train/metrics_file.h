#pragma once
// MetricsFile: metrics.jsonl in the run directory, one JSON object a line: steps, evaluations,
// saves, roll backs. No step stands in it twice and none is lost: it is synced before each save,
// and cut back to the restored step on resume. Each line has "event" and "num_steps" (steps done
// when it was written) and "unix_s" (wall clock); numbers that are not finite are null. A file that
// does not start at step 0 says so in its first line ("begin"). A save's line is written when its
// end is known; "saved_num_steps" says which state it holds, "status" what became of it (durable,
// failed, unknown, or skipped), "reached" how far it came. A disk that has no room for lines does
// not end the run: up to kMaxPendingBytes of them wait in memory; only flush() and close() fail
// then. Thread-safety: one thread, on one rank, but for sync_flushed().

#include <memory>
#include <optional>
#include <string>

#include "lockstep/core/base/file_system.h"
#include "lockstep/core/train/step_loop.h"

namespace lockstep {

class MetricsFile final : public StepObserver {
 public:
  /// A few hundred thousand steps.
  static constexpr size_t kMaxPendingBytes = size_t{64} << 20;

  /// Opens or creates the file and cuts off every line that belongs to a step after `num_steps`,
  /// and what a crash has torn. Lifetime: `fs` must outlive it. Errors: those of the file system;
  /// kCorruption, with the file untouched, for a line that is not one of ours or is damaged before
  /// `num_steps`, or when steps before `num_steps` are missing.
  static Result<std::unique_ptr<MetricsFile>> open(FileSystem& fs, const std::string& path,
                                                   int64_t num_steps);

  /// Steps of the last durable checkpoint that a file tells of; nothing when there is none, or no
  /// such file. Lines that are damaged are passed over. Errors: those of the file system.
  static Result<std::optional<int64_t>> last_durable_steps(FileSystem& fs, const std::string& path);

  Status on_step(const StepRecord& record) override;
  Status on_evaluation(const EvalRecord& record) override;
  Status on_save(const SaveRecord& record) override;
  Status on_interval(const IntervalRecord& record) override;
  Status on_roll_back(int64_t num_steps, std::string_view reason) override;
  /// Hands all lines to the system. Errors: those of the file system. After kResourceExhausted all
  /// lines are kept for the next try; the file then ends with the last line it had room for.
  Status flush();
  /// Makes what was flushed durable: before each checkpoint is committed, so that none is newer
  /// than its metrics. From any thread. Errors: those of the file system.
  Status sync_flushed();
  /// Makes all lines durable and closes the file. Errors: those of the file system.
  Status close();

 private:
  MetricsFile(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}
  Status cut_back_and_open(int64_t num_steps);
  Status write_line(std::string line);
  Status flush_if_there_is_room();

  FileSystem& fs_;
  std::string path_;
  std::unique_ptr<WritableFile> file_;
  std::unique_ptr<WritableFile> syncer_;  ///< of the same file, for sync_flushed() alone
  std::string pending_;  ///< lines that are not in the file yet
  uint64_t file_bytes_ = 0;
  size_t flush_at_bytes_ = 0;
};

}  // namespace lockstep
