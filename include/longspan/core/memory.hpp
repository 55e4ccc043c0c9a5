#pragma once
// Memory for caches: large, taken once, streamed through.

#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// `count` zeros, cache-line-aligned; from 2 MiB on in huge pages where the system grants them (a stream of small ones
/// spends a tenth of its time on address translation). With a memory resource of the caller's, which must outlive it:
/// its memory as it is, not touched, so that each page of it comes to be where it is first written. Throws
/// std::bad_alloc.
template <class T>
class LargeArray {
 public:
  explicit LargeArray(Index count, std::pmr::memory_resource* from = nullptr) : size_(static_cast<std::size_t>(count)) {
    const std::size_t bytes = size_ * sizeof(T);
    if (from != nullptr) {
      memory_ = {static_cast<T*>(from->allocate(bytes, kLine)), Free{std::align_val_t{kLine}, from, bytes}};
      return;
    }
    const std::align_val_t alignment{bytes >= kHuge ? kHuge : kLine};
    memory_ = {static_cast<T*>(::operator new(bytes, alignment)), Free{alignment, nullptr, bytes}};
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
    std::pmr::memory_resource* from = nullptr;
    std::size_t bytes = 0;
    void operator()(T* p) const {
      if (from != nullptr)
        from->deallocate(p, bytes, static_cast<std::size_t>(alignment));
      else
        ::operator delete(p, alignment);
    }
  };
  std::unique_ptr<T, Free> memory_;
  std::size_t size_;
};

}  // namespace longspan::inline LONGSPAN_ISA
