#include "lockstep/core/base/status.h"

namespace lockstep {

std::string_view status_code_name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "ok";
    case StatusCode::kInvalidArgument:
      return "invalid argument";
    case StatusCode::kNotFound:
      return "not found";
    case StatusCode::kAlreadyExists:
      return "already exists";
    case StatusCode::kCorruption:
      return "corruption";
    case StatusCode::kIoError:
      return "i/o error";
    case StatusCode::kTimeout:
      return "timeout";
    case StatusCode::kPeerFailure:
      return "peer failure";
    case StatusCode::kAborted:
      return "aborted";
    case StatusCode::kUnsupported:
      return "unsupported";
    case StatusCode::kResourceExhausted:
      return "resource exhausted";
    case StatusCode::kInternal:
      return "internal error";
  }
  return "unknown";
}

Status::Status(StatusCode code, std::string message) {
  if (code != StatusCode::kOk) rep_ = std::make_shared<const Rep>(Rep{code, std::move(message)});
}

const std::string& Status::message() const {
  static const std::string empty;
  return rep_ ? rep_->message : empty;
}

std::string Status::to_string() const {
  return rep_ ? cat(status_code_name(rep_->code), ": ", rep_->message) : "ok";
}

Status Status::with_context(std::string_view context) const {
  return rep_ ? Status(rep_->code, cat(context, ": ", rep_->message)) : *this;
}

Status invalid_argument_error(std::string m) {
  return {StatusCode::kInvalidArgument, std::move(m)};
}
Status not_found_error(std::string m) {
  return {StatusCode::kNotFound, std::move(m)};
}
Status already_exists_error(std::string m) {
  return {StatusCode::kAlreadyExists, std::move(m)};
}
Status corruption_error(std::string m) {
  return {StatusCode::kCorruption, std::move(m)};
}
Status io_error(std::string m) {
  return {StatusCode::kIoError, std::move(m)};
}
Status timeout_error(std::string m) {
  return {StatusCode::kTimeout, std::move(m)};
}
Status peer_failure_error(std::string m) {
  return {StatusCode::kPeerFailure, std::move(m)};
}
Status aborted_error(std::string m) {
  return {StatusCode::kAborted, std::move(m)};
}
Status unsupported_error(std::string m) {
  return {StatusCode::kUnsupported, std::move(m)};
}
Status resource_exhausted_error(std::string m) {
  return {StatusCode::kResourceExhausted, std::move(m)};
}
Status internal_error(std::string m) {
  return {StatusCode::kInternal, std::move(m)};
}

}  // namespace lockstep
