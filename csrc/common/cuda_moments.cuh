// Mean and sum of squared deviations, updated by Welford's rule and merged by Chan's, without raw sums of squares.
// The mean is stored as base + mean, where base is one of the values. A large mean then costs no precision, because
// differences of bases are exact and the rest is small.
#pragma once
#include "cuda_language.cuh"

namespace fi {

struct Moments {
  float count = 0, base = 0, mean = 0, m2 = 0;
};

// Adds a value (minus base). inverse is 1 / (count including it), shared by eight channels.
__device__ __forceinline__ void add_value(float& mean, float& m2, float value, float inverse) {
  float before = value - mean;
  mean += before * inverse;
  m2 += before * (value - mean);
}

__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  Moments result;
  result.count = a.count + b.count;
  result.base = a.base;
  float weight = b.count / result.count, apart = (b.base - a.base) + (b.mean - a.mean);
  result.mean = a.mean + apart * weight;
  result.m2 = a.m2 + b.m2 + apart * apart * a.count * weight;
  return result;
}

}  // namespace fi
