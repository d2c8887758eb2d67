// The kernel: plain loops, which the compiler makes vectors of. It reads every byte once.
#include <algorithm>

#include "common/requantization.h"
#include "qlinear_pool/qlinear_pool.h"

namespace {

constexpr int64_t kMostPositions = INT32_MAX / 255;
constexpr int64_t kChannels = 64;    // at a time, where they are the last axis
constexpr int64_t kPositions = 257;  // 16 bits hold the sum of so many bytes

// Sums of the unsigned bytes of `count` channels, channels last.
void sum_channels(const uint8_t* x, int64_t positions, int64_t channels, int64_t count, uint8_t flip, int32_t* sums) {
  std::fill(sums, sums + count, 0);
  for (int64_t first = 0; first < positions; first += kPositions) {
    const int64_t last = std::min(positions, first + kPositions);
    uint16_t some[kChannels] = {};
    if (count == kChannels) {
      for (int64_t i = first; i < last; ++i) {
        const uint8_t* const from = x + i * channels;
        for (int64_t c = 0; c < kChannels; ++c) some[c] = static_cast<uint16_t>(some[c] + (from[c] ^ flip));
      }
    } else {
      for (int64_t i = first; i < last; ++i) {
        const uint8_t* const from = x + i * channels;
        for (int64_t c = 0; c < count; ++c) some[c] = static_cast<uint16_t>(some[c] + (from[c] ^ flip));
      }
    }
    for (int64_t c = 0; c < count; ++c) sums[c] += some[c];
  }
}

}  // namespace

extern "C" int edgeconv_qlinear_pool(const EdgeconvQLinearPoolParams* params, const uint8_t* x, uint8_t* y,
                                     EdgeconvStatus* status) {
  const int64_t channels = params->channels, positions = params->positions;
  if (positions < 1 || positions > kMostPositions) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "X has %lld positions: expected 1 to %lld",
                               static_cast<long long>(positions), static_cast<long long>(kMostPositions));
  }
  const bool is_signed = params->type == EDGECONV_INT8;
  const uint8_t flip = is_signed ? 0x80 : 0;
  const int32_t shift = is_signed ? 128 : 0, zero = params->y_zero_point + shift;
  const float low = static_cast<float>(-zero), high = static_cast<float>(255 - zero);
  const int64_t offset = positions * (params->x_zero_point + shift);
  const float factor = edgeconv_multiplier(static_cast<double>(params->x_scale) /
                                           (static_cast<double>(positions) * static_cast<double>(params->y_scale)));
  // 1.5 * 2^23 rounds what is so much smaller, ties to even, in a loop that has vectors.
  const int32_t start = static_cast<int32_t>(offset);
  constexpr float kRound = 12582912.0f;
  const auto finish = [&](int32_t sum) {
    const float value = static_cast<float>(sum - start) * factor;
    const float step = (std::min(std::max(value, low), high) + kRound) - kRound;
    return static_cast<uint8_t>((static_cast<int32_t>(step) + zero) ^ flip);
  };
  for (int64_t item = 0; item < params->batch; ++item, x += channels * positions, y += channels) {
    for (int64_t first = 0; first < channels; first += kChannels) {
      const int64_t count = std::min(kChannels, channels - first);
      int32_t sums[kChannels] = {};
      if (params->channels_last) {
        sum_channels(x + first, positions, channels, count, flip, sums);
      } else {
        for (int64_t c = 0; c < count; ++c) {
          const uint8_t* const from = x + (first + c) * positions;
          for (int64_t i = 0; i < positions; ++i) sums[c] += from[i] ^ flip;
        }
      }
      for (int64_t c = 0; c < count; ++c) y[first + c] = finish(sums[c]);
    }
  }
  return status->code = EDGECONV_OK;
}
