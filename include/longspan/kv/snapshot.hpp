#pragma once
// Sequences of a paged cache in a file, and back. Not part of longspan.hpp: it needs xxHash (Debian's
// libxxhash-dev; in CMake, link longspan::xxhash) and a POSIX system.
//
// The file: a header of 64 bytes; tables (whole numbers of 64 bits: shapes, the model's layers, then pages, lengths and
// tokens of each sequence), where version 2 also says of each shape whether it is latent; pages as they are in memory,
// from a multiple of 4096 on; XXH3's 64 bits over all of that. A page that sequences share is there once.

#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>

#include <xxhash.h>

#include <longspan/kv/mapped_file.hpp>
#include <longspan/kv/paged.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A file that is no snapshot, or not whole, or not of this kind of cache.
struct SnapshotError : std::runtime_error {
  using runtime_error::runtime_error;
};

/// A sequence to be saved, and the tokens that it is made of: they are not looked at, and come back with it.
struct SnapshotEntry {
  SequenceId sequence;
  std::span<const Token> tokens = {};
};

namespace detail {

struct SnapshotHeader {
  std::array<char, 8> magic{'l', 'o', 'n', 'g', 's', 'p', 'a', 'n'};
  std::uint32_t version = 1;  ///< 2 where some group is latent: others are what they always were
  std::uint32_t byte_order = 0x01020304;
  std::uint64_t element = 0;      ///< 1 float, 2 bf16, 3 f16, 4 e4m3, 5 e5m2, 6 i8
  std::uint64_t tables = 0;       ///< numbers
  std::uint64_t pages_begin = 0;  ///< bytes
  std::uint64_t size = 0;         ///< bytes, of the file
  std::uint64_t tables_hash = 0;  ///< of the tables
  std::uint64_t header_hash = 0;  ///< of the header, with a 0 here
};
static_assert(sizeof(SnapshotHeader) == 64);

template <StoredElement T>
inline constexpr std::uint64_t kElementCode = std::is_same_v<T, float>  ? 1
                                              : std::is_same_v<T, bf16> ? 2
                                              : std::is_same_v<T, f16>  ? 3
                                              : std::is_same_v<T, e4m3> ? 4
                                              : std::is_same_v<T, e5m2> ? 5
                                                                        : 6;

inline std::uint64_t hash_of(SnapshotHeader header) {
  header.header_hash = 0;
  return XXH3_64bits(&header, sizeof header);
}

/// A file that takes the place of another when it is whole and on the disk, or leaves no trace. (A killed process
/// leaves path + ".new", which the next one overwrites: one writer of a path at a time.)
class ReplacingFile {
 public:
  explicit ReplacingFile(std::string path)
      : path_(std::move(path)), file_(path_ + ".new", O_WRONLY | O_CREAT | O_TRUNC), state_(XXH3_createState()) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_64bits_reset(state_.get());
    buffer_.reserve(kBuffer);
  }
  ~ReplacingFile() {
    if (!done_) ::unlink((path_ + ".new").c_str());
  }
  void write(const void* from, std::size_t bytes) {
    XXH3_64bits_update(state_.get(), from, bytes);
    put(from, bytes);
  }
  void finish() {
    const std::uint64_t hash = XXH3_64bits_digest(state_.get());
    put(&hash, sizeof hash);
    flush();
    if (::fsync(file_.get()) != 0) file_failed(path_ + ".new", "fsync");
    if (::rename((path_ + ".new").c_str(), path_.c_str()) != 0) file_failed(path_, "rename");
    done_ = true;
    const std::size_t slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    const File directory(folder, O_RDONLY | O_DIRECTORY);
    if (::fsync(directory.get()) != 0) file_failed(folder, "fsync");
  }

 private:
  static constexpr std::size_t kBuffer = std::size_t{1} << 20;
  void put(const void* from, std::size_t bytes) {
    const auto* at = static_cast<const char*>(from);
    while (bytes > 0) {
      const std::size_t now = std::min(bytes, kBuffer - buffer_.size());
      buffer_.insert(buffer_.end(), at, at + now);
      at += now;
      bytes -= now;
      if (buffer_.size() == kBuffer) flush();
    }
  }
  void flush() {
    for (std::size_t done = 0; done < buffer_.size();) {
      const ::ssize_t n = ::write(file_.get(), buffer_.data() + done, buffer_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) file_failed(path_ + ".new", "write");
      done += static_cast<std::size_t>(n);
    }
    buffer_.clear();
  }

  struct FreeState {
    void operator()(XXH3_state_t* s) const { XXH3_freeState(s); }
  };
  std::string path_;
  File file_;
  std::unique_ptr<XXH3_state_t, FreeState> state_;
  std::vector<char> buffer_;
  bool done_ = false;
};

}  // namespace detail

/// Writes sequences of a cache to `path`, by way of path + ".new", which is synced and renamed: whenever the process or
/// the machine stops, `path` is the old file or the new one, whole. Throws std::system_error (a full disk, …), which
/// leaves the old one, and std::invalid_argument for a sequence that is not open. O(bytes of their pages).
template <StoredElement T>
void save_snapshot(const std::string& path, const PagedCache<T>& cache, std::span<const SnapshotEntry> entries) {
  const Index groups = cache.groups();
  std::vector<std::vector<Index>> pages(static_cast<std::size_t>(groups));  // [group]: those to be written
  std::vector<Index> sequences;                                             // their part of the tables
  std::vector<std::vector<Index>> number;                                   // [group][page]: its number in the file
  for (Index g = 0; g < groups; ++g) number.emplace_back(static_cast<std::size_t>(cache.shape(g).pages), -1);
  for (const SnapshotEntry& entry : entries) {
    const SequenceState& s = cache.state(entry.sequence);
    Index first_layer = 0;
    for (Index g = 0; g < groups; ++g) {
      const auto at = static_cast<std::size_t>(g);
      const PageTable& table = s.tables[at];
      const Index next_layer = first_layer + cache.shape(g).layers;
      const Index longest = *std::max_element(s.lengths.begin() + first_layer, s.lengths.begin() + next_layer);
      const Index end = std::max(table.first(), ceil_div(longest, cache.shape(g).page_size));
      sequences.insert(sequences.end(), {table.first(), end - table.first()});
      for (Index n = table.first(); n < end; ++n) {
        Index& place = number[at][static_cast<std::size_t>(table[n])];
        if (place < 0) {
          place = static_cast<Index>(pages[at].size());
          pages[at].push_back(table[n]);
        }
        sequences.push_back(place);
      }
      first_layer = next_layer;
    }
    sequences.insert(sequences.end(), s.lengths.begin(), s.lengths.end());
    sequences.push_back(static_cast<Index>(entry.tokens.size()));
    sequences.insert(sequences.end(), entry.tokens.begin(), entry.tokens.end());
  }

  std::vector<Index> tables{groups, cache.layers(), static_cast<Index>(entries.size())};
  Index bytes = 0;
  bool latent = false;
  for (Index g = 0; g < groups; ++g) latent = latent || cache.shape(g).latent;
  for (Index g = 0; g < groups; ++g) {
    const PagedShape& s = cache.shape(g);
    const PageLayout<T> layout(s);
    const auto count = static_cast<Index>(pages[static_cast<std::size_t>(g)].size());
    tables.insert(tables.end(), {count, s.page_size, s.kv_heads, s.head_dim, s.value_dim, s.layers, s.window,
                                 layout.key_pack, layout.value_pack});
    if (latent) tables.push_back(s.latent);
    bytes += count * s.layers * s.kv_heads * layout.head_bytes;
  }
  for (Index m = 0; m < cache.layers(); ++m) tables.push_back(cache.cache_layer(m));
  tables.insert(tables.end(), sequences.begin(), sequences.end());

  const std::size_t table_bytes = tables.size() * sizeof(Index);
  detail::SnapshotHeader header{
      .version = latent ? 2u : 1u, .element = detail::kElementCode<T>, .tables = tables.size()};
  header.pages_begin = (sizeof header + table_bytes + 4095) / 4096 * 4096;
  header.size = header.pages_begin + static_cast<std::uint64_t>(bytes) + sizeof(std::uint64_t);
  header.tables_hash = XXH3_64bits(tables.data(), table_bytes);
  header.header_hash = detail::hash_of(header);

  detail::ReplacingFile file(path);
  file.write(&header, sizeof header);
  file.write(tables.data(), table_bytes);
  const std::array<char, 4096> zeros{};
  file.write(zeros.data(), header.pages_begin - sizeof header - table_bytes);
  for (Index g = 0, layer = 0; g < groups; ++g) {
    const auto page_bytes =
        static_cast<std::size_t>(cache.shape(g).kv_heads * PageLayout<T>(cache.shape(g)).head_bytes);
    for (Index l = 0; l < cache.shape(g).layers; ++l, ++layer)
      for (const Index page : pages[static_cast<std::size_t>(g)]) file.write(cache.page_data(layer, page), page_bytes);
  }
  file.finish();
}

/// A saved snapshot, mapped and read-only: its sequences can be attended to where they are, also when they are larger
/// than memory, or be loaded into a cache.
template <StoredElement T>
class Snapshot {
 public:
  /// Throws std::system_error where there is no such file, SnapshotError where it is not as it was written. That reads
  /// all of it; without `verify_pages` only what is not pages.
  explicit Snapshot(const std::string& path, bool verify_pages = true) : file_(path) {
    const std::span<const std::byte> bytes = file_.bytes();
    const auto expect = [&](bool holds, const std::string& what) {
      if (!holds) throw SnapshotError("longspan: " + path + ": " + what);
    };
    detail::SnapshotHeader header, wanted;
    expect(bytes.size() >= sizeof header,
           "got " + std::to_string(bytes.size()) + " bytes, expected a snapshot's header");
    std::memcpy(&header, bytes.data(), sizeof header);
    expect(header.magic == wanted.magic, "not a snapshot");
    expect(header.version == 1 || header.version == 2,
           "version: got " + std::to_string(header.version) + ", expected 1 or 2");
    expect(header.byte_order == wanted.byte_order, "written on a machine with another order of bytes");
    expect(header.header_hash == detail::hash_of(header), "damaged header");
    expect(header.size == bytes.size(), "size: got " + std::to_string(bytes.size()) + " bytes, expected " +
                                            std::to_string(header.size) + " (truncated?)");
    expect(header.element == detail::kElementCode<T>, "elements of another type");
    tables_.resize(header.tables);
    const std::size_t table_bytes = tables_.size() * sizeof(Index);
    std::memcpy(tables_.data(), bytes.data() + sizeof header, table_bytes);
    expect(XXH3_64bits(tables_.data(), table_bytes) == header.tables_hash, "damaged tables");
    if (verify_pages) {
      std::uint64_t hash = 0;
      const std::size_t hashed = bytes.size() - sizeof hash;
      std::memcpy(&hash, bytes.data() + hashed, sizeof hash);
      expect(XXH3_64bits(bytes.data(), hashed) == hash, "damaged pages");
    }

    std::size_t at = 0;  // the tables are as they were written: what follows finds what it looks for
    const auto next = [&] { return tables_[at++]; };
    const Index groups = next(), layers = next(), sequences = next();
    const std::byte* pages = bytes.data() + header.pages_begin;
    Index cache_layers = 0;
    for (Index g = 0; g < groups; ++g) {
      PagedShape s;
      for (Index PagedShape::*const member :
           {&PagedShape::pages, &PagedShape::page_size, &PagedShape::kv_heads, &PagedShape::head_dim,
            &PagedShape::value_dim, &PagedShape::layers, &PagedShape::window})
        s.*member = next();
      const Index key_pack = next(), value_pack = next();
      s.latent = header.version >= 2 && next() != 0;
      const PageLayout<T> layout(s);
      expect(key_pack == layout.key_pack && value_pack == layout.value_pack,
             "elements stand together as another instruction set wants them");
      groups_.push_back({s, layout, {cache_layers, cache_layers + s.layers}, pages});
      pages += s.pages * s.layers * groups_.back().page_bytes();
      cache_layers += s.layers;
    }
    for (Index m = 0; m < layers; ++m) layers_.push_back(next());
    for (Index i = 0; i < sequences; ++i) {
      Saved saved;
      for (Index g = 0; g < groups; ++g) {
        const Index first = next(), count = next();
        saved.state.tables.emplace_back(first);
        for (Index n = 0; n < count; ++n) saved.state.tables.back().push_back(next());
      }
      for (Index layer = 0; layer < cache_layers; ++layer) saved.state.lengths.push_back(next());
      for (Index n = next(); n > 0; --n) saved.tokens.push_back(static_cast<Token>(next()));
      saved_.push_back(std::move(saved));
    }
    tables_ = {};
  }

  Index sequences() const { return static_cast<Index>(saved_.size()); }
  std::span<const Token> tokens(Index sequence) const { return at(sequence).tokens; }
  Index length(Index sequence, Index layer = 0) const {
    return at(sequence).state.lengths[static_cast<std::size_t>(cache_layer(layer))];
  }
  /// For attention, from the file's mapping. Valid as long as this snapshot is.
  PagedView<T> view(Index sequence, Index layer = 0) const {
    const Index in_cache = cache_layer(layer);
    std::size_t i = 0;
    while (groups_[i].layers.end <= in_cache) ++i;
    const Group& g = groups_[i];
    const PageTable& table = at(sequence).state.tables[i];
    const Index begin = table.first() * g.shape.page_size;
    return {
        g.page(in_cache, 0), table.pages().data(), begin, length(sequence, layer) - begin, g.shape.kv_heads, g.layout};
  }

  /// New sequences of a cache, in the order they were saved in, which share pages as they did; nothing where the cache
  /// has too few pages, and then it has not changed. Throws std::invalid_argument where the cache is of another shape
  /// (its number of pages apart). O(bytes).
  std::optional<std::vector<SequenceId>> load(PagedCache<T>& cache) const {
    check(cache.groups() == static_cast<Index>(groups_.size()), "load.cache.groups", cache.groups(), groups_.size());
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      PagedShape shape = cache.shape(static_cast<Index>(i));
      shape.pages = groups_[i].shape.pages;
      check(shape == groups_[i].shape, "load.cache.shape", "another shape", "that of the snapshot");
      if (shape.pages > cache.free_pages(static_cast<Index>(i))) return std::nullopt;
    }
    std::vector<std::vector<Index>> taken(groups_.size());  // [group][number in the file]
    std::vector<SequenceId> opened;
    const auto release_taken = [&] {
      for (std::size_t i = 0; i < groups_.size(); ++i)
        for (const Index page : taken[i]) cache.pool(static_cast<Index>(i)).release(page);
    };
    try {
      opened.reserve(saved_.size());
      for (std::size_t i = 0; i < groups_.size(); ++i) {
        taken[i].reserve(static_cast<std::size_t>(groups_[i].shape.pages));
        for (Index n = 0; n < groups_[i].shape.pages; ++n) {
          const Index page = taken[i].emplace_back(cache.pool(static_cast<Index>(i)).take());
          for (Index layer = groups_[i].layers.begin; layer < groups_[i].layers.end; ++layer)
            std::memcpy(cache.page_data(layer, page), groups_[i].page(layer, n),
                        static_cast<std::size_t>(groups_[i].page_bytes()));
        }
      }
      for (const Saved& saved : saved_) {
        SequenceState state = saved.state;
        for (std::size_t i = 0; i < groups_.size(); ++i)
          for (Index n = state.tables[i].first(); n < state.tables[i].end(); ++n)
            state.tables[i][n] = taken[i][static_cast<std::size_t>(state.tables[i][n])];
        opened.push_back(cache.open(std::move(state)));
        for (Index g = 0; g < cache.groups(); ++g)
          for (const Index page : cache.state(opened.back()).tables[static_cast<std::size_t>(g)].pages())
            cache.pool(g).hold(page);
      }
    } catch (...) {
      for (const SequenceId id : opened) cache.close(id);
      release_taken();
      throw;
    }
    release_taken();  // the sequences hold them
    return opened;
  }

 private:
  struct Group {
    PagedShape shape;
    PageLayout<T> layout;
    Interval layers;
    const std::byte* memory;

    Index page_bytes() const { return shape.kv_heads * layout.head_bytes; }
    const std::byte* page(Index layer, Index page) const {
      return memory + ((layer - layers.begin) * shape.pages + page) * page_bytes();
    }
  };
  struct Saved {
    SequenceState state = {};
    std::vector<Token> tokens = {};
  };
  const Saved& at(Index sequence) const {
    check(sequence >= 0 && sequence < sequences(), "snapshot.sequence", sequence, Below{sequences()});
    return saved_[static_cast<std::size_t>(sequence)];
  }
  Index cache_layer(Index layer) const {
    check(layer >= 0 && layer < static_cast<Index>(layers_.size()), "layer", layer,
          Below{static_cast<long long>(layers_.size())});
    return layers_[static_cast<std::size_t>(layer)];
  }

  MappedFile file_;
  std::vector<Index> tables_;
  std::vector<Group> groups_;
  std::vector<Index> layers_;
  std::vector<Saved> saved_;
};

}  // namespace longspan::inline LONGSPAN_ISA
