#pragma once
// Memory for caches: large, taken once, streamed through.

#include <cstddef>
#include <memory>
#include <new>
#include <span>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// `count` zeros, cache-line-aligned; from 2 MiB on in huge pages where the system grants them (a stream of small ones
/// spends a tenth of its time on address translation). Throws std::bad_alloc.
template <class T>
class LargeArray {
 public:
  explicit LargeArray(Index count) : size_(static_cast<std::size_t>(count)) {
    const std::size_t bytes = size_ * sizeof(T);
    const std::align_val_t alignment{bytes >= kHuge ? kHuge : kLine};
    memory_ = {static_cast<T*>(::operator new(bytes, alignment)), Free{alignment}};
#if defined(__linux__)
    if (bytes >= kHuge)
      ::madvise(memory_.get(), bytes / kHuge * kHuge, MADV_HUGEPAGE);  // advice: a refusal costs speed only
#endif
    std::uninitialized_fill_n(memory_.get(), size_, T{});
  }
  T* data() const { return memory_.get(); }
  std::span<T> span() const { return {memory_.get(), size_}; }

 private:
  static constexpr std::size_t kLine = 64, kHuge = std::size_t{1} << 21;
  struct Free {
    std::align_val_t alignment{kLine};
    void operator()(T* p) const { ::operator delete(p, alignment); }
  };
  std::unique_ptr<T, Free> memory_;
  std::size_t size_;
};

}  // namespace longspan::inline LONGSPAN_ISA
