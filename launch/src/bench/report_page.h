#pragma once
// The page that `lockstep bench report` makes of the JSON files of a folder. Must not know: how they
// were measured.

#include <string>
#include <utility>
#include <vector>

#include "lockstep/core/base/status.h"

namespace lockstep {

/// A file's name and its text.
using NamedText = std::pair<std::string, std::string>;

/// One HTML page with a plot for each result that `lockstep bench` wrote, and the rest by name.
/// A result that can't be read is named with the reason, not left out. Pure.
std::string report_page(const std::vector<NamedText>& results);

/// Reads every .json file of `folder`, in the order of their names, and writes index.html there.
/// Returns its path. Errors: kNotFound, kIoError; kInvalidArgument when there is no such file.
Result<std::string> write_report_page(const std::string& folder);

}  // namespace lockstep
