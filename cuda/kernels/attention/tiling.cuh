#pragma once

// How a thread block is divided, and what lies where in its shared memory.

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/attention/math.cuh"

namespace pagedkv::cuda::attention {

inline constexpr int kWarp = 32;
/// Tokens of one step of a warp: the terms of one mma.
inline constexpr int kStepTokens = 16;
/// A warp leaves out dims that there are not, so many at a time: what is in between is zeros. Loads
/// of one time hide behind one another, which they would not with a branch each.
inline constexpr int kDimsAtATime = 64;

/// The numbers of one variant of the kernel.
///
/// A thread block works on a tile of query rows, 16 a warp, all of one head of keys and values. Its
/// warps stand in `kTeams` teams that take turns at the tiles of tokens. A team is one warp that
/// waits for no other (decode), or is the whole block: `kRowWarps` with different rows, times
/// `kDimWarps` with the same rows and different dims of the values.
template <class MathT, class CacheT, int keys, int values, int row_warps, int dim_warps, int teams,
          int tokens, int stages>
struct Tiling {
  using Math = MathT;
  using Stored = CacheT;
  static constexpr int kKeyDims = keys;  ///< room for; MLA's two parts together
  static constexpr int kValueDims = values;
  static constexpr bool kValuesAreKeys = keys > values;  ///< MLA: the first part of them
  static constexpr int kRowWarps = row_warps;
  static constexpr int kDimWarps = dim_warps;
  static constexpr int kTeams = teams;
  static constexpr int kTokens = tokens;  ///< a tile of tokens, of one team
  static constexpr int kStages = stages;  ///< tiles of tokens in shared memory, of one team

  static constexpr int kTeamWarps = kRowWarps * kDimWarps;
  static constexpr int kTeamThreads = kTeamWarps * kWarp;
  static constexpr int kThreads = kTeams * kTeamThreads;
  static constexpr int kRows = 16 * kRowWarps;
  static constexpr int kWarpDims = kValueDims / kDimWarps;
  static constexpr int kKeySteps = kKeyDims / 16;
  static constexpr int kDimGroups = kWarpDims / 32;
  /// Tokens of one round of all teams: the unit in which work is counted.
  static constexpr int kRoundTokens = kTeams * kTokens;

  static_assert(kTeams == 1 || kTeamWarps == 1, "a team is a warp, or all");
  static_assert(kTokens % kStepTokens == 0 && kTokens <= kWarp, "a lane looks one token up");
  static_assert(kWarpDims % 32 == 0 && kKeyDims % kDimsAtATime == 0);

  /// Registers hold queries of up to 128 dims beside the sums; others stay in shared memory.
  static constexpr bool kKeepsQueries = Math::kKeepsQueries && kKeyDims <= 128;
  /// 16 rows by 16 dims of queries.
  static constexpr int kQueryStep = 16 * 16 * Math::kElementBytes;
  // Rows are padded so that the loads of a warp fall into different banks: it reads quads of eight
  // neighbouring rows of keys, of every other row of values.
  static constexpr int kKeyStride = kKeyDims * Stored::kMostBytes + 16 * Stored::kMostBytes;
  static constexpr int kValueStride =
      kValuesAreKeys ? kKeyStride : kValueDims * Stored::kMostBytes + 16;

  static constexpr int kKeyTile = kTokens * kKeyStride;
  static constexpr int kValueTile = kValuesAreKeys ? 0 : kTokens * kValueStride;
  /// Keys, values, and for each token a factor of either, and its position.
  static constexpr int kStage = kKeyTile + kValueTile + 3 * 4 * kTokens;
};

/// Where the rows of a token begin in the caches.
struct Source {
  const std::byte* k;  ///< null: there is no such token
  const std::byte* v;
  const std::byte* k_rope;
};

/// What is known of a query row of the tile.
struct Row {
  float score_factor;  ///< of its products, to be in units of log2
  float slope;         ///< ALiBi, likewise
  int position;        ///< in its sequence
  int token;           ///< of the call; -1: there is no such row
  int head;
};

/// What the kernel has in shared memory beside `Tiling::kStage`s, by offset.
template <class T>
struct SharedLayout {
  static constexpr int kRowsAt = 0;
  static constexpr int kSources = kRowsAt + T::kRows * static_cast<int>(sizeof(Row) + 4) / 8 * 8;
  static constexpr int kSums = kSources + T::kTeams * T::kTokens * static_cast<int>(sizeof(Source));
  static constexpr int kScratch = kSums + T::kThreads * 8;
  static constexpr int kItem = kScratch + 64;
  static constexpr int kQueryBytes = T::kRowWarps * T::kKeySteps * T::kQueryStep;
  static constexpr int kUnkept = (kItem + 96 + 127) / 128 * 128;
  /// Queries that are kept in registers lie where the tiles will, before those come.
  static constexpr int kStages = kUnkept + (T::kKeepsQueries ? 0 : kQueryBytes);
  static constexpr int kQueries = kUnkept;
  static constexpr int kStageBytes = T::kTeams * T::kStages * T::kStage;
  /// Teams exchange what they have where the tiles were: sums of values, then three floats a row.
  static constexpr int kExchange = T::kTeams > 1 ? T::kTeams * 16 * (T::kValueDims + 4 + 3) * 4 : 0;
  static constexpr int kMost = kStageBytes > kExchange ? kStageBytes : kExchange;
  static constexpr int kBytes =
      kStages + (T::kKeepsQueries && kQueryBytes > kMost ? kQueryBytes : kMost);
};

}  // namespace pagedkv::cuda::attention
