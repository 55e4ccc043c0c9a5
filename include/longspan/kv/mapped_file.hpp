#pragma once
// Files as memory, where the system has mmap.

#if __has_include(<sys/mman.h>)

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <memory_resource>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

[[noreturn]] inline void file_failed(const std::string& path, const char* what) {
  throw std::system_error(errno, std::generic_category(), "longspan: " + path + ": " + what);
}

/// A file descriptor.
class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) file_failed(path, "open");
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace detail

/// A whole file, to be read. Throws std::system_error.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const detail::File file(path, O_RDONLY);
    struct ::stat status {};
    if (::fstat(file.get(), &status) != 0) detail::file_failed(path, "fstat");
    const auto size = static_cast<std::size_t>(status.st_size);
    if (size == 0) return;
    void* const at = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (at == MAP_FAILED) detail::file_failed(path, "mmap");
    bytes_ = {static_cast<const std::byte*>(at), size};
  }
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// Memory for a cache that lives in a file, for instance on a fast disk when the cache is larger than memory. The file
/// is made anew, with all of its space (a full disk shows at once), and stays when this is gone; it is no snapshot. One
/// allocation at a time. Throws std::system_error.
class FileMemory : public std::pmr::memory_resource {
 public:
  explicit FileMemory(std::string path) : path_(std::move(path)) {}

 private:
  void* do_allocate(std::size_t bytes, std::size_t) override {  // a mapping is aligned to 4 KiB at least
    const detail::File file(path_, O_RDWR | O_CREAT | O_TRUNC);
    if (const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes)); error != 0) {
      errno = error;
      detail::file_failed(path_, "posix_fallocate");
    }
    void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (at == MAP_FAILED) detail::file_failed(path_, "mmap");
    return at;
  }
  void do_deallocate(void* at, std::size_t bytes, std::size_t) override { ::munmap(at, bytes); }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  std::string path_;
};

}  // namespace longspan::inline LONGSPAN_ISA

#endif
