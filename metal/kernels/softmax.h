#pragma once

// Rows of results: the sum of weights times values, the largest score (their reference), and the
// sum of the weights e^(score - reference).

#include "metal/kernels/common.h"

/// What a row's sum of values is multiplied by, and its LSE.
struct Finished {
  float factor;
  float lse;
};

/// @param sink  score of a token without a value, -inf where there is none.
inline Finished finish_row(float reference, float sum, float sink) {
  Finished row;
  row.factor = sum > 0 || sum != sum ? 1.0f / sum : 0.0f;
  row.lse = reference + log(sum);
  if (reference == -INFINITY) row.lse = sum == sum ? -INFINITY : sum;
  const float highest = row.lse > sink ? row.lse : sink;
  if (sink != -INFINITY && highest != -INFINITY) {
    const float joined = highest + log(exp(row.lse - highest) + exp(sink - highest));
    row.factor *= exp(row.lse - joined);
    row.lse = joined;
  }
  return row;
}

/// e^(score - reference) for a reference that has seen something; else nothing is kept, but NaN.
inline float rescale_factor(float old_reference, float reference) {
  if (reference == -INFINITY) return 1.0f;
  return old_reference == -INFINITY ? 0.0f : exp(old_reference - reference);
}
