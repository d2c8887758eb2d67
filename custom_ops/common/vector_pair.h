// An arithmetic (micro_kernel.h) on pairs of another one's vectors, for elements that are larger than their sums.
#ifndef EDGECONV_COMMON_VECTOR_PAIR_H_
#define EDGECONV_COMMON_VECTOR_PAIR_H_

namespace {

template <typename A, int lanes>
struct VectorPair {
  typedef typename A::Element Element;
  typedef typename A::Sum Sum;
  struct Vector {
    typename A::Vector low, high;
  };
  static constexpr bool kSumsOfMaxima = A::kSumsOfMaxima;
  const A half = A();

  static inline Vector zero() { return {A::zero(), A::zero()}; }
  static inline Vector set(Element value) {
    const typename A::Vector both = A::set(value);
    return {both, both};
  }
  template <typename T>
  static inline Vector load(const T* from) {
    return {A::load(from), A::load(from + lanes)};
  }
  static inline void store(Sum* to, Vector value) {
    A::store(to, value.low);
    A::store(to + lanes, value.high);
  }
  static inline Vector combine(Vector a, Vector b) { return {A::combine(a.low, b.low), A::combine(a.high, b.high)}; }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    return {half.accumulate(sum.low, x.low, w.low), half.accumulate(sum.high, x.high, w.high)};
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_VECTOR_PAIR_H_
