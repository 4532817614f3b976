// XXH3 behind hash.h. The library's run-time dispatch picks AVX2 or AVX-512; the values are the
// same for all.
#include "lockstep/core/base/hash.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#include <xxh_x86dispatch.h>  // includes xxhash.h
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <cstring>
#include <new>

#include "lockstep/core/base/check.h"
#include "lockstep/core/base/text.h"

namespace lockstep {

namespace {

// Small enough that a piece is still in the second-level cache when it is hashed after the copy.
constexpr size_t kCopyPieceBytes = 128 * 1024;
// Small enough that a piece is still in the first-level cache when it is copied after its hash.
constexpr size_t kPageBytes = 4096;
constexpr size_t kStreamPieceBytes = 4 * kPageBytes;
constexpr size_t kLineBytes = 64;

using StatePointer = std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)>;

StatePointer make_state() {
  StatePointer state(XXH3_createState(), &XXH3_freeState);
  if (!state) throw std::bad_alloc();
  return state;
}

Hash128 from_xxh(XXH128_hash_t hash) {
  return {.high = hash.high64, .low = hash.low64};
}

#if defined(__x86_64__)
inline void stream_line(const std::byte* from, std::byte* to) {
  const auto* source = reinterpret_cast<const __m128i*>(from);
  auto* target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source);
  const __m128i b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2);
  const __m128i d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

/// Streams a piece, a line of each of its pages in turn, and has the memory fetch the piece behind
/// it meanwhile: hashing waits for memory, and several pages at once keep it busier than one
/// (measured: 1.1 times a plain copy, and 1.5 times line by line without fetching).
/// Requires: `to` at the start of a line. (Fetching past the end of memory is harmless.)
void stream_pages(const std::byte* from, std::byte* to) {
  for (size_t at = 0; at < kPageBytes; at += kLineBytes) {
    for (size_t page = 0; page < kStreamPieceBytes; page += kPageBytes) {
      _mm_prefetch(from + kStreamPieceBytes + page + at, _MM_HINT_T0);
      stream_line(from + page + at, to + page + at);
    }
  }
}

/// Whole cache lines of the destination are streamed; what lies before and behind is copied.
void stream_unfenced(std::span<const std::byte> from, std::span<std::byte> to) {
  const auto misaligned = reinterpret_cast<uintptr_t>(to.data()) % kLineBytes;
  if (misaligned == 0 && from.size() == kStreamPieceBytes) {
    stream_pages(from.data(), to.data());
    return;
  }
  const size_t head = std::min(misaligned == 0 ? 0 : kLineBytes - misaligned, from.size());
  if (head > 0) std::memcpy(to.data(), from.data(), head);
  size_t done = head;
  for (; done + kLineBytes <= from.size(); done += kLineBytes) {
    stream_line(from.data() + done, to.data() + done);
  }
  if (done < from.size()) std::memcpy(to.data() + done, from.data() + done, from.size() - done);
}
/// Other threads see the bytes before whatever tells them so.
void stream_fence() {
  _mm_sfence();
}
#else
void stream_unfenced(std::span<const std::byte> from, std::span<std::byte> to) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}
void stream_fence() {}
#endif

// The finalizer of Vigna's splitmix64: a bijection of 64 bits in which every input bit reaches
// every output bit.
uint64_t spread(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

std::string Hash128::hex() const {
  return hex64(high) + hex64(low);
}

uint64_t xxh3_64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}
uint64_t xxh3_64(std::string_view text) {
  return XXH3_64bits(text.data(), text.size());
}
Hash128 xxh3_128(std::span<const std::byte> bytes) {
  return from_xxh(XXH3_128bits(bytes.data(), bytes.size()));
}
Hash128 xxh3_128(std::string_view text) {
  return from_xxh(XXH3_128bits(text.data(), text.size()));
}

uint64_t copy_and_xxh3_64(std::span<const std::byte> from, std::span<std::byte> to) {
  LOCKSTEP_CHECK(from.size() == to.size(), "copy_and_xxh3_64 needs equal lengths, got ",
                 from.size(), " and ", to.size(), " bytes");
  if (from.size() <= kCopyPieceBytes) {
    if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
    return xxh3_64(std::span<const std::byte>(to));
  }
  StatePointer state = make_state();
  XXH3_64bits_reset(state.get());
  for (size_t begin = 0; begin < from.size(); begin += kCopyPieceBytes) {
    const size_t size = std::min(kCopyPieceBytes, from.size() - begin);
    std::memcpy(to.data() + begin, from.data() + begin, size);
    // The copy is hashed and not the source, so that the hash vouches for the bytes that go on from
    // here.
    XXH3_64bits_update(state.get(), to.data() + begin, size);
  }
  return XXH3_64bits_digest(state.get());
}

void stream_copy(std::span<const std::byte> from, std::span<std::byte> to) {
  LOCKSTEP_CHECK(from.size() == to.size(), "stream_copy needs equal lengths, got ", from.size(),
                 " and ", to.size(), " bytes");
  stream_unfenced(from, to);
  stream_fence();
}

uint64_t stream_and_xxh3_64(std::span<const std::byte> from, std::span<std::byte> to) {
  LOCKSTEP_CHECK(from.size() == to.size(), "stream_and_xxh3_64 needs equal lengths, got ",
                 from.size(), " and ", to.size(), " bytes");
  static thread_local const StatePointer state = make_state();
  XXH3_64bits_reset(state.get());
  for (size_t begin = 0; begin < from.size(); begin += kStreamPieceBytes) {
    const size_t size = std::min(kStreamPieceBytes, from.size() - begin);
    XXH3_64bits_update(state.get(), from.data() + begin, size);
    stream_unfenced(from.subspan(begin, size), to.subspan(begin, size));
  }
  stream_fence();
  return XXH3_64bits_digest(state.get());
}

struct Xxh3Stream::State {
  StatePointer xxh = make_state();
};

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(state_->xxh.get());
}
Xxh3Stream::~Xxh3Stream() = default;

void Xxh3Stream::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh.get(), bytes.data(), bytes.size());
}
void Xxh3Stream::update(std::string_view text) {
  update(std::as_bytes(std::span(text)));
}
Hash128 Xxh3Stream::digest() const {
  return from_xxh(XXH3_128bits_digest(state_->xxh.get()));
}
uint64_t Xxh3Stream::digest_64() const {
  // Both lengths are read off the same state (xxhash.h, "XXH3 128-bit variant").
  return XXH3_64bits_digest(state_->xxh.get());
}

uint64_t mix(uint64_t a, uint64_t b, uint64_t c) {
  return spread(spread(spread(a) ^ b) ^ c);
}

}  // namespace lockstep
