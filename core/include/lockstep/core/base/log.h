#pragma once
// Logging: a value that is handed to whoever logs; no global logger. spdlog stays behind this
// header. Each line carries level, world rank and attempt. Thread-safety: one Log and its copies
// may be used from any thread.

#include <memory>
#include <string>
#include <string_view>

namespace lockstep {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  int world_rank = -1;    ///< -1: not known yet, left out of the line
  int attempt = -1;       ///< -1: not known yet, left out of the line
  std::string file_path;  ///< empty: standard error alone; else also appended to this file
};

/// A handle to one stream of log lines, in UTC: "2026-11-22 13:05:09.123 warn r2 a3 message".
class Log {
 public:
  /// Warnings and errors to standard error, no rank.
  Log();
  /// A file that can't be opened is told on standard error, and the log goes on without it.
  explicit Log(const LogOptions& options);
  /// Writes nothing.
  static Log silent();

  /// A copy that shares the sinks and stamps this rank and attempt.
  Log with(int world_rank, int attempt) const;
  /// A copy that shares the sinks and lets only `level` and above through.
  Log with_level(LogLevel level) const;

  void debug(std::string_view message) const { write(LogLevel::kDebug, message); }
  void info(std::string_view message) const { write(LogLevel::kInfo, message); }
  void warn(std::string_view message) const { write(LogLevel::kWarn, message); }
  void error(std::string_view message) const { write(LogLevel::kError, message); }
  void write(LogLevel level, std::string_view message) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace lockstep
