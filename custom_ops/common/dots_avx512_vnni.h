// Products of unsigned activations and signed 8-bit weights, four to a lane: AVX-512 VNNI. The operations are those of
// dots_baseline.h.
#ifndef EDGECONV_COMMON_DOTS_AVX512_VNNI_H_
#define EDGECONV_COMMON_DOTS_AVX512_VNNI_H_

#include "common/ints_avx512.h"

namespace {

struct DotsVnni {
  typedef uint8_t Element;
  typedef int8_t Weight;
  typedef __m512i Vector;
  typedef Ints16 Ints;
  typedef __m512i Int;
  typedef __m512 Float;
  static constexpr int kLanes = 16, kDepth = 4, kVectors = 4;
  static constexpr int kOffset = 0;
  static constexpr bool kBiased = true;
  static constexpr bool kTiles = false;
  struct Tiles {};
  static constexpr int kPositions[kVectors + 1] = {0, 12, 8, 8, 6};
  static constexpr int kTogether[kVectors + 1] = {0, 4, 2, 1, 1};

  struct Limits {
    __m512i zero_point, low, high;
    Limits(int zero, int least, int most)
        : zero_point(_mm512_set1_epi16(static_cast<int16_t>(zero))),
          low(_mm512_set1_epi8(static_cast<char>(least))),
          high(_mm512_set1_epi8(static_cast<char>(most))) {}
  };

  static inline Vector load(const Element* from) { return _mm512_loadu_si512(from); }
  static inline Vector load(const Weight* from) { return _mm512_loadu_si512(from); }
  static inline void store(Element* to, Vector value) { _mm512_storeu_si512(to, value); }
  static inline Vector set(Element value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static inline Vector broadcast(const Element* from) {
    int32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  // Through the intrinsic, GCC copies every sum and spills some of them in a full tile.
  static inline Int dot(Int sum, Vector x, Vector w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }

  static inline void interleave(const Element* const* rows, int64_t at, Vector* to) {
    const __m512i a = load(rows[0] + at), b = load(rows[1] + at), c = load(rows[2] + at), d = load(rows[3] + at);
    const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
    const __m512i ef = _mm512_unpackhi_epi8(a, b), gh = _mm512_unpackhi_epi8(c, d);
    to[0] = _mm512_unpacklo_epi16(ab, cd);
    to[1] = _mm512_unpackhi_epi16(ab, cd);
    to[2] = _mm512_unpacklo_epi16(ef, gh);
    to[3] = _mm512_unpackhi_epi16(ef, gh);
  }

  static inline Int round(Float value) { return _mm512_cvtps_epi32(value); }
  template <int vectors>
  static inline Vector narrow_biased(const Int* sums, const Float* multipliers, const Float* offsets) {
    __m512i steps[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      steps[v] = v >= vectors ? _mm512_setzero_si512()
                              : _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_castsi512_ps(sums[v % vectors]),
                                                                   multipliers[v % vectors], offsets[v % vectors]));
    }
    const __m512i a = _mm512_packs_epi32(steps[0], steps[1]);
    return _mm512_packus_epi16(a, vectors > 2 ? _mm512_packs_epi32(steps[2], steps[3]) : a);
  }
  // Without offsets: where the loads of them would cost more than one more operation.
  template <int vectors>
  static inline Vector narrow_biased(const Int* sums, const Float* multipliers) {
    const __m512 bias = _mm512_set1_ps(12582912.0f);
    __m512i steps[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      steps[v] = v >= vectors
                     ? _mm512_setzero_si512()
                     : _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(_mm512_castsi512_ps(sums[v % vectors]), bias),
                                                        multipliers[v % vectors]));
    }
    const __m512i a = _mm512_packs_epi32(steps[0], steps[1]);
    return _mm512_packus_epi16(a, vectors > 2 ? _mm512_packs_epi32(steps[2], steps[3]) : a);
  }
  template <int vectors>
  static inline Vector narrow(const Int* steps, const Limits& limits) {
    const __m512i zeros = _mm512_setzero_si512();
    const __m512i a =
        _mm512_adds_epi16(_mm512_packs_epi32(steps[0], vectors > 1 ? steps[1 % vectors] : zeros), limits.zero_point);
    const __m512i b =
        vectors > 2
            ? _mm512_adds_epi16(_mm512_packs_epi32(steps[2 % vectors], vectors > 3 ? steps[3 % vectors] : zeros),
                                limits.zero_point)
            : zeros;
    return _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(a, b), limits.low), limits.high);
  }
  // Dwords of the vector that hold the channels of `vectors` vectors, in order.
  template <int vectors>
  static inline Vector pack(Vector value) {
    if (vectors == 4) return value;
    const __m512i order = vectors == 3   ? _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0)
                          : vectors == 2 ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)
                                         : _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_permutexvar_epi32(order, value);
  }
  template <int vectors>
  static inline void store_packed(Element* to, Vector value) {
    const __m512i bytes = pack<vectors>(value);
    if (vectors == 4) return store(to, bytes);
    if (vectors == 3) {
      _mm512_mask_storeu_epi32(to, 0xfff, bytes);
    } else if (vectors == 2) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(bytes));
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(bytes));
    }
  }
  static inline Vector load_bytes(const uint8_t* from, int64_t count, uint8_t flip, int vectors) {
    const __mmask64 mask = count >= 64 ? ~0ull : (1ull << count) - 1;
    const __m512i bytes =
        _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, from), _mm512_set1_epi8(static_cast<char>(flip)));
    if (vectors == 4) return bytes;
    if (vectors == 3) {
      const __m512i order = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
      return _mm512_permutexvar_epi32(order, bytes);
    }
    if (vectors == 2) {
      const __m512i order = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
      return _mm512_permutexvar_epi64(order, bytes);
    }
    const __m512i order = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(order, bytes);
  }

  template <int vectors>
  static inline void store_bytes(uint8_t* to, Vector value, int64_t count, uint8_t flip) {
    const __m512i bytes = _mm512_xor_si512(value, _mm512_set1_epi8(static_cast<char>(flip)));
    if (count >= vectors * kLanes) return store_packed<vectors>(to, bytes);
    _mm512_mask_storeu_epi8(to, (1ull << count) - 1, pack<vectors>(bytes));
  }
  // The permutation between the order of sums and that of channels, for `positions` positions side by side.
  template <int vectors, int positions>
  static inline __m512i in_order() {
    if (positions == 2) return _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  }
  template <int vectors, int positions>
  static inline void store_positions(uint8_t* to, int64_t stride, Vector value, int64_t count, uint8_t flip) {
    if constexpr (positions == 1) {
      store_bytes<vectors>(to, value, count, flip);
    } else {
      constexpr int kBytes = vectors * kLanes;
      const __m512i bytes = _mm512_permutexvar_epi32(
          in_order<vectors, positions>(), _mm512_xor_si512(value, _mm512_set1_epi8(static_cast<char>(flip))));
      if (count >= kBytes && stride == kBytes) return _mm512_storeu_si512(to, bytes);
      const uint64_t mask = (count >= kBytes ? uint64_t{1} << kBytes : uint64_t{1} << count) - 1;
#pragma GCC unroll 4
      for (int p = 0; p < positions; ++p) {
        _mm512_mask_storeu_epi8(to + p * (stride - kBytes), mask << (p * kBytes), bytes);
      }
    }
  }
  template <int vectors, int positions>
  static inline void load_reals(const uint8_t* from, int64_t stride, int64_t count, uint8_t flip, Float zero_point,
                                Float* to) {
    constexpr int kBytes = vectors * kLanes, kAll = vectors * positions;
    __m512i bytes;
    if constexpr (positions == 1) {
      bytes = load_bytes(from, count < kBytes ? count : kBytes, flip, vectors);
    } else {
      const uint64_t mask = (count >= kBytes ? uint64_t{1} << kBytes : uint64_t{1} << count) - 1;
      bytes = _mm512_maskz_loadu_epi8(mask, from);
#pragma GCC unroll 4
      for (int p = 1; p < positions; ++p) {
        bytes = _mm512_mask_loadu_epi8(bytes, mask << (p * kBytes), from + p * (stride - kBytes));
      }
      bytes = _mm512_xor_si512(bytes, _mm512_set1_epi8(static_cast<char>(flip)));
      // The inverse: of two positions its own inverse but for a turn, of four itself.
      const __m512i order =
          positions == 2 ? _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15) : in_order<1, 4>();
      bytes = _mm512_permutexvar_epi32(order, bytes);
    }
    // The bytes become the last bits of 2^23.
    const __m512i zeros = _mm512_setzero_si512(), exponent = _mm512_set1_epi16(0x4b00);
    const __m512i low = _mm512_unpacklo_epi8(bytes, zeros), high = _mm512_unpackhi_epi8(bytes, zeros);
    const __m512 offset = _mm512_add_ps(zero_point, _mm512_set1_ps(8388608.0f));
    const auto real = [&](__m512i bits) { return _mm512_sub_ps(_mm512_castsi512_ps(bits), offset); };
    to[0] = real(_mm512_unpacklo_epi16(low, exponent));
    if (kAll > 1) to[1 % kAll] = real(_mm512_unpackhi_epi16(low, exponent));
    if (kAll > 2) to[2 % kAll] = real(_mm512_unpacklo_epi16(high, exponent));
    if (kAll > 3) to[3 % kAll] = real(_mm512_unpackhi_epi16(high, exponent));
  }
  static inline Float round_between(Float value, Float low, Float high) {
    return _mm512_roundscale_ps(_mm512_min_ps(_mm512_max_ps(value, low), high), 0);
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_DOTS_AVX512_VNNI_H_
