// Moving bytes into elements: four or eight bytes that a register tile takes together, as one integer, the first byte
// lowest. A file for an instruction set names one of these types Bytes before it includes byte_strips.h.
#ifndef EDGECONV_COMMON_BYTE_VECTORS_H_
#define EDGECONV_COMMON_BYTE_VECTORS_H_

#include <stdint.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

// Scratch of byte_strips.h: a row of the input as elements. Whole vectors are read.
constexpr int64_t kLineBytes = 1 << 16;
constexpr int64_t kLineSlack = 64;

struct PlainBytes {
  static constexpr bool kHasShuffle = false;

  // Elements of byte `at` + i of each plane, i < 16, every byte with the bits of `flip` flipped.
  template <typename Element>
  static inline void interleave(const uint8_t* const* planes, int64_t at, uint8_t flip, Element* to) {
    interleave_first(planes, at, 16, flip, to);
  }
  // The same for i < count.
  template <typename Element>
  static inline void interleave_first(const uint8_t* const* planes, int64_t at, int64_t count, uint8_t flip,
                                      Element* to) {
    for (int64_t i = 0; i < count; ++i) {
      Element element = 0;
      for (unsigned b = 0; b < sizeof(Element); ++b) {
        element |= static_cast<Element>(static_cast<uint8_t>(planes[b][at + i] ^ flip)) << (8 * b);
      }
      to[i] = element;
    }
  }

  // to[i] = from[shuffle[i]] of 16 bytes each, and 0 where shuffle[i] is 0x80. Only where kHasShuffle.
  static inline void shuffle(const uint8_t*, const uint8_t*, void*) {}
};

#if defined(__SSE2__)

struct SseBytes {
#ifdef __SSSE3__
  static constexpr bool kHasShuffle = true;
  static inline void shuffle(const uint8_t* from, const uint8_t* shuffle, void* to) {
    store(to, _mm_shuffle_epi8(load(from), load(shuffle)));
  }
#else
  static constexpr bool kHasShuffle = false;
  static inline void shuffle(const uint8_t*, const uint8_t*, void*) {}
#endif

  static inline __m128i load(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static inline void store(void* to, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(to), value); }

  // Pairs of bytes of two planes: positions 0 to 7, and 8 to 15.
  struct Pairs {
    __m128i low, high;
    Pairs(const uint8_t* a, const uint8_t* b, __m128i flip) {
      const __m128i x = _mm_xor_si128(load(a), flip), y = _mm_xor_si128(load(b), flip);
      low = _mm_unpacklo_epi8(x, y);
      high = _mm_unpackhi_epi8(x, y);
    }
  };
  // Four bytes of four planes: positions 0 to 3, 4 to 7, …
  struct Quads {
    __m128i of[4];
    Quads(const uint8_t* const* planes, int64_t at, __m128i flip) {
      const Pairs a(planes[0] + at, planes[1] + at, flip), b(planes[2] + at, planes[3] + at, flip);
      of[0] = _mm_unpacklo_epi16(a.low, b.low);
      of[1] = _mm_unpackhi_epi16(a.low, b.low);
      of[2] = _mm_unpacklo_epi16(a.high, b.high);
      of[3] = _mm_unpackhi_epi16(a.high, b.high);
    }
  };

  static inline void interleave(const uint8_t* const* planes, int64_t at, uint8_t flip, uint32_t* to) {
    const Quads quads(planes, at, _mm_set1_epi8(static_cast<char>(flip)));
    for (int i = 0; i < 4; ++i) store(to + 4 * i, quads.of[i]);
  }
  static inline void interleave(const uint8_t* const* planes, int64_t at, uint8_t flip, uint64_t* to) {
    const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
    const Quads a(planes, at, flips), b(planes + 4, at, flips);
    for (int i = 0; i < 4; ++i) {
      store(to + 4 * i, _mm_unpacklo_epi32(a.of[i], b.of[i]));
      store(to + 4 * i + 2, _mm_unpackhi_epi32(a.of[i], b.of[i]));
    }
  }
};

#elif defined(__ARM_NEON)

struct NeonBytes {
  static constexpr bool kHasShuffle = true;

  static inline void interleave(const uint8_t* const* planes, int64_t at, uint8_t flip, uint32_t* to) {
    const uint8x16_t flips = vdupq_n_u8(flip);
    uint8x16x4_t quads;
    quads.val[0] = veorq_u8(vld1q_u8(planes[0] + at), flips);
    quads.val[1] = veorq_u8(vld1q_u8(planes[1] + at), flips);
    quads.val[2] = veorq_u8(vld1q_u8(planes[2] + at), flips);
    quads.val[3] = veorq_u8(vld1q_u8(planes[3] + at), flips);
    vst4q_u8(reinterpret_cast<uint8_t*>(to), quads);
  }
  static inline void shuffle(const uint8_t* from, const uint8_t* shuffle, void* to) {
    vst1q_u8(static_cast<uint8_t*>(to), vqtbl1q_u8(vld1q_u8(from), vld1q_u8(shuffle)));
  }
};

#endif

}  // namespace

#endif  // EDGECONV_COMMON_BYTE_VECTORS_H_
