#pragma once
// Reads the shared test data. A golden file is a manifest NAME.txt and a little-endian NAME.bin beside it: a line
// `case NAME` opens a case; lines below it are parameters, `key value…`, and arrays, `array name type shape offset`.

#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <longspan/core/index.hpp>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace longspan::testing {

static_assert(std::endian::native == std::endian::little, "the files are read as they lie");

/// The folder data/ of the test data: in $LONGSPAN_DATA, or in ../shared of the working directory.
inline std::optional<std::filesystem::path> data_folder() {
  const char* given = std::getenv("LONGSPAN_DATA");
  const std::filesystem::path folder = std::filesystem::path(given ? given : "../shared") / "data";
  std::error_code none;
  if (!std::filesystem::is_directory(folder, none)) return std::nullopt;
  return folder;
}

/// Leaves a test that needs the data where there is none.
#define LONGSPAN_NEEDS_DATA()              \
  if (!::longspan::testing::data_folder()) \
  GTEST_SKIP() << "no test data: set LONGSPAN_DATA to the folder that holds data/ (default ../shared)"

/// A whole file. Throws std::runtime_error when it can't be read.
inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("can't open " + path.string());
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) throw std::runtime_error("can't read " + path.string());
  return bytes;
}

/// One case of a golden file. Everything that is asked for and isn't there throws std::runtime_error.
class GoldenCase {
 public:
  const std::string& name() const { return name_; }

  bool has(const std::string& key) const { return parameters_.contains(key); }
  const std::string& text(const std::string& key) const { return find(parameters_, key, "parameter"); }
  double number(const std::string& key) const { return parse<double>(key); }
  Index whole(const std::string& key) const { return parse<Index>(key); }

  bool has_array(const std::string& array) const { return arrays_.contains(array); }
  const std::vector<Index>& shape(const std::string& array) const { return find(arrays_, array, "array").shape; }
  std::vector<float> floats(const std::string& array) const { return values<float>(array, "f32"); }
  std::vector<double> doubles(const std::string& array) const { return values<double>(array, "f64"); }
  std::vector<Index> wholes(const std::string& array) const { return values<Index>(array, "i64"); }
  std::vector<unsigned char> bytes(const std::string& array) const { return values<unsigned char>(array, "u8"); }

 private:
  friend class Golden;
  struct Array {
    std::string type;
    std::vector<Index> shape;
    std::string bytes;
  };

  [[noreturn]] void fail(const std::string& what) const { throw std::runtime_error("case " + name_ + ": " + what); }
  template <class Map>
  const typename Map::mapped_type& find(const Map& map, const std::string& key, const char* kind) const {
    const auto found = map.find(key);
    if (found == map.end()) fail(std::string("no ") + kind + " " + key);
    return found->second;
  }
  template <class T>
  T parse(const std::string& key) const {
    std::istringstream line(text(key));
    T value{};
    if (!(line >> value) || !(line >> std::ws).eof()) fail(key + " is not one number: " + text(key));
    return value;
  }
  template <class T>
  std::vector<T> values(const std::string& name, const char* type) const {
    const Array& array = find(arrays_, name, "array");
    if (array.type != type) fail("array " + name + " is " + array.type + ", not " + type);
    std::vector<T> out(array.bytes.size() / sizeof(T));
    if (!out.empty()) std::memcpy(out.data(), array.bytes.data(), array.bytes.size());
    return out;
  }

  std::string name_;
  std::map<std::string, std::string> parameters_;
  std::map<std::string, Array> arrays_;
};

/// A golden file. Throws std::runtime_error "NAME.txt:LINE: what is wrong" for anything but the format above.
class Golden {
 public:
  Golden(const std::filesystem::path& folder, const std::string& name) : name_(name) {
    std::istringstream manifest(read_file(folder / (name + ".txt")));
    binary_ = read_file(folder / (name + ".bin"));
    for (std::string line; ++line_, std::getline(manifest, line);) add(line);
    binary_.clear();
  }

  const std::vector<GoldenCase>& cases() const& { return cases_; }
  std::vector<GoldenCase> cases() && { return std::move(cases_); }  // for (… : Golden(…).cases())
  const GoldenCase& at(const std::string& name) const {
    for (const GoldenCase& one : cases_)
      if (one.name() == name) return one;
    throw std::runtime_error(name_ + ".txt: no case " + name);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(name_ + ".txt:" + std::to_string(line_) + ": " + what);
  }

  void add(const std::string& line) {
    std::istringstream words(line);
    std::string key;
    if (!(words >> key) || key[0] == '#') return;
    if (key == "case") {
      std::string name, more;
      if (!(words >> name) || words >> more) fail("a case has one name");
      for (const GoldenCase& one : cases_)
        if (one.name() == name) fail("second case " + name);
      cases_.emplace_back().name_ = name;
      return;
    }
    if (cases_.empty()) fail(key + " before the first case");
    if (key == "array") return add_array(words);
    std::string value;
    std::getline(words >> std::ws, value);
    if (value.empty()) fail(key + " has no value");
    if (cases_.back().parameters_.emplace(key, value).first->second != value) fail("another value of " + key);
  }

  void add_array(std::istringstream& words) {
    std::string name, type, shape, more;
    Index offset = 0;
    if (!(words >> name >> type >> shape >> offset) || words >> more) fail("expected array NAME TYPE SHAPE OFFSET");
    static const std::map<std::string, Index> sizes{{"f32", 4}, {"f64", 8}, {"i64", 8}, {"u8", 1}};
    if (!sizes.contains(type)) fail("unknown type " + type);
    GoldenCase::Array array{type, parse_shape(shape), {}};
    const Index size = static_cast<Index>(binary_.size());
    if (offset < 0 || offset % 8 != 0 || offset > size) fail("bad offset " + std::to_string(offset));
    Index bytes = sizes.at(type);
    for (const Index n : array.shape)
      if (__builtin_mul_overflow(bytes, n, &bytes)) fail("bad shape " + shape);
    if (bytes > size - offset) fail("array " + name + " leaves the file of " + std::to_string(size) + " bytes");
    array.bytes = binary_.substr(static_cast<std::size_t>(offset), static_cast<std::size_t>(bytes));
    if (!cases_.back().arrays_.emplace(name, std::move(array)).second) fail("second array " + name);
  }

  std::vector<Index> parse_shape(const std::string& text) const {
    std::vector<Index> shape;
    std::istringstream words(text);
    for (std::string one; std::getline(words, one, 'x');) {
      if (one.empty() || one.size() > 18 || one.find_first_not_of("0123456789") != one.npos) fail("bad shape " + text);
      shape.push_back(std::stoll(one));
    }
    if (shape.empty() || text.back() == 'x') fail("bad shape " + text);
    return shape;
  }

  std::string name_, binary_;
  Index line_ = 0;
  std::vector<GoldenCase> cases_;
};

}  // namespace longspan::testing
