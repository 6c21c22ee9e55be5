#pragma once
#include <list>
#include <unordered_map>
#include <optional>
#include <string>
#include <string_view>
#include "pagedkv/core/block_allocator.hpp"
namespace pagedkv::inline v0_1 {
enum class EvictionKind : std::uint8_t { lru };
inline std::optional<EvictionKind> parse_eviction_kind(std::string_view n){ if(n=="lru") return EvictionKind::lru; return std::nullopt;}
inline std::string eviction_kind_names(){return "lru";}
class EvictionQueue {
  std::list<BlockId> q_; std::unordered_map<BlockId,std::list<BlockId>::iterator> at_; std::list<BlockId> aside_;
 public:
  EvictionQueue(EvictionKind, std::size_t){}
  void insert(BlockId,std::uint32_t,std::uint32_t){}
  void hit(BlockId){}
  void acquire(BlockId b){ drop(b);} void drop(BlockId b){auto i=at_.find(b); if(i!=at_.end()){q_.erase(i->second);at_.erase(i);} }
  void release(BlockId b){ q_.push_back(b); at_[b]=std::prev(q_.end()); }
  void remove(BlockId b){drop(b);}
  template<class P> std::optional<BlockId> victim(P p){ for(auto b:q_) if(p(b)){drop(b);return b;} return std::nullopt; }
  void move(BlockId f,BlockId t){ auto i=at_.find(f); if(i!=at_.end()){*i->second=t; at_[t]=i->second; at_.erase(f);} }
  void reconsider(BlockId){}
  std::size_t evictable_count() const {return q_.size();}
  std::size_t memory_bytes() const {return 0;}
};
}
