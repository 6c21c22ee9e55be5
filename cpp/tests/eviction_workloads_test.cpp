// Policies over a small prefix cache: what they are good for, and that our own never costs much.

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pagedkv/core/eviction/eviction_queue.hpp"

namespace {

using namespace pagedkv;
using Prompt = std::vector<std::uint32_t>;  // one number a block: equal numbers, equal prefixes

/// A prefix index that serves one prompt at a time.
class PrefixCache {
 public:
  PrefixCache(EvictionKind kind, std::size_t capacity)
      : queue_(kind, capacity), blocks_(capacity) {}

  void serve(const Prompt& prompt) {
    std::vector<BlockId> chain;
    for (const std::uint32_t content : prompt) {
      const auto found = index_.find(content);
      if (found == index_.end()) break;
      queue_.hit(found->second);
      queue_.acquire(found->second);
      chain.push_back(found->second);
    }
    hits_ += chain.size();
    wanted_ += prompt.size();
    while (chain.size() < prompt.size()) add(prompt, chain);
    for (std::size_t i = chain.size(); i-- > 0;) {
      queue_.release(chain[i], blocks_[chain[i]].children == 0);
    }
  }

  [[nodiscard]] double hit_rate() const {
    return static_cast<double>(hits_) / static_cast<double>(wanted_);
  }
  /// Contents in the order of their eviction.
  [[nodiscard]] const std::vector<std::uint32_t>& evicted() const { return evicted_; }

 private:
  struct Block {
    std::uint32_t content = 0;
    std::optional<BlockId> parent;
    std::optional<BlockId> last_child;
    std::size_t children = 0;
  };

  void add(const Prompt& prompt, std::vector<BlockId>& chain) {
    const BlockId b = used_ < blocks_.size() ? static_cast<BlockId>(used_++) : evict();
    Block& block = blocks_[b];
    block = {.content = prompt[chain.size()], .parent = {}, .last_child = {}};
    if (!chain.empty()) {
      block.parent = chain.back();
      Block& parent = blocks_[chain.back()];
      if (parent.children == 1) supersede(parent.last_child);
      parent.last_child = b;
      ++parent.children;
    }
    index_[block.content] = b;
    queue_.insert(b, block.content * 2654435761u, static_cast<std::uint32_t>(chain.size()));
    chain.push_back(b);
  }

  void supersede(std::optional<BlockId> b) {
    for (; b && index_.contains(blocks_[*b].content); b = blocks_[*b].last_child) {
      queue_.supersede(*b);
      if (blocks_[*b].children == 0) return;
    }
  }

  BlockId evict() {
    const BlockId b = queue_.victim([&](BlockId v) { return blocks_[v].children == 0; }).value();
    evicted_.push_back(blocks_[b].content);
    index_.erase(blocks_[b].content);
    if (const auto parent = blocks_[b].parent) {
      if (blocks_[*parent].last_child == b) blocks_[*parent].last_child.reset();
      if (--blocks_[*parent].children == 0) queue_.reconsider(*parent);
    }
    return b;
  }

  EvictionQueue queue_;
  std::vector<Block> blocks_;
  std::unordered_map<std::uint32_t, BlockId> index_;
  std::vector<std::uint32_t> evicted_;
  std::size_t used_ = 0;
  std::size_t hits_ = 0;
  std::size_t wanted_ = 0;
};

/// Prompts of one kind of service; `fresh` numbers contents that were never seen.
class Workload {
 public:
  explicit Workload(unsigned seed) : random_(seed) {}
  [[nodiscard]] const std::vector<Prompt>& prompts() const { return prompts_; }

  /// Questions about documents, the first much more often than the last.
  void documents(std::size_t num_documents, int num_prompts) {
    std::vector<Prompt> documents(num_documents);
    for (Prompt& document : documents) grow(document, between(5, 15));
    for (int i = 0; i < num_prompts; ++i) {
      const double u = uniform();
      Prompt prompt =
          documents[static_cast<std::size_t>(u * u * u * static_cast<double>(num_documents))];
      grow(prompt, between(1, 3));
      prompts_.push_back(std::move(prompt));
    }
  }

  /// Prompts that come once, each after some others.
  void scans_between(int length) {
    std::vector<Prompt> mixed;
    for (Prompt& prompt : prompts_) {
      mixed.push_back(std::move(prompt));
      grow(mixed.emplace_back(), length);
    }
    prompts_ = std::move(mixed);
  }

  /// Sessions that come in turns, over and over.
  void loop(std::size_t num_sessions, int length, int rounds) {
    std::vector<Prompt> sessions(num_sessions);
    for (Prompt& session : sessions) grow(session, length);
    for (int round = 0; round < rounds; ++round) {
      prompts_.insert(prompts_.end(), sessions.begin(), sessions.end());
    }
  }

  /// Chats behind one system prompt; each goes on with the probability `again`, sooner or later.
  void chats(int num_prompts, double again, double delay) {
    Prompt system;
    grow(system, 3);
    std::multimap<double, Prompt> waiting;
    for (int now = 0; now < num_prompts; ++now) {
      Prompt prompt = system;
      if (!waiting.empty() && waiting.begin()->first <= now) {
        prompt = std::move(waiting.extract(waiting.begin()).mapped());
      }
      grow(prompt, between(2, 10));
      if (uniform() < again) waiting.emplace(now + delay * -std::log(1 - uniform()), prompt);
      grow(prompt, 1);  // a last block that is not full: the next turn fills it with something else
      prompts_.push_back(std::move(prompt));
    }
  }

  /// The more recently a prompt was used, the sooner it comes again: nothing is better than LRU.
  void recency(int num_prompts) {
    std::deque<Prompt> stack;
    for (int i = 0; i < num_prompts; ++i) {
      const double u = -std::log(1 - uniform());
      const auto distance = static_cast<std::size_t>(u * u * 20);
      Prompt prompt;
      if (distance < stack.size() && uniform() < 0.85) {
        prompt = stack[distance];
        stack.erase(stack.begin() + static_cast<std::ptrdiff_t>(distance));
      } else {
        grow(prompt, between(3, 12));
      }
      prompts_.push_back(prompt);
      stack.push_front(std::move(prompt));
    }
  }

 private:
  void grow(Prompt& prompt, int length) {
    for (int i = 0; i < length; ++i) prompt.push_back(fresh_++);
  }
  int between(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<unsigned>(most - least + 1));
  }
  double uniform() { return static_cast<double>(random_()) / 4294967296.0; }

  std::mt19937 random_;
  std::uint32_t fresh_ = 0;
  std::vector<Prompt> prompts_;
};

double hit_rate(EvictionKind kind, std::size_t capacity, const Workload& workload) {
  PrefixCache cache(kind, capacity);
  for (const Prompt& prompt : workload.prompts()) cache.serve(prompt);
  return cache.hit_rate();
}

/// Lifetable's hit rate against that of LRU, over two seeds.
template <class Build>
void expect_gain(double least, std::size_t capacity, Build build) {
  for (unsigned seed = 1; seed <= 2; ++seed) {
    Workload workload(seed);
    build(workload);
    const double lru = hit_rate(EvictionKind::lru, capacity, workload);
    const double own = hit_rate(EvictionKind::lifetable, capacity, workload);
    EXPECT_GE(own, lru * least) << "seed " << seed << ", capacity " << capacity << ": LRU " << lru
                                << ", lifetable " << own;
  }
}

TEST(LifetableAgainstLru, KeepsWhatIsSharedThroughScans) {
  expect_gain(1.5, 1000, [](Workload& workload) {
    workload.documents(150, 2000);
    workload.scans_between(20);
  });
}

TEST(LifetableAgainstLru, KeepsPartOfALoopThatDoesNotFit) {
  expect_gain(3, 1000, [](Workload& workload) { workload.loop(120, 10, 40); });
}

TEST(LifetableAgainstLru, FindsTheDocumentsThatAreAskedAboutMost) {
  expect_gain(1.1, 800, [](Workload& workload) { workload.documents(400, 4000); });
}

TEST(LifetableAgainstLru, KeepsChatsThatGoOn) {
  expect_gain(1.02, 600, [](Workload& workload) { workload.chats(4000, 0.6, 60); });
}

TEST(LifetableAgainstLru, LosesNextToNothingWhereLruIsBest) {
  for (const std::size_t capacity : {200, 400, 1500}) {
    expect_gain(0.99, capacity, [](Workload& workload) { workload.recency(5000); });
  }
}

TEST(LifetableAgainstLru, LosesNextToNothingWhereAllFits) {
  expect_gain(0.99, 30000, [](Workload& workload) { workload.chats(2000, 0.7, 30); });
}

TEST(LifetableAgainstLru, FollowsWorkThatChanges) {
  expect_gain(1, 800, [](Workload& workload) {
    for (int i = 0; i < 6; ++i) workload.documents(120, 800);
  });
}

TEST(Eviction, FollowsFromTheCallsAlone) {
  for (const auto kind : {EvictionKind::lru, EvictionKind::lfu, EvictionKind::fifo,
                          EvictionKind::s3fifo, EvictionKind::lifetable}) {
    Workload workload(7);
    workload.chats(1000, 0.6, 40);
    PrefixCache first(kind, 500);
    PrefixCache second(kind, 500);
    for (const Prompt& prompt : workload.prompts()) first.serve(prompt);
    for (const Prompt& prompt : workload.prompts()) second.serve(prompt);
    EXPECT_EQ(first.evicted(), second.evicted()) << eviction_name(kind);
    EXPECT_FALSE(first.evicted().empty());
  }
}

TEST(Eviction, OfLifetableIsTheSameOnEveryMachine) {
  // A digest of which contents went, in order: integers alone decide, so it never differs.
  PrefixCache cache(EvictionKind::lifetable, 300);
  std::mt19937 random(11);  // its values are the standard's
  for (int i = 0; i < 5000; ++i) {
    const auto document = static_cast<std::uint32_t>(random() % 60 * (random() % 60) / 60);
    Prompt prompt;
    for (std::uint32_t k = 0; k < 5 + document % 7; ++k) prompt.push_back(document * 100 + k);
    prompt.push_back(1'000'000 + static_cast<std::uint32_t>(i));
    cache.serve(prompt);
  }
  std::uint64_t digest = 14695981039346656037u;
  for (const std::uint32_t content : cache.evicted()) digest = (digest ^ content) * 1099511628211u;
  EXPECT_EQ(digest, 14034233936873235700u);
}

}  // namespace
