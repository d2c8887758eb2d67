// A small generator of random numbers (Marsaglia's xorshift64*): drawn at every switch, so it must be quick.
#ifndef EDGECONV_COMMON_SIMT_RANDOM_H_
#define EDGECONV_COMMON_SIMT_RANDOM_H_

#include <cstdint>

namespace simt {

// Spreads numbers that follow each other (the finaliser of MurmurHash3).
inline uint64_t mix(uint64_t value) {
  value = (value ^ value >> 33) * 0xff51afd7ed558ccdu;
  value = (value ^ value >> 33) * 0xc4ceb9fe1a85ec53u;
  return value ^ value >> 33;
}

class Random {
 public:
  void seed(uint64_t seed, uint64_t stream) { state_ = mix(mix(seed) + stream) | 1; }

  // Below `bound`, which is less than 2^32.
  uint64_t below(uint64_t bound) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545f4914f6cdd1du >> 32) * bound >> 32;
  }

 private:
  uint64_t state_ = 1;
};

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_RANDOM_H_
