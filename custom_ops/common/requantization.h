// What every operator that gives 8-bit results of integer sums agrees on.
#ifndef EDGECONV_COMMON_REQUANTIZATION_H_
#define EDGECONV_COMMON_REQUANTIZATION_H_

#include <cmath>

// A factor from sums to steps, rounded to 22 bits, so that 1.5 * 2^23 times it is exact in float32: kernels may then
// take a sum with that added for a float, and one multiply-add gives what a conversion and a product would.
inline float edgeconv_multiplier(double value) {
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);
  return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(mantissa, 22)), exponent - 22));
}

#endif  // EDGECONV_COMMON_REQUANTIZATION_H_
