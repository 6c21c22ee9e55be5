#pragma once

// A manager with the memory that it manages: what a batch asks for is done, and what its sequences
// would read is checked.

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "manager_batch_checks.hpp"
#include "manager_model.hpp"

namespace pagedkv_fuzz {

template <class Hash>
class ManagerWorld {
 public:
  using Manager = pagedkv::BasicKVCacheManager<Hash>;

  ManagerWorld(const pagedkv::ManagerOptions& options, Hash hash)
      : manager(options, hash),
        device_(options.num_blocks, slots(manager.options().groups)),
        host_(options.num_host_blocks, slots(manager.options().groups)) {}

  Manager manager;

  [[nodiscard]] const std::vector<pagedkv::GroupSpec>& groups() const {
    return manager.options().groups;
  }
  [[nodiscard]] bool has(pagedkv::GroupKind kind) const {
    return std::ranges::any_of(groups(), [&](const auto& spec) { return spec.kind == kind; });
  }

  /// Does a step: the copies of `batch`, then the tokens of each row, `content(g, i, p)` being what
  /// group `g` computes for row `i` at position `p`. Then checks what the rows have read.
  template <class Content>
  void run(const pagedkv::Batch& batch, const std::vector<Row>& rows, Content content) {
    for (std::size_t g = 0; g < groups().size(); ++g) {
      for (const auto& copy : batch[g].copies) device_.copy_block(device_, copy.src, copy.dst);
    }
    for (std::size_t g = 0; g < groups().size(); ++g) {
      if (groups()[g].kind == pagedkv::GroupKind::ssm) {
        advance_states(g, batch, rows);
      } else {
        write_tokens(g, batch, rows, content);
      }
    }
    for (std::size_t g = 0; g < groups().size(); ++g) {
      if (groups()[g].kind != pagedkv::GroupKind::ssm) check_readable(g, batch, rows);
    }
  }

  void move_slots(std::size_t g, std::span<const pagedkv::SlotMove> moves) {
    for (const auto& move : moves) slot(g, move.to) = slot(g, move.from);
  }
  void copy_blocks(std::span<const pagedkv::BlockCopy> copies) {
    for (const auto& copy : copies) device_.copy_block(device_, copy.src, copy.dst);
  }
  void copy_out(std::span<const pagedkv::BlockCopy> copies) {
    for (const auto& copy : copies) host_.copy_block(device_, copy.src, copy.dst);
  }
  void copy_in(std::span<const pagedkv::BlockCopy> copies) {
    for (const auto& copy : copies) device_.copy_block(host_, copy.src, copy.dst);
  }

  /// A slot whose content must not change while a lease holds it.
  struct Held {
    std::int32_t block;
    std::size_t offset;
    std::uint64_t content;
  };
  [[nodiscard]] std::vector<Held> committed_slots(const ModelSequence& s, std::size_t num_tokens) {
    std::vector<Held> held;
    for (std::size_t g = 0; g < groups().size(); ++g) {
      const auto blocks = manager.block_ids(s.id, g);
      if (groups()[g].kind == pagedkv::GroupKind::ssm) {
        if (num_tokens == 0 || num_tokens != s.scheduled) continue;  // a checkpoint
        held.push_back({blocks.at(0), 0, s.text.content(g, num_tokens - 1)});
        continue;
      }
      const std::size_t size = groups()[g].block_size;
      for (std::size_t p = 0; p < std::min(num_tokens, s.committed); ++p) {
        if (p / size >= blocks.size() || blocks[p / size] == -1) continue;
        held.push_back({blocks[p / size], p % size, s.text.content(g, p)});
      }
    }
    return held;
  }
  void check_held(const std::vector<Held>& held) {
    for (const Held& h : held) PAGEDKV_FUZZ_CHECK(device_.at(h.block, h.offset) == h.content);
  }

  /// Every stored prefix is new and every removed one was there.
  void check_events() {
    for (const auto& event : manager.take_events()) {
      const auto entry = std::pair(event.group, event.hash);
      const bool is_new = event.kind == pagedkv::CacheEvent::Kind::stored;
      PAGEDKV_FUZZ_CHECK(is_new ? stored_.insert(entry).second : stored_.erase(entry) == 1);
    }
  }
  [[nodiscard]] std::size_t num_stored() const { return stored_.size(); }

 private:
  static std::size_t slots(const std::vector<pagedkv::GroupSpec>& groups) {
    std::size_t most = 1;
    for (const auto& spec : groups) most = std::max(most, spec.block_size);
    return most;
  }

  std::uint64_t& slot(std::size_t g, std::int64_t index) {
    const auto size = static_cast<std::int64_t>(groups()[g].block_size);
    PAGEDKV_FUZZ_CHECK(index >= 0);
    return device_.at(static_cast<std::int32_t>(index / size),
                      static_cast<std::size_t>(index % size));
  }

  template <class Content>
  void write_tokens(std::size_t g, const pagedkv::Batch& batch, const std::vector<Row>& rows,
                    Content content) {
    std::size_t at = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      for (std::size_t p = rows[i].begin(); p < rows[i].sequence->scheduled; ++p) {
        slot(g, batch[g].slot_mapping[at++]) = content(g, i, p);
      }
    }
  }

  /// A state goes on from what was computed before, or from zero.
  void advance_states(std::size_t g, const pagedkv::Batch& batch, const std::vector<Row>& rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].count == 0) continue;
      const Text& text = rows[i].sequence->text;
      std::uint64_t& state = device_.at(batch[g].state_slots[i], 0);
      PAGEDKV_FUZZ_CHECK(rows[i].begin() == 0 || state == text.content(g, rows[i].begin() - 1));
      state = text.content(g, rows[i].sequence->scheduled - 1);
    }
  }

  /// What the first new token of each row sees is what its sequence computed.
  void check_readable(std::size_t g, const pagedkv::Batch& batch, const std::vector<Row>& rows) {
    const auto& spec = groups()[g];
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].count == 0) continue;
      const auto* table = batch[g].block_tables.data() + i * batch.max_blocks_per_seq();
      const std::size_t begin = rows[i].begin(), visible = spec.first_visible(begin);
      for (std::size_t p = 0; p < begin; ++p) {
        if (p < visible && p >= spec.sink_tokens) continue;
        const std::int32_t block = table[p / spec.block_size];
        PAGEDKV_FUZZ_CHECK(block != batch.padding());
        PAGEDKV_FUZZ_CHECK(device_.at(block, p % spec.block_size) ==
                           rows[i].sequence->text.content(g, p));
      }
    }
  }

  SlotMemory device_;
  SlotMemory host_;
  std::set<std::pair<std::uint32_t, std::array<std::uint8_t, 32>>> stored_;
};

}  // namespace pagedkv_fuzz
