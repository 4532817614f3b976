#include "lockstep/core/flat/state.h"

#include <bit>

#include "lockstep/core/base/text.h"

namespace lockstep {

std::string scalar_text(const Scalar& scalar) {
  if (const auto* integer = std::get_if<int64_t>(&scalar)) return cat("i:", *integer);
  if (const auto* number = std::get_if<double>(&scalar))
    return cat("f:", hex64(std::bit_cast<uint64_t>(*number)));
  return cat("s:", std::get<std::string>(scalar));
}

}  // namespace lockstep
