#include "lockstep/checkpoint/safetensors.h"

#include <algorithm>

#include "json_reader.h"
#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

Result<SafetensorsEntry> parse_entry(const std::string& name, const Json& json, uint64_t data_bytes,
                                     std::string_view where) {
  JsonFields fields(json, cat(where, ": tensor \"", name, "\""));
  const std::string dtype_text = fields.text("dtype");
  SafetensorsEntry entry{name, Dtype::kU8, fields.counts("shape"), 0, 0};
  const std::vector<int64_t> offsets = fields.counts("data_offsets");
  LOCKSTEP_RETURN_IF_ERROR(fields.status());

  const auto dtype = parse_dtype(dtype_text);
  if (!dtype) {
    return unsupported_error(
        cat(fields.path(), " has the dtype \"", dtype_text, "\", which is not known here"));
  }
  entry.dtype = *dtype;
  if (offsets.size() != 2 || offsets[0] > offsets[1] ||
      static_cast<uint64_t>(offsets[1]) > data_bytes) {
    return corruption_error(cat(fields.path(), ": data_offsets ", shape_text(offsets),
                                " do not lie in the ", data_bytes, " bytes of data"));
  }
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  const int64_t num_elems = checked_num_elems(entry.shape);
  // Both factors are bounded (2^53 and 8), so the product can not wrap.
  if (num_elems < 0 ||
      static_cast<uint64_t>(num_elems) * static_cast<uint64_t>(dtype_size_bytes(*dtype)) !=
          entry.end - entry.begin) {
    return corruption_error(cat(fields.path(), ": shape ", shape_text(entry.shape), " of ",
                                dtype_text, " does not fill the ", entry.end - entry.begin,
                                " bytes at its offsets"));
  }
  return entry;
}

Status parse_metadata(const Json& json, std::string_view where,
                      std::map<std::string, std::string>* out) {
  const auto* members = std::get_if<Json::Object>(&json.value);
  if (members == nullptr) return corruption_error(cat(where, ": __metadata__ is not an object"));
  for (const auto& [key, value] : *members) {
    const auto* text = std::get_if<std::string>(&value.value);
    if (text == nullptr) {
      return corruption_error(cat(where, ": __metadata__ member \"", key, "\" is not a text"));
    }
    (*out)[key] = *text;
  }
  return Status::ok();
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t dim : shape) text += cat(text.empty() ? "" : ", ", dim);
  return cat("[", text, "]");
}

int64_t checked_num_elems(const std::vector<int64_t>& shape) {
  constexpr int64_t kLimit = int64_t{1} << 53;
  int64_t product = 1;  // of the dimensions that are not 0: strides are products of these
  bool is_empty = false;
  for (int64_t dim : shape) {
    if (dim == 0) {
      is_empty = true;
      continue;
    }
    if (dim < 0 || dim > kLimit || product > kLimit / dim) return -1;
    product *= dim;
  }
  return is_empty ? 0 : product;
}

std::string safetensors_prefix(const std::vector<SafetensorsEntry>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  std::string json = cat("{", json_quoted(kMetadataKey), ":{");
  bool first = true;
  for (const auto& [key, value] : metadata) {
    json += cat(first ? "" : ",", json_quoted(key), ":", json_quoted(value));
    first = false;
  }
  json += "}";
  for (const SafetensorsEntry& entry : tensors) {
    json += cat(",", json_quoted(entry.name), ":{\"dtype\":\"", dtype_name(entry.dtype),
                "\",\"shape\":", json_numbers(entry.shape), ",\"data_offsets\":[", entry.begin, ",",
                entry.end, "]}");
  }
  json += "}";
  const uint64_t used = 8 + json.size();
  const uint64_t whole = (used + kSafetensorsDataAlignBytes - 1) / kSafetensorsDataAlignBytes *
                         kSafetensorsDataAlignBytes;
  json.append(whole - used, ' ');
  LOCKSTEP_CHECK(json.size() <= kMaxSafetensorsHeaderBytes, "a safetensors header of ", json.size(),
                 " bytes; readers take at most ", kMaxSafetensorsHeaderBytes);
  std::string prefix;
  for (int i = 0; i < 8; ++i) prefix.push_back(static_cast<char>(json.size() >> (8 * i) & 0xff));
  return prefix + json;
}

Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, uint64_t data_bytes,
                                                   std::string_view where) {
  if (!json.starts_with('{'))
    return corruption_error(cat(where, ": the header does not start with '{'"));
  LOCKSTEP_ASSIGN_OR_RETURN(Json root, parse_json(json, cat(where, ": header")));
  SafetensorsHeader header;
  for (const auto& [name, value] : std::get<Json::Object>(root.value)) {
    if (name == kMetadataKey) {
      LOCKSTEP_RETURN_IF_ERROR(parse_metadata(value, where, &header.metadata));
      continue;
    }
    LOCKSTEP_ASSIGN_OR_RETURN(SafetensorsEntry entry, parse_entry(name, value, data_bytes, where));
    header.tensors.push_back(std::move(entry));
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const SafetensorsEntry& entry : header.tensors) {
    if (entry.begin != covered) {
      return corruption_error(cat(where, ": ", entry.begin > covered ? "a hole" : "an overlap",
                                  " before tensor \"", entry.name, "\": it begins at ", entry.begin,
                                  ", the one before ends at ", covered));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    return corruption_error(
        cat(where, ": tensors end at ", covered, ", but there are ", data_bytes, " bytes of data"));
  }
  return header;
}

Result<std::string> read_safetensors_prefix(const ReadableFile& file, std::string_view where) {
  LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t size, file.size_bytes());
  if (size < 8) {
    return corruption_error(cat(where, ": ", size, " bytes are too few for a safetensors file"));
  }
  unsigned char length_bytes[8];
  LOCKSTEP_RETURN_IF_ERROR(file.read(0, std::as_writable_bytes(std::span(length_bytes))));
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | length_bytes[i];
  if (length > std::min(kMaxSafetensorsHeaderBytes, size - 8)) {
    return corruption_error(cat(where, ": a header of ", length, " bytes in a file of ", size,
                                " bytes (at most ", kMaxSafetensorsHeaderBytes, ")"));
  }
  std::string prefix(8 + length, '\0');
  LOCKSTEP_RETURN_IF_ERROR(file.read(0, std::as_writable_bytes(std::span(prefix))));
  return prefix;
}

Result<SafetensorsHeader> read_safetensors_header(const ReadableFile& file,
                                                  std::string_view where) {
  LOCKSTEP_ASSIGN_OR_RETURN(const uint64_t size, file.size_bytes());
  LOCKSTEP_ASSIGN_OR_RETURN(const std::string prefix, read_safetensors_prefix(file, where));
  LOCKSTEP_ASSIGN_OR_RETURN(
      SafetensorsHeader header,
      parse_safetensors_header(std::string_view(prefix).substr(8), size - prefix.size(), where));
  header.data_offset = prefix.size();
  return header;
}

}  // namespace lockstep
