#pragma once
// asio, the same in every source: which allocator it uses depends on what a standard header has
// defined before it is included, and memory must not be taken by one and given back by the other.

// clang-format off
#include <cstddef>
#include <asio.hpp>
// clang-format on

#if defined(__GLIBCXX__) && !defined(ASIO_HAS_STD_ALIGNED_ALLOC)
#error "asio was included before this header"
#endif
