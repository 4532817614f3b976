#pragma once
// Exceptions as statuses, for places where one rank must not leave without the others: what it
// throws becomes something to vote on.

#include <exception>
#include <new>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// What an exception says, without the stack trace that LibTorch adds. Errors: kResourceExhausted
/// when it tells of memory in LibTorch's words, else kInternal.
Status status_of(const std::exception& error);

/// Calls `body`, which returns a Status or a Result. Errors: its own; kResourceExhausted for memory
/// that is not there, kInvalidArgument for UsageError, kInternal for any other exception.
template <typename Body>
auto caught(Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return resource_exhausted_error("not enough memory");
  } catch (const UsageError& error) {
    return invalid_argument_error(error.what());
  } catch (const std::exception& error) {
    return status_of(error);
  } catch (...) {
    return internal_error("an exception that is no std::exception");
  }
}

}  // namespace lockstep
