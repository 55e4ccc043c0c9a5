#pragma once
// Memory that a thread keeps between calls, so that only the first call of a size allocates.

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A cache-line-aligned buffer that grows and is never shrunk. Contents are not kept when it grows.
class Scratch {
 public:
  /// At least `count` floats; throws std::bad_alloc.
  float* floats(Index count) {
    if (count > size_) {
      const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
      size_ = 0;
      memory_.reset();
      memory_.reset(static_cast<float*>(::operator new(bytes, kAlignment)));
      size_ = count;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<float, Free> memory_;
  Index size_ = 0;
};

/// The calling thread's kept T, for as long as this lives. A second lease on the same thread at the same time (an
/// executor that runs other work while it waits) gets a T of its own.
template <class T, class Purpose>
class Leased {
 public:
  Leased() : value_(std::move(kept())) { kept() = {}; }
  Leased(const Leased&) = delete;
  Leased& operator=(const Leased&) = delete;
  ~Leased() { kept() = std::move(value_); }
  T& operator*() { return value_; }
  T* operator->() { return &value_; }

 private:
  static T& kept() {
    static thread_local T value;
    return value;
  }
  T value_;
};

}  // namespace longspan::inline LONGSPAN_ISA
