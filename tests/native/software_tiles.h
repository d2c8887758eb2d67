// Tile registers in plain C++, for tests of tile code on CPUs that have none: the option EDGECONV_SOFTWARE_TILES builds
// the library with it (custom_ops/common/tiles.h).
//
// Written from the descriptions of LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBF16PS, TDPBUSD and TILERELEASE in
// Intel's "64 and IA-32 Architectures Software Developer's Manual", volume 2. What raises an exception there ends the
// program here, with a sentence.
#ifndef EDGECONV_TESTS_NATIVE_SOFTWARE_TILES_H_
#define EDGECONV_TESTS_NATIVE_SOFTWARE_TILES_H_

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// For tests, of all threads: how many products of bytes were asked for, and how many threads' tiles are configured now.
extern "C" {
__attribute__((weak, visibility("default"))) int64_t edgeconv_software_tile_products = 0;
__attribute__((weak, visibility("default"))) int64_t edgeconv_software_tile_users = 0;
}

namespace {
namespace software_tiles {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct Tile {
  uint8_t data[kMostRows][kMostBytes];
};

// Of one thread, as the registers are.
struct State {
  int palette;  // 0: the initial state, in which no tile may be used
  int rows[kTiles], row_bytes[kTiles];
  Tile tiles[kTiles];
};

static thread_local State state;

inline void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "software tiles: %s\n", what);
  abort();
}

inline void clear(Tile* tile) { __builtin_memset(tile, 0, sizeof(*tile)); }

inline void count(int64_t* counter, int64_t more) { __atomic_fetch_add(counter, more, __ATOMIC_RELAXED); }

inline void release() {
  if (state.palette != 0) count(&edgeconv_software_tile_users, -1);
  __builtin_memset(&state, 0, sizeof(state));
}

inline void configure(const void* config) {
  uint8_t bytes[64];
  __builtin_memcpy(bytes, config, sizeof(bytes));
  require(bytes[0] <= 1, "palette 0 or 1 is expected");
  release();
  if (bytes[0] == 0) return;
  require(bytes[1] == 0, "a load that was not interrupted begins at row 0");
  for (int i = 2; i < 16; ++i) require(bytes[i] == 0, "reserved bytes are not zero");
  for (int tile = 0; tile < 16; ++tile) {
    const int rows = bytes[48 + tile], row_bytes = bytes[16 + 2 * tile] | bytes[17 + 2 * tile] << 8;
    if (tile >= kTiles) {
      require(rows == 0 && row_bytes == 0, "there are eight tiles");
      continue;
    }
    require(rows <= kMostRows && row_bytes <= kMostBytes, "a tile has at most 16 rows of 64 bytes");
    require((rows == 0) == (row_bytes == 0), "a tile has rows and columns, or neither");
    state.rows[tile] = rows;
    state.row_bytes[tile] = row_bytes;
  }
  state.palette = 1;
  count(&edgeconv_software_tile_users, 1);
}

inline Tile* use(int tile) {
  require(state.palette == 1, "a tile is used, and none is configured");
  require(tile >= 0 && tile < kTiles && state.rows[tile] > 0, "a tile is used that is not configured");
  return &state.tiles[tile];
}

inline void zero(int tile) { clear(use(tile)); }

inline void load(int tile, const void* from, int64_t stride) {
  Tile* const to = use(tile);
  clear(to);
  for (int row = 0; row < state.rows[tile]; ++row) {
    __builtin_memcpy(to->data[row], static_cast<const char*>(from) + row * stride,
                     static_cast<size_t>(state.row_bytes[tile]));
  }
}

inline void store(int tile, void* to, int64_t stride) {
  const Tile* const from = use(tile);
  for (int row = 0; row < state.rows[tile]; ++row) {
    __builtin_memcpy(static_cast<char*>(to) + row * stride, from->data[row],
                     static_cast<size_t>(state.row_bytes[tile]));
  }
}

// Subnormal numbers count as zero, as operands and as results.
inline float flush(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  __builtin_memcpy(&value, &bits, sizeof(bits));
  return value;
}

inline float from_bf16(const uint8_t* from) {
  const uint32_t bits = static_cast<uint32_t>(from[0]) << 16 | static_cast<uint32_t>(from[1]) << 24;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(bits));
  return flush(value);
}

// What a product asks of its tiles.
inline void require_operands(int sums, int a, int b) {
  require(sums != a && sums != b && a != b, "three different tiles are needed");
  require(state.rows[sums] == state.rows[a] && state.row_bytes[sums] == state.row_bytes[b] &&
              state.row_bytes[a] == 4 * state.rows[b] && state.row_bytes[sums] % 4 == 0,
          "the shapes of the tiles do not fit");
}

// For each row of `a` and column of `b` the even and the odd products are summed by themselves, then both sums added
// up, and that to `sums`: multiply-adds that round once, to nearest even.
inline void dot_bf16(int sums, int a, int b) {
  Tile *const to = use(sums), *const left = use(a), *const right = use(b);
  require_operands(sums, a, b);
  constexpr int kColumns = kMostBytes / 4;
  float even[kMostRows][kColumns] = {}, odd[kMostRows][kColumns] = {};
  for (int k = 0; k < state.rows[b]; ++k) {
    for (int n = 0; n < kColumns; ++n) {
      even[k][n] = from_bf16(right->data[k] + 4 * n);
      odd[k][n] = from_bf16(right->data[k] + 4 * n + 2);
    }
  }
  for (int m = 0; m < state.rows[sums]; ++m) {
    float even_sums[kColumns] = {}, odd_sums[kColumns] = {}, result[kColumns];
    for (int k = 0; k < state.rows[b]; ++k) {
      const float even_weight = from_bf16(left->data[m] + 4 * k), odd_weight = from_bf16(left->data[m] + 4 * k + 2);
      for (int n = 0; n < kColumns; ++n) {
        even_sums[n] = flush(__builtin_fmaf(even_weight, even[k][n], even_sums[n]));
        odd_sums[n] = flush(__builtin_fmaf(odd_weight, odd[k][n], odd_sums[n]));
      }
    }
    __builtin_memcpy(result, to->data[m], sizeof(result));
    for (int n = 0; n < kColumns; ++n) result[n] = flush(flush(result[n]) + flush(even_sums[n] + odd_sums[n]));
    __builtin_memcpy(to->data[m], result, static_cast<size_t>(state.row_bytes[sums]));
  }
}

// Unsigned bytes of `a` times signed ones of `b`, four to a 32-bit sum, which wraps around.
inline void dot_u8s8(int sums, int a, int b) {
  Tile *const to = use(sums), *const left = use(a), *const right = use(b);
  require_operands(sums, a, b);
  count(&edgeconv_software_tile_products, 1);
  constexpr int kColumns = kMostBytes / 4;
  for (int m = 0; m < state.rows[sums]; ++m) {
    uint32_t result[kColumns];
    __builtin_memcpy(result, to->data[m], sizeof(result));
    for (int k = 0; k < state.rows[b]; ++k) {
      for (int n = 0; n < kColumns; ++n) {
        for (int i = 0; i < 4; ++i) {
          const int weight = static_cast<int8_t>(right->data[k][4 * n + i]);
          result[n] += static_cast<uint32_t>(left->data[m][4 * k + i] * weight);
        }
      }
    }
    __builtin_memcpy(to->data[m], result, static_cast<size_t>(state.row_bytes[sums]));
  }
}

}  // namespace software_tiles
}  // namespace

#endif  // EDGECONV_TESTS_NATIVE_SOFTWARE_TILES_H_
