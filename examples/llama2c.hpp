#pragma once
// The files of llama2.c (https://github.com/karpathy/llama2.c): checkpoints of any size, and their tokenizers; and what
// such a model does to each token by itself.

#include <Eigen/Core>
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <queue>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace llama2c {

using Index = std::int64_t;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  // activations: a row per token

/// Throws std::runtime_error with all parts as its text unless `holds`.
template <class... Parts>
inline void require(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream text;
  text.precision(15);
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// ---- the model's file -----------------------------------------------------------------------------------------------

/// A file that is read from its beginning, and never behind its end.
struct File {
  std::string path;
  std::ifstream stream{path, std::ios::binary};
  Index left = 0;  ///< bytes

  explicit File(const std::string& name) : path(name) {
    require(stream.is_open(), path, ": could not be opened: ", std::strerror(errno));
    std::error_code error;
    left = static_cast<Index>(std::filesystem::file_size(path, error));
    require(!error, path, ": could not be read: ", error.message());
  }
  void read(void* to, Index bytes) {
    require(bytes >= 0 && bytes <= left && stream.read(static_cast<char*>(to), bytes), path, ": got ", left,
            " more bytes, expected ", bytes, " (truncated, or another kind of file)");
    left -= bytes;
  }
  template <class T>
  T number() {
    T value{};
    read(&value, sizeof value);
    return value;
  }
  std::string text(Index bytes) {
    std::string text(std::clamp(bytes, Index{0}, left), '\0');  // what this leaves out, read() refuses
    read(text.data(), bytes);
    return text;
  }
};

/// Matrices are [out, in], norms [1, dim].
struct Layer {
  Matrix attention_norm, wq, wk, wv, wo, feed_forward_norm, w1, w2, w3;
};

struct Model {
  Index dim, heads, kv_heads, vocabulary;
  Index context;     ///< tokens that it was trained to see
  Matrix embedding;  ///< [vocabulary, dim]
  std::vector<Layer> layers;
  Matrix final_norm;
  Matrix own_classifier;  ///< [vocabulary, dim], or empty: the embedding serves as one

  const Matrix& classifier() const { return own_classifier.size() > 0 ? own_classifier : embedding; }
  Index head_dim() const { return dim / heads; }
};

inline Model load_model(const std::string& path) {
  File file(path);
  const Index size = file.left;
  const auto field = [&](const char* name) -> Index {
    const Index value = file.number<std::int32_t>();
    require(value >= 1, path, ": ", name, ": got ", value, ", expected >= 1 (no checkpoint?)");
    return value;
  };
  const Index dim = field("dim"), hidden_dim = field("hidden_dim"), layers = field("layers"), heads = field("heads"),
              kv_heads = field("kv_heads"), signed_vocabulary = file.number<std::int32_t>(), context = field("context");
  const Index vocabulary = std::abs(signed_vocabulary);  // negative: the classifier has weights of its own
  require(vocabulary > 0, path, ": vocabulary: got 0, expected another number (no checkpoint?)");
  require(dim % (2 * heads) == 0, path, ": dim: got ", dim, ", expected a multiple of 2 * heads = ", 2 * heads,
          " (no checkpoint?)");
  require(heads % kv_heads == 0, path, ": heads: got ", heads, ", expected a multiple of kv_heads = ", kv_heads,
          " (no checkpoint?)");

  const Index kv_dim = dim / heads * kv_heads;
  const struct {
    Matrix Layer::*weights;
    Index rows, cols;
  } parts[] = {
      {&Layer::attention_norm, 1, dim}, {&Layer::wq, dim, dim},        {&Layer::wk, kv_dim, dim},
      {&Layer::wv, kv_dim, dim},        {&Layer::wo, dim, dim},        {&Layer::feed_forward_norm, 1, dim},
      {&Layer::w1, hidden_dim, dim},    {&Layer::w2, dim, hidden_dim}, {&Layer::w3, hidden_dim, dim},
  };
  const Index angles = context * (dim / heads);  // cosines and sines of all positions, which Rope makes better

  // Nothing is allocated before header and size agree. In double, which no header overflows and which is exact for any
  // size that a file can have.
  const auto product = [](Index a, Index b) { return static_cast<double>(a) * static_cast<double>(b); };
  double floats = product(vocabulary, dim) * (signed_vocabulary < 0 ? 2 : 1) + product(1, dim) + product(1, angles);
  for (const auto& part : parts) floats += product(part.rows, part.cols) * static_cast<double>(layers);
  const double expected = floats * sizeof(float) + static_cast<double>(size - file.left);
  require(static_cast<double>(size) == expected, path, ": size: got ", size, " bytes, expected ", expected,
          " by its header (truncated, or not of llama2.c's export.py --version 0)");

  const auto read = [&](Index rows, Index cols) {
    Matrix weights(rows, cols);
    file.read(weights.data(), weights.size() * Index{sizeof(float)});
    return weights;
  };
  Model model{dim, heads, kv_heads, vocabulary, context, read(vocabulary, dim), std::vector<Layer>(layers), {}, {}};
  for (const auto& part : parts)
    for (Layer& layer : model.layers) layer.*part.weights = read(part.rows, part.cols);
  model.final_norm = read(1, dim);
  file.stream.ignore(angles * Index{sizeof(float)});
  file.left -= angles * Index{sizeof(float)};
  if (signed_vocabulary < 0) model.own_classifier = read(vocabulary, dim);
  return model;
}

// ---- what a layer does besides attention -------------------------------------------------------------------------

inline Matrix rms_norm(const Matrix& x, const Matrix& weights) {
  Matrix y = x;
  for (Index t = 0; t < x.rows(); ++t)
    y.row(t) *= 1 / std::sqrt(x.row(t).squaredNorm() / static_cast<float>(x.cols()) + 1e-5f);
  return (y.array().rowwise() * weights.row(0).array()).matrix();
}

inline Matrix feed_forward(const Layer& layer, const Matrix& x) {
  const Matrix normed = rms_norm(x, layer.feed_forward_norm);
  const Matrix gate = normed * layer.w1.transpose(), up = normed * layer.w3.transpose();
  const Matrix gated = gate.array() / (1 + (-gate.array()).exp()) * up.array();
  return gated * layer.w2.transpose();
}

// ---- text and tokens ------------------------------------------------------------------------------------------------

constexpr int kBeginOfText = 1;  // stands between two texts, so a story ends with it, too
constexpr int kFirstByte = 3;    // pieces 3 … 258 are the 256 bytes, for what no other piece can spell

/// Byte pair encoding: a text is spelled in pieces, each of which has a score.
class Tokenizer {
 public:
  Tokenizer(const std::string& path, Index vocabulary) {
    File file(path);
    file.number<std::int32_t>();  // the longest piece's length: of no use here
    while (file.left > 0) {
      const float score = file.number<float>();
      require(std::isfinite(score), path, ": score of piece ", pieces_.size(), ": got ", score, ", expected finite");
      pieces_.push_back({file.text(file.number<std::int32_t>()), score});
      ids_.emplace(pieces_.back().text, static_cast<int>(pieces_.size()) - 1);
    }
    require(std::ssize(pieces_) == vocabulary, path, ": pieces: got ", pieces_.size(), ", expected ", vocabulary,
            " (the model's vocabulary)");
  }

  /// The tokens of a text, kBeginOfText first.
  std::vector<int> encode(std::string_view text) const {
    std::vector<int> ids;
    if (!text.empty()) spell(" ", ids);  // words are pieces that begin with a space: so does the first
    for (std::size_t at = 0, size; at < text.size(); at += size) {
      for (size = 1; size < 4 && at + size < text.size() && (text[at + size] & 0xC0) == 0x80;) ++size;  // UTF-8
      spell(text.substr(at, size), ids);
    }
    join(ids);
    ids.insert(ids.begin(), kBeginOfText);
    return ids;
  }

  /// The text of a token that follows `previous`. Control characters are left out: they are not for a terminal.
  std::string decode(int previous, int token) const {
    if (const int byte = token - kFirstByte; byte >= 0 && byte < 256)
      return std::iscntrl(byte) && !std::isspace(byte) ? "" : std::string(1, static_cast<char>(byte));
    const std::string& text = pieces_[token].text;
    return previous == kBeginOfText && text.starts_with(' ') ? text.substr(1) : text;
  }

 private:
  struct Piece {
    std::string text;
    float score;
  };

  /// Appends the piece that is this character, or those of its bytes.
  void spell(std::string_view character, std::vector<int>& ids) const {
    if (const auto piece = ids_.find(std::string(character)); piece != ids_.end()) return ids.push_back(piece->second);
    for (const char c : character) {
      const int id = kFirstByte + static_cast<unsigned char>(c);
      require(id < std::ssize(pieces_), "token of a byte: got ", id, ", expected at most ", pieces_.size() - 1);
      ids.push_back(id);
    }
  }

  /// Joins neighbours to longer pieces as long as there are any: the best score first, of equals the leftmost. A queue
  /// over a linked list, so that a long text takes O(n log n).
  void join(std::vector<int>& ids) const {
    struct Pair {
      float score;
      Index left, right;
      int left_id, right_id, joined_id;
      bool operator<(const Pair& other) const { return std::pair(score, -left) < std::pair(other.score, -other.left); }
    };
    constexpr int kGone = -1;
    const Index size = std::ssize(ids);
    std::vector<Index> previous(ids.size()), next(ids.size());
    std::iota(previous.begin(), previous.end(), -1);
    std::iota(next.begin(), next.end(), 1);
    std::priority_queue<Pair> pairs;
    const auto offer = [&](Index left, Index right) {
      if (left < 0 || right >= size) return;
      const auto joined = ids_.find(pieces_[ids[left]].text + pieces_[ids[right]].text);
      if (joined == ids_.end()) return;
      pairs.push({pieces_[joined->second].score, left, right, ids[left], ids[right], joined->second});
    };
    for (Index i = 0; i < size; ++i) offer(i, i + 1);
    while (!pairs.empty()) {
      const Pair p = pairs.top();
      pairs.pop();
      if (ids[p.left] != p.left_id || ids[p.right] != p.right_id || next[p.left] != p.right) continue;  // joined since
      ids[p.left] = p.joined_id;
      ids[p.right] = kGone;
      next[p.left] = next[p.right];
      if (next[p.left] < size) previous[next[p.left]] = p.left;
      offer(previous[p.left], p.left);
      offer(p.left, next[p.left]);
    }
    std::erase(ids, kGone);
  }

  std::vector<Piece> pieces_;
  std::unordered_map<std::string, int> ids_;
};

}  // namespace llama2c
