// Logging over spdlog: the only file that includes it.
#include "lockstep/core/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <vector>

#include "lockstep/core/base/text.h"

namespace lockstep {

namespace {

using Sinks = std::vector<spdlog::sink_ptr>;

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
    case LogLevel::kOff:
      return "error";
  }
  return "error";
}

// What stands between the level and the message: "r2 a3 ", without the parts that are not known
// yet.
std::string make_stamp(int world_rank, int attempt) {
  std::string stamp;
  if (world_rank >= 0) stamp += cat("r", world_rank, " ");
  if (attempt >= 0) stamp += cat("a", attempt, " ");
  return stamp;
}

// One logger of its own for each set of sinks, never registered with spdlog's global registry.
std::shared_ptr<spdlog::logger> make_logger(Sinks sinks) {
  auto logger = std::make_shared<spdlog::logger>("lockstep", sinks.begin(), sinks.end());
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %v", spdlog::pattern_time_type::utc);
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  return logger;
}

}  // namespace

struct Log::Impl {
  std::shared_ptr<spdlog::logger> logger;  // null: writes nothing
  LogLevel level = LogLevel::kOff;
  std::string stamp;
};

Log::Log()
    : Log(LogOptions{.level = LogLevel::kWarn, .world_rank = -1, .attempt = -1, .file_path = {}}) {}

Log::Log(const LogOptions& options) {
  Sinks sinks{std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  std::string file_error;
  if (!options.file_path.empty()) {
    try {
      sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file_path));
    } catch (const spdlog::spdlog_ex& e) {
      file_error = e.what();
    }
  }
  auto impl = std::make_shared<Impl>();
  impl->logger = make_logger(std::move(sinks));
  impl->level = options.level;
  impl->stamp = make_stamp(options.world_rank, options.attempt);
  impl_ = std::move(impl);
  if (!file_error.empty())
    warn(cat("the log file can't be opened, lines go to standard error alone: ", file_error));
}

Log Log::silent() {
  Log log;
  log.impl_ = std::make_shared<Impl>();
  return log;
}

Log Log::with(int world_rank, int attempt) const {
  Log copy = *this;
  auto impl = std::make_shared<Impl>(*impl_);
  impl->stamp = make_stamp(world_rank, attempt);
  copy.impl_ = std::move(impl);
  return copy;
}

Log Log::with_level(LogLevel level) const {
  Log copy = *this;
  auto impl = std::make_shared<Impl>(*impl_);
  impl->level = level;
  copy.impl_ = std::move(impl);
  return copy;
}

void Log::write(LogLevel level, std::string_view message) const {
  if (!impl_->logger || level < impl_->level || level == LogLevel::kOff) return;
  // A message of several lines gets the stamp on each, so that grep for a rank finds all of it.
  for (const auto& line : split(message, '\n'))
    impl_->logger->log(spdlog::level::info,
                       spdlog::string_view_t(cat(level_name(level), " ", impl_->stamp, line)));
}

}  // namespace lockstep
