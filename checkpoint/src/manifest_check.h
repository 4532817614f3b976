#pragma once
// The last look at a manifest before it is written: whether a reader will get back what was meant.

#include <string>

#include "lockstep/checkpoint/manifest.h"

namespace lockstep {

/// OK when parse_manifest(text) gives `manifest` again. `text` is manifest_text(manifest).
/// Errors: kInvalidArgument naming the member: a text that is not UTF-8, a count of 2^53 or more, a
/// kind with '/' or '@' in its name.
Status check_reads_back(const Manifest& manifest, const std::string& text);

}  // namespace lockstep
