#include "gzip_reader.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "lockstep/core/base/text.h"

namespace lockstep {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr int kGzipOnly = 15 + 16;  // zlib: largest window, a gzip header required
constexpr uint64_t kMaxShrink = 1032;

}  // namespace

struct GzipReader::Impl {
  std::string path;
  std::unique_ptr<ReadableFile> file;
  uint64_t file_bytes = 0;
  uint64_t num_bytes_read = 0;  // of the file
  std::vector<std::byte> piece;
  z_stream stream{};
  bool has_stream = false;
  bool is_at_end = false;

  ~Impl() {
    if (has_stream) inflateEnd(&stream);
  }

  /// Gives zlib more input when it has none. OK also when the file has none left.
  Status refill() {
    if (stream.avail_in > 0 || num_bytes_read == file_bytes) return Status::ok();
    size_t size = static_cast<size_t>(std::min<uint64_t>(kPieceBytes, file_bytes - num_bytes_read));
    LOCKSTEP_RETURN_IF_ERROR(file->read(num_bytes_read, std::span(piece).first(size)));
    num_bytes_read += size;
    stream.next_in = reinterpret_cast<Bytef*>(piece.data());
    stream.avail_in = static_cast<uInt>(size);
    return Status::ok();
  }

  Status damaged(int code) const {
    if (code == Z_BUF_ERROR)
      return corruption_error(cat(path,
                                  ": truncated: the gzip stream does not end within the file's ",
                                  file_bytes, " bytes; fetch the file again"));
    return corruption_error(cat(path, ": damaged gzip stream near byte ",
                                num_bytes_read - stream.avail_in, " of ", file_bytes, ": ",
                                stream.msg ? stream.msg : zError(code), "; fetch the file again"));
  }
};

GzipReader::GzipReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GzipReader::~GzipReader() = default;

Result<std::unique_ptr<GzipReader>> GzipReader::open(FileSystem& fs, const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  LOCKSTEP_ASSIGN_OR_RETURN(impl->file, fs.open_read(fs.follow_links(path)));
  LOCKSTEP_ASSIGN_OR_RETURN(impl->file_bytes, impl->file->size_bytes());
  impl->piece.resize(kPieceBytes);
  if (int code = inflateInit2(&impl->stream, kGzipOnly); code != Z_OK)
    return internal_error(cat(path, ": zlib does not start: ", zError(code)));
  impl->has_stream = true;
  return std::unique_ptr<GzipReader>(new GzipReader(std::move(impl)));
}

uint64_t GzipReader::max_content_bytes() const {
  if (impl_->file_bytes > std::numeric_limits<uint64_t>::max() / kMaxShrink)
    return std::numeric_limits<uint64_t>::max();
  return impl_->file_bytes * kMaxShrink;
}

Result<size_t> GzipReader::read(std::span<std::byte> out) {
  size_t filled = 0;
  while (filled < out.size() && !impl_->is_at_end) {
    LOCKSTEP_RETURN_IF_ERROR(impl_->refill());
    size_t want = std::min<size_t>(out.size() - filled, std::numeric_limits<uInt>::max());
    impl_->stream.next_out = reinterpret_cast<Bytef*>(out.data() + filled);
    impl_->stream.avail_out = static_cast<uInt>(want);
    int code = inflate(&impl_->stream, Z_NO_FLUSH);
    filled += want - impl_->stream.avail_out;
    if (code == Z_STREAM_END)
      impl_->is_at_end = true;
    else if (code != Z_OK)
      return impl_->damaged(code);
  }
  return filled;
}

Status GzipReader::expect_end() {
  std::byte extra{};
  LOCKSTEP_ASSIGN_OR_RETURN(size_t num_extra, read(std::span(&extra, 1)));
  if (num_extra != 0)
    return corruption_error(
        cat(impl_->path, ": trailing bytes: the content goes on where it should end"));
  uint64_t rest = impl_->file_bytes - impl_->num_bytes_read + impl_->stream.avail_in;
  if (rest != 0)
    return corruption_error(
        cat(impl_->path, ": trailing bytes: ", rest, " after the end of the gzip stream"));
  return Status::ok();
}

}  // namespace lockstep
