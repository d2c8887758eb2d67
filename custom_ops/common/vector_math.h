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

// tanh(a): an odd polynomial near 0, and e / (e + 2) with e = exp(2|a|) - 1 = 2^n (exp(r) - 1) + (2^n - 1) elsewhere.
inline Simd::Float hyperbolic_tangent(Simd::Float a) {
  const Simd::Float magnitude = Simd::abs(a);
  // Beyond 10 the result is 1; false for NaN, which passes.
  const Simd::Float x = Simd::select_less(Simd::set(10.0f), magnitude, Simd::set(10.0f), magnitude);
  const Simd::Float n = round_to_integer(Simd::mul(x, Simd::set(0x1.715476p+1f)));
  Simd::Float r = Simd::fma(n, Simd::set(-0x1.62e4p-1f), Simd::add(x, x));
  r = Simd::fma(n, Simd::set(-0x1.7f7d1cp-20f), r);
  Simd::Float p = Simd::set(1.3882514914e-3f);
  p = Simd::fma(p, r, Simd::set(8.3665475925e-3f));
  p = Simd::fma(p, r, Simd::set(4.1667200722e-2f));
  p = Simd::fma(p, r, Simd::set(1.6666543419e-1f));
  p = Simd::fma(p, r, Simd::set(4.9999998150e-1f));
  p = Simd::fma(Simd::mul(r, r), p, r);
  const Simd::Float power = Simd::times_power_of_two(Simd::set(1.0f), n);
  const Simd::Float e = Simd::fma(power, p, Simd::sub(power, Simd::set(1.0f)));
  const Simd::Float large = Simd::copy_sign(Simd::div(e, Simd::add(e, Simd::set(2.0f))), a);
  const Simd::Float square = Simd::mul(a, a);
  Simd::Float small = Simd::set(-5.0366231696e-2f);
  small = Simd::fma(small, square, Simd::set(1.3314831953e-1f));
  small = Simd::fma(small, square, Simd::set(-3.3333060805e-1f));
  small = Simd::fma(Simd::mul(small, square), a, a);
  return Simd::select_less(magnitude, Simd::set(0.3f), small, large);
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
