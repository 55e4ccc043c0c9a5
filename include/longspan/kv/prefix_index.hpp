#pragma once
// Which token sequences have their keys and values in a paged cache already: a radix tree over token ids, a page at a
// time (RadixAttention, arXiv 2312.07104).

#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include <longspan/kv/paged.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// What an index was asked and could answer.
struct PrefixStatistics {
  Index matches = 0;         ///< calls of match
  Index asked_tokens = 0;    ///< in them
  Index matched_tokens = 0;  ///< of these: what need not be computed
  Index inserted_pages = 0;  ///< of each group
  Index evicted_pages = 0;
  double hit_rate() const {
    return asked_tokens == 0 ? 0 : static_cast<double>(matched_tokens) / static_cast<double>(asked_tokens);
  }
};

/// Holds pages of a cache, which must outlive it and stay where it is; changes count as changes of the cache. All
/// groups of the cache need one page size, and none a window. Tokens are compared, not hashed: there are no collisions.
///
/// The keys and values of a token depend on all tokens before it, so what is shared is a prefix; whole pages are kept,
/// and a match that ends inside a page shares that page, too: whoever appends then gets a copy of it.
template <StoredElement T>
class PrefixIndex {
 public:
  /// Throws std::invalid_argument where page sizes differ or a group has a window.
  explicit PrefixIndex(PagedCache<T>& cache) : cache_(cache), page_size_(cache.shape().page_size) {
    for (Index g = 0; g < cache.groups(); ++g) {
      check(cache.shape(g).page_size == page_size_, "PrefixIndex.page_size", cache.shape(g).page_size, page_size_);
      check(cache.shape(g).window == 0, "PrefixIndex.window", cache.shape(g).window, "0: no window");
    }
  }
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;
  /// Gives all pages back.
  ~PrefixIndex() { clear(); }

  /// A new sequence that begins with as many of `tokens` as are known: length() says how many. It takes no page. (Leave
  /// the last token of a prompt out: its output is wanted, so it has to be computed.) O(tokens + depth · log children).
  SequenceId match(std::span<const Token> tokens) {
    const Found found = find(tokens);
    SequenceState state;
    for (Index g = 0; g < cache_.groups(); ++g) {
      state.tables.emplace_back();
      state.tables.back().make_room(ceil_div(found.tokens, page_size_));
    }
    for (const Step& step : found.path)
      for (Index page = 0; page < ceil_div(step.tokens, page_size_); ++page)
        for (Index g = 0; g < cache_.groups(); ++g)
          state.tables[static_cast<std::size_t>(g)].push_back(step.node->page(page, g, cache_.groups()));
    state.lengths.assign(cache_layers(), found.tokens);
    const SequenceId id = cache_.open(std::move(state));
    for (Index g = 0; g < cache_.groups(); ++g)
      for (const Index page : cache_.state(id).tables[static_cast<std::size_t>(g)].pages()) cache_.pool(g).hold(page);
    for (const Step& step : found.path) touch(*step.node);
    ++statistics_.matches;
    statistics_.asked_tokens += static_cast<Index>(tokens.size());
    statistics_.matched_tokens += found.tokens;
    return id;
  }

  /// How many tokens a match would share. Changes nothing.
  Index known(std::span<const Token> tokens) const { return find(tokens).tokens; }

  /// Remembers the whole pages of a sequence that holds `tokens`; of what is known already, the pages known stay.
  /// Returns how many tokens are known now. Throws std::invalid_argument unless every layer holds all of them.
  Index insert(std::span<const Token> tokens, SequenceId id) {
    const SequenceState& s = cache_.state(id);
    const auto size = static_cast<Index>(tokens.size());
    for (const Index length : s.lengths) check(length >= size, "insert.tokens.size", size, Below{length + 1});
    tokens = tokens.first(static_cast<std::size_t>(size / page_size_ * page_size_));
    const Index end = static_cast<Index>(tokens.size()) / page_size_;
    const Found found = find(tokens);
    for (const Step& step : found.path) touch(*step.node);
    if (found.tokens == end * page_size_) return found.tokens;
    auto [node, known] = place(tokens);
    // A leaf that nobody pinned grows, so that a conversation is one edge, however often it is inserted.
    if (node == &root_ || !node->children.empty() || node->pins > 0) {
      auto child = std::make_unique<Node>();
      child->parent = node;
      fill(*child, tokens, known, s);
      const Key key = child->key(page_size_);
      leaves_.erase({node->used, node});
      node = node->children.emplace(key, std::move(child)).first->second.get();
    } else {
      auto handle = unkeyed(*node);
      fill(*node, tokens, known, s);
      rekey(std::move(handle), *node);
    }
    touch(*node);
    leaves_.insert({node->used, node});
    statistics_.inserted_pages += end - known / page_size_;
    pages_ += end - known / page_size_;
    return end * page_size_;
  }

  /// Gives up to `pages` pages (of each group) back, least recently used first, from the ends of branches; those that
  /// are pinned or that a sequence shares stay. Returns how many pages it was. O(log leaves) for each, and for each
  /// leaf that stays.
  Index evict(Index pages) {
    check(pages >= 0, "evict.pages", pages, ">= 0");
    Index evicted = 0;
    for (auto at = leaves_.begin(); at != leaves_.end() && evicted < pages;) {
      Node* const node = at->second;
      while (evicted < pages && node->pins == 0 && node->size() > 0 && unreferenced(*node)) {
        drop_last_page(*node);
        ++evicted;
      }
      if (node->size() > 0) {
        ++at;
        continue;
      }
      Node* const parent = node->parent;
      at = leaves_.erase(at);
      parent->used = std::max(parent->used, node->used);
      parent->children.erase(parent->children.find(node->key(page_size_)));
      if (parent != &root_ && parent->children.empty()) {
        const auto inserted = leaves_.insert({parent->used, parent}).first;
        if (at == leaves_.end() || *inserted < *at) at = inserted;
      }
    }
    statistics_.evicted_pages += evicted;
    return evicted;
  }

  /// Keeps the whole pages of `tokens` that are known until they are unpinned as often. Returns how many tokens that
  /// is: pass unpin these. Throws std::invalid_argument when there is no such page.
  Index pin(std::span<const Token> tokens) {
    auto [node, known] = place(tokens.first(tokens.size() / unsigned_page() * unsigned_page()));
    check(node != &root_, "pin.tokens", "no page that is known", "one");
    ++node->pins;
    return known;
  }
  /// Undoes a pin of exactly these tokens. Throws std::invalid_argument when there is none.
  void unpin(std::span<const Token> tokens) {
    const Found found = find(tokens);
    const bool exact = !found.path.empty() && found.tokens == static_cast<Index>(tokens.size()) &&
                       found.path.back().tokens == found.path.back().node->size() * page_size_;
    check(exact && found.path.back().node->pins > 0, "unpin.tokens", "tokens that are not pinned", "what pin returned");
    --found.path.back().node->pins;
  }

  /// Forgets everything.
  void clear() {
    std::vector<std::unique_ptr<Node>> all;  // no recursion: a tree can be as deep as a sequence has pages
    const auto take_children = [&](Node& node) {
      for (auto& child : node.children) all.push_back(std::move(child.second));
      node.children.clear();
    };
    take_children(root_);
    leaves_.clear();
    while (!all.empty()) {
      const std::unique_ptr<Node> node = std::move(all.back());
      all.pop_back();
      take_children(*node);
      while (node->size() > 0) drop_last_page(*node);
    }
  }

  Index pages() const { return pages_; }  ///< that it holds, of each group
  const PrefixStatistics& statistics() const { return statistics_; }

 private:
  using Key = std::span<const Token>;  // the first page of an edge, in the node's own tokens
  struct Less {
    bool operator()(Key a, Key b) const { return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end()); }
  };
  /// An edge of the tree, and where it leads.
  struct Node {
    std::vector<Token> tokens = {};  // whole pages
    std::vector<Index> held = {};    // [pages][groups]
    std::map<Key, std::unique_ptr<Node>, Less> children = {};
    Node* parent = nullptr;
    Index pins = 0, used = 0, page_count = 0;

    Index size() const { return page_count; }
    Key key(Index page_size) const { return Key(tokens).first(static_cast<std::size_t>(page_size)); }
    Index page(Index page, Index group, Index groups) const {
      return held[static_cast<std::size_t>(page * groups + group)];
    }
  };
  struct Step {
    Node* node;
    Index tokens;  // of its edge
  };
  struct Found {
    std::vector<Step> path = {};
    Index tokens = 0;
  };

  std::size_t unsigned_page() const { return static_cast<std::size_t>(page_size_); }
  std::size_t cache_layers() const {
    std::size_t layers = 0;
    for (Index g = 0; g < cache_.groups(); ++g) layers += static_cast<std::size_t>(cache_.shape(g).layers);
    return layers;
  }
  static Index common(Key a, Key b) {
    const std::size_t size = std::min(a.size(), b.size());
    return std::mismatch(a.begin(), a.begin() + static_cast<Index>(size), b.begin()).first - a.begin();
  }

  /// The longest known prefix, to the token.
  Found find(std::span<const Token> tokens) const {
    Found found;
    const Node* node = &root_;
    while (!tokens.empty() && !node->children.empty()) {
      // The edge that has most in common with the tokens is one of the two neighbours of where they would be.
      const Key key = tokens.first(std::min(tokens.size(), unsigned_page()));
      auto at = node->children.lower_bound(key);
      const Index here = at == node->children.end() ? 0 : common(at->first, key);
      if (here < page_size_ && at != node->children.begin()) {
        const auto before = std::prev(at);
        if (common(before->first, key) > here) at = before;
      }
      if (at == node->children.end()) break;
      Node* const child = at->second.get();
      const Index same = common(child->tokens, tokens);
      if (same == 0) break;
      found.path.push_back({child, same});
      found.tokens += same;
      if (same < child->size() * page_size_) break;
      tokens = tokens.subspan(static_cast<std::size_t>(same));
      node = child;
    }
    return found;
  }

  /// The node that ends where the known pages of `tokens` (whole pages) end: made by a split, if need be.
  std::pair<Node*, Index> place(std::span<const Token> tokens) {
    const Found found = find(tokens);
    Node* node = &root_;
    Index known = 0;
    for (const Step& step : found.path) {
      const Index pages = step.tokens / page_size_;
      if (pages == 0) break;
      node = pages < step.node->size() ? split(*step.node, pages) : step.node;
      known += pages * page_size_;
    }
    return {node, known};
  }

  /// Cuts an edge behind `pages`; returns the new node for what is before.
  Node* split(Node& node, Index pages) {
    auto upper = std::make_unique<Node>();
    Node* const result = upper.get();
    const auto at = static_cast<std::size_t>(pages * page_size_);
    const auto held = static_cast<std::size_t>(pages * cache_.groups());
    auto lower = std::vector<Token>(node.tokens.begin() + pages * page_size_, node.tokens.end());
    auto lower_held = std::vector<Index>(node.held.begin() + pages * cache_.groups(), node.held.end());
    upper->parent = node.parent;
    upper->used = node.used;
    upper->page_count = pages;
    auto handle = unkeyed(node);
    upper->tokens = std::move(node.tokens);
    upper->tokens.resize(at);
    upper->held = std::move(node.held);
    upper->held.resize(held);
    node.tokens = std::move(lower);
    node.held = std::move(lower_held);
    node.page_count -= pages;
    node.parent = result;
    upper->children.emplace(node.key(page_size_), std::move(handle));
    upper->parent->children.emplace(upper->key(page_size_), std::move(upper));
    return result;
  }

  /// Takes a node out of its parent while its tokens move.
  std::unique_ptr<Node> unkeyed(Node& node) {
    auto handle = node.parent->children.extract(node.key(page_size_));
    return std::move(handle.mapped());
  }
  void rekey(std::unique_ptr<Node> handle, Node& node) {
    node.parent->children.emplace(node.key(page_size_), std::move(handle));
  }

  /// Adds the pages of tokens[known, …) to the end of an edge, holding them.
  void fill(Node& node, std::span<const Token> tokens, Index known, const SequenceState& s) {
    node.tokens.insert(node.tokens.end(), tokens.begin() + known, tokens.end());
    for (Index page = known / page_size_; page < static_cast<Index>(tokens.size()) / page_size_; ++page) {
      for (Index g = 0; g < cache_.groups(); ++g) {
        const Index number = s.tables[static_cast<std::size_t>(g)][page];
        node.held.push_back(number);
        cache_.pool(g).hold(number);
      }
      ++node.page_count;
    }
  }

  bool unreferenced(const Node& node) const {
    for (Index g = 0; g < cache_.groups(); ++g)
      if (cache_.pool(g).shared(node.page(node.size() - 1, g, cache_.groups()))) return false;
    return true;
  }
  /// The key stays valid: dropping does not move what is before it, and the first page goes last, with the node.
  void drop_last_page(Node& node) {
    for (Index g = 0; g < cache_.groups(); ++g) cache_.pool(g).release(node.page(node.size() - 1, g, cache_.groups()));
    --node.page_count;
    --pages_;
    node.held.resize(static_cast<std::size_t>(node.size() * cache_.groups()));
    if (node.size() > 0) node.tokens.resize(static_cast<std::size_t>(node.size() * page_size_));
  }

  void touch(Node& node) {
    const auto leaf = leaves_.extract({node.used, &node});
    node.used = ++clock_;
    if (!leaf.empty()) leaves_.insert({node.used, &node});
  }

  PagedCache<T>& cache_;
  Index page_size_;
  Node root_;
  std::set<std::pair<Index, Node*>> leaves_;  // by last use
  Index clock_ = 0, pages_ = 0;
  PrefixStatistics statistics_;
};

}  // namespace longspan::inline LONGSPAN_ISA
