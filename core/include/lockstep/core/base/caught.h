#pragma once
// Exceptions as statuses, for places where one rank must not leave without the others: what it
// throws becomes something to vote on.

#include <exception>
#include <new>
#include <string>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/status.h"

namespace lockstep {

/// Calls `body`, which returns a Status or a Result. Errors: its own; kResourceExhausted for
/// std::bad_alloc, kInvalidArgument for UsageError, kInternal for any other exception.
template <typename Body>
auto caught(Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return resource_exhausted_error("not enough memory");
  } catch (const UsageError& error) {
    return invalid_argument_error(error.what());
  } catch (const std::exception& error) {
    // LibTorch's messages go on with a stack trace.
    std::string text = error.what();
    text = text.substr(0, text.find("\nException raised from"));
    return internal_error(text.substr(0, text.find("\nframe #")));
  } catch (...) {
    return internal_error("an exception that is no std::exception");
  }
}

}  // namespace lockstep
