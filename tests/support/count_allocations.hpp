#pragma once
// Replaces operator new and delete, all forms, in the executable that includes this (in one file): every allocation
// counts.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace longspan::testing {

struct Allocated {
  long calls = 0, bytes = 0;
};

namespace detail {
inline std::atomic<long> g_calls{0}, g_bytes{0};

inline void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  g_calls.fetch_add(1, std::memory_order_relaxed);
  g_bytes.fetch_add(static_cast<long>(bytes), std::memory_order_relaxed);
  bytes = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;  // as aligned_alloc asks for
  return std::aligned_alloc(alignment, bytes);
}
inline void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* p = counted(bytes, alignment)) return p;
  throw std::bad_alloc();
}
inline constexpr std::size_t kUsual = alignof(std::max_align_t);
}  // namespace detail

/// What f() allocates, on all threads.
template <class F>
Allocated allocated(F&& f) {
  const long calls = detail::g_calls, bytes = detail::g_bytes;
  f();
  return {detail::g_calls - calls, detail::g_bytes - bytes};
}

}  // namespace longspan::testing

// Not inline, or g++ sees free() and takes it for a mismatch with new.
#define LONGSPAN_NEW [[gnu::noinline]] void* operator
#define LONGSPAN_DELETE [[gnu::noinline]] void operator
LONGSPAN_NEW new (std::size_t n) {
  return longspan::testing::detail::counted_or_throw(n, longspan::testing::detail::kUsual);
}
LONGSPAN_NEW new[](std::size_t n) { return ::operator new(n); }
LONGSPAN_NEW new (std::size_t n, std::align_val_t a) {
  return longspan::testing::detail::counted_or_throw(n, static_cast<std::size_t>(a));
}
LONGSPAN_NEW new[](std::size_t n, std::align_val_t a) { return ::operator new(n, a); }
LONGSPAN_NEW new (std::size_t n, const std::nothrow_t&) noexcept {
  return longspan::testing::detail::counted(n, longspan::testing::detail::kUsual);
}
LONGSPAN_NEW new[](std::size_t n, const std::nothrow_t& t) noexcept { return ::operator new(n, t); }
LONGSPAN_NEW new (std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return longspan::testing::detail::counted(n, static_cast<std::size_t>(a));
}
LONGSPAN_NEW new[](std::size_t n, std::align_val_t a, const std::nothrow_t& t) noexcept {
  return ::operator new(n, a, t);
}
LONGSPAN_DELETE delete (void* p) noexcept { std::free(p); }
LONGSPAN_DELETE delete[](void* p) noexcept { std::free(p); }
LONGSPAN_DELETE delete (void* p, std::size_t) noexcept { std::free(p); }
LONGSPAN_DELETE delete[](void* p, std::size_t) noexcept { std::free(p); }
LONGSPAN_DELETE delete (void* p, std::align_val_t) noexcept { std::free(p); }
LONGSPAN_DELETE delete[](void* p, std::align_val_t) noexcept { std::free(p); }
LONGSPAN_DELETE delete (void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
LONGSPAN_DELETE delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
LONGSPAN_DELETE delete (void* p, const std::nothrow_t&) noexcept { std::free(p); }
LONGSPAN_DELETE delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
LONGSPAN_DELETE delete (void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }
LONGSPAN_DELETE delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }
#undef LONGSPAN_NEW
#undef LONGSPAN_DELETE
