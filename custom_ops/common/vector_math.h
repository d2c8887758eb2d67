// Elementary functions on vectors, written with the type Simd, which is named before this file is included.
// The polynomials are least-maximum fits made for these intervals; errors against float64 are below 2 ulp.
#ifndef EDGECONV_COMMON_VECTOR_MATH_H_
#define EDGECONV_COMMON_VECTOR_MATH_H_

namespace {

// max(0, a), and NaN where `a` is NaN.
inline Simd::Float clamp_at_zero(Simd::Float a) { return Simd::select_less(a, Simd::zero(), Simd::zero(), a); }

// To the nearest integer, for |a| < 2^22.
inline Simd::Float round_to_integer(Simd::Float a) {
  const Simd::Float magic = Simd::set(0x1.8p23f);
  return Simd::sub(Simd::add(a, magic), magic);
}

// exp(a) = 2^n * exp(r) with n = round(a / ln 2) and |r| <= ln 2 / 2. NaN stays NaN; too large gives infinity, too
// small gives 0 by way of the subnormals.
inline Simd::Float exponential(Simd::Float a) {
  // Beyond these bounds the result is infinity or 0 already. Both comparisons are false for NaN, which passes.
  a = Simd::select_less(Simd::set(89.0f), a, Simd::set(89.0f), a);
  a = Simd::select_less(a, Simd::set(-104.5f), Simd::set(-104.5f), a);
  const Simd::Float n = round_to_integer(Simd::mul(a, Simd::set(0x1.715476p+0f)));
  // ln 2 in two parts: n * 0x1.62e4p-1 is exact.
  Simd::Float r = Simd::fma(n, Simd::set(-0x1.62e4p-1f), a);
  r = Simd::fma(n, Simd::set(-0x1.7f7d1cp-20f), r);
  Simd::Float p = Simd::set(1.3814466074e-3f);
  p = Simd::fma(p, r, Simd::set(8.3687808365e-3f));
  p = Simd::fma(p, r, Simd::set(4.1668392718e-2f));
  p = Simd::fma(p, r, Simd::set(1.6666519642e-1f));
  p = Simd::fma(p, r, Simd::set(4.9999994040e-1f));
  p = Simd::add(Simd::fma(Simd::mul(r, r), p, r), Simd::set(1.0f));
  return Simd::times_power_of_two(p, n);
}

// tanh(a): an odd polynomial near 0, and 1 - 2 / (exp(2|a|) + 1) elsewhere.
inline Simd::Float hyperbolic_tangent(Simd::Float a) {
  const Simd::Float magnitude = Simd::abs(a);
  const Simd::Float square = Simd::mul(a, a);
  Simd::Float p = Simd::set(-5.6483093649e-3f);
  p = Simd::fma(p, square, Simd::set(2.0589819178e-2f));
  p = Simd::fma(p, square, Simd::set(-5.3725123405e-2f));
  p = Simd::fma(p, square, Simd::set(1.3331274688e-1f));
  p = Simd::fma(p, square, Simd::set(-3.3333274722e-1f));
  const Simd::Float small = Simd::fma(Simd::mul(p, square), a, a);
  const Simd::Float e = exponential(Simd::add(magnitude, magnitude));
  const Simd::Float one = Simd::set(1.0f);
  const Simd::Float large = Simd::sub(one, Simd::div(Simd::set(2.0f), Simd::add(e, one)));
  return Simd::select_less(magnitude, Simd::set(0.625f), small, Simd::copy_sign(large, a));
}

// a^exponent by repeated squaring, exponent >= 1.
inline Simd::Float integer_power(Simd::Float a, int64_t exponent) {
  if (exponent == 3) return Simd::mul(Simd::mul(a, a), a);
  while ((exponent & 1) == 0) {
    a = Simd::mul(a, a);
    exponent >>= 1;
  }
  Simd::Float result = a;
  while (exponent >>= 1) {
    a = Simd::mul(a, a);
    if (exponent & 1) result = Simd::mul(result, a);
  }
  return result;
}

}  // namespace

#endif  // EDGECONV_COMMON_VECTOR_MATH_H_
