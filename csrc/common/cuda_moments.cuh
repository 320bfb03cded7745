// Mean and sum of squared deviations of a set of values, updated by Welford's rule and merged by Chan's: never a raw
// sum of squares, so a mean of a thousand deviations costs no precision.
#pragma once
#include "cuda_language.cuh"

namespace fi {

struct Moments {
  float count = 0, mean = 0, m2 = 0;
};

// One more value; inverse is 1 / (count with it), which eight channels share.
__device__ __forceinline__ void add_value(float& mean, float& m2, float value, float inverse) {
  float before = value - mean;
  mean += before * inverse;
  m2 += before * (value - mean);
}

__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
  Moments result;
  result.count = a.count + b.count;
  if (result.count == 0) return result;
  float weight = b.count / result.count, apart = b.mean - a.mean;
  result.mean = a.mean + apart * weight;
  result.m2 = a.m2 + b.m2 + apart * apart * a.count * weight;
  return result;
}

}  // namespace fi
