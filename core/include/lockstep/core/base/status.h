#pragma once
// Status and Result: how functions report what the world did to them (disk, peers, time, a bad
// file). A caller's mistake is not a Status but a UsageError (check.h). OK is a null pointer, so
// success costs nothing. Thread-safety: values; distinct objects may be used from distinct threads.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "lockstep/core/base/check.h"

namespace lockstep {

enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument,    ///< a recipe, flag or request that can't be carried out as given
  kNotFound,           ///< a file or name that should be there is not
  kAlreadyExists,      ///< a file or run that should not be there is
  kCorruption,         ///< content proven wrong: a hash, size or structure
  kIoError,            ///< the operating system refused or failed an input or output
  kTimeout,            ///< a deadline passed; the message names what was waited for
  kPeerFailure,        ///< another rank died or reported an error; the message names it
  kAborted,            ///< given up on purpose: fenced by a newer attempt, or told to stop
  kUnsupported,        ///< a format, dtype or feature this version does not know
  kResourceExhausted,  ///< disk or memory is full
  kInternal,           ///< a defect, or an error of a library below
};

/// The code's name as it appears in messages, e.g. "corruption".
std::string_view status_code_name(StatusCode code);

/// Outcome of an operation: OK, or a code with a message that says what, where, expected, found,
/// what to do next.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message);
  static Status ok() { return {}; }

  bool is_ok() const { return rep_ == nullptr; }
  StatusCode code() const { return rep_ ? rep_->code : StatusCode::kOk; }
  /// Empty when OK.
  const std::string& message() const;
  /// "corruption: message", or "ok".
  std::string to_string() const;
  /// The same code with `context` put in front of the message. OK stays OK.
  Status with_context(std::string_view context) const;

  /// Drops the status on purpose, where nothing can be done with it (say why beside the call).
  void ignore() const {}

 private:
  struct Rep {
    StatusCode code;
    std::string message;
  };
  std::shared_ptr<const Rep> rep_;
};

Status invalid_argument_error(std::string message);
Status not_found_error(std::string message);
Status already_exists_error(std::string message);
Status corruption_error(std::string message);
Status io_error(std::string message);
Status timeout_error(std::string message);
Status peer_failure_error(std::string message);
Status aborted_error(std::string message);
Status unsupported_error(std::string message);
Status resource_exhausted_error(std::string message);
Status internal_error(std::string message);

/// A value, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    LOCKSTEP_CHECK(!status_.is_ok(), "a Result without a value needs an error");
  }

  bool is_ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  /// Requires: is_ok(), else throws UsageError with the status.
  T& value() & {
    require();
    return *value_;
  }
  const T& value() const& {
    require();
    return *value_;
  }
  T&& value() && {
    require();
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  void require() const { LOCKSTEP_CHECK(value_.has_value(), "no value: ", status_.to_string()); }
  std::optional<T> value_;
  Status status_;
};

}  // namespace lockstep

/// Leaves the calling function with the Status of `expr` unless it is OK.
#define LOCKSTEP_RETURN_IF_ERROR(expr)                                           \
  do {                                                                           \
    if (::lockstep::Status lockstep_status_ = (expr); !lockstep_status_.is_ok()) \
      return lockstep_status_;                                                   \
  } while (false)

#define LOCKSTEP_CONCAT_INNER_(a, b) a##b
#define LOCKSTEP_CONCAT_(a, b) LOCKSTEP_CONCAT_INNER_(a, b)
/// `LOCKSTEP_ASSIGN_OR_RETURN(auto x, expr)`: x is the value of the Result, or the caller leaves
/// with its Status.
#define LOCKSTEP_ASSIGN_OR_RETURN(lhs, expr) \
  LOCKSTEP_ASSIGN_OR_RETURN_IMPL_(LOCKSTEP_CONCAT_(lockstep_result_, __LINE__), lhs, expr)
#define LOCKSTEP_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                    \
  if (!tmp.is_ok()) return tmp.status();                \
  lhs = std::move(tmp).value()
