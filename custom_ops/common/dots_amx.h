// Products of unsigned activations and signed 8-bit weights on tiles (tiles.h): AMX. A tile of the input has positions
// for rows and 64 activations of each; a tile of weights has sixteen steps of four activations for rows, and sixteen
// channels of each, as DotsVnni's packing has them; so both are read where they lie. Everything else is as with VNNI.
#ifndef EDGECONV_COMMON_DOTS_AMX_H_
#define EDGECONV_COMMON_DOTS_AMX_H_

#include "common/dots_avx512_vnni.h"
#include "common/tiles.h"

namespace {

struct DotsAmx : DotsVnni {
  static constexpr bool kTiles = true;
  static constexpr int kMostTiles = 4;  // of sums
  static_assert(kLanes == kTileSide && kLanes * kDepth == kTileBytes, "weights of a step are a row of a tile");

  // This thread's tiles: shaped where that is asked for, released with the object. 0 to 3 are sums, 4 and 5 the input
  // and the weights of sixteen steps, 6 and 7 those of the steps that are left over. A new shape clears them
  // all and takes long, so what follows each other should have the same.
  class Tiles {
   public:
    Tiles() = default;
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
    ~Tiles() {
      if (positions_ != 0) release_tiles();
    }

    // For `positions` positions a tile, up to 16, and `steps` steps.
    void shape(int64_t positions, int64_t steps) {
      const int64_t left = steps % kTileSide;
      if (positions == positions_ && left == left_) return;
      positions_ = positions;
      left_ = left;
      TileConfig config = {};
      config.palette = 1;
      const auto set = [&](int tile, int64_t rows, int64_t row_bytes) {
        config.rows[tile] = static_cast<uint8_t>(rows);
        config.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
      };
      for (int tile = 0; tile < kMostTiles; ++tile) set(tile, positions, kTileBytes);
      set(4, positions, kTileBytes);
      set(5, kTileSide, kTileBytes);
      if (left > 0) {
        set(6, positions, left * kDepth);
        set(7, left, kTileBytes);
      }
      use_tiles(config);
    }

   private:
    int64_t positions_ = 0, left_ = 0;
  };

  // Whether tiles of `positions` positions are expected to be faster than registers, for `stretches` stretches of
  // `steps` steps each: by the rates that Intel states, not by measurement. Sixteen channels take positions * steps / 2
  // cycles of vpdpbusd, of which two start in a cycle; on tiles 16 for each started sixteen steps, and about 32 that
  // bring the sums to memory and back.
  static inline bool tiles_pay(int64_t positions, int64_t stretches, int64_t steps) {
    const int64_t products = stretches * ((steps + kTileSide - 1) / kTileSide);
    return positions * stretches * steps > 2 * (16 * products + 32);
  }

  // The sums of `tiles` tiles of positions, which begin at positions from[0], from[1], …, and of `vectors` vectors of
  // channels: sums[tile][row of 16][vector][lane]. The tiles are shaped. `input` is as the register tile's: x,
  // position_stride, and the stretches' rows, columns, row_stride, column_stride and steps.
  //
  // Each sum is a chain of products that wait for one another; four of them hide the latency.
  template <int tiles, int vectors, typename Input>
  __attribute__((noinline)) static void multiply_tiles(const Input& input, const Weight* weights, const int32_t* bias,
                                                       const int64_t* from, int32_t* sums) {
    constexpr int kSums = tiles * vectors;
    static_assert(kSums <= kMostTiles, "there are four tiles of sums");
    constexpr int64_t kStep = vectors * kTileBytes;  // bytes of weights
    const int64_t stride = input.position_stride, whole = input.steps / kTileSide, left = input.steps % kTileSide;
    int64_t offsets[tiles];
    for (int tile = 0; tile < tiles; ++tile) offsets[tile] = from[tile] * stride;
    publish_to_tiles();

// The numbers of tiles are part of the instructions. Sum i is of tile i / vectors and vector i % vectors.
#define EDGECONV_FOR_EACH_SUM(run) \
  do {                             \
    run(0);                        \
    run(1);                        \
    run(2);                        \
    run(3);                        \
  } while (false)
#define EDGECONV_BEGIN_SUM(i)                          \
  if constexpr ((i) < kSums) {                         \
    TILE_LOAD(i, bias + (i) % vectors * kTileSide, 0); \
  }
#define EDGECONV_ADD_TO_SUM(i, a, b)                                                                  \
  if constexpr ((i) < kSums) {                                                                        \
    if constexpr ((i) % vectors == 0) TILE_LOAD(a, x + offsets[(i) / vectors], stride);               \
    if constexpr (vectors > 1 || (i) == 0) TILE_LOAD(b, weights + (i) % vectors * kTileBytes, kStep); \
    TILE_DOT_U8S8(i, a, b);                                                                           \
  }
#define EDGECONV_ADD_WHOLE(i) EDGECONV_ADD_TO_SUM(i, 4, 5)
#define EDGECONV_ADD_LEFT(i) EDGECONV_ADD_TO_SUM(i, 6, 7)
#define EDGECONV_STORE_SUM(i)                                                                       \
  if constexpr ((i) < kSums) {                                                                      \
    TILE_STORE(i, sums + ((i) / vectors * kTileSide * vectors + (i) % vectors) * kTileSide, kStep); \
  }

    EDGECONV_FOR_EACH_SUM(EDGECONV_BEGIN_SUM);
    for (int64_t row = 0; row < input.rows; ++row) {
      for (int64_t column = 0; column < input.columns; ++column) {
        const Element* x = input.x + row * input.row_stride + column * input.column_stride;
        for (int64_t i = 0; i < whole; ++i, x += kTileBytes, weights += kTileSide * kStep) {
          EDGECONV_FOR_EACH_SUM(EDGECONV_ADD_WHOLE);
        }
        if (left > 0) {
          EDGECONV_FOR_EACH_SUM(EDGECONV_ADD_LEFT);
          weights += left * kStep;
        }
      }
    }
    EDGECONV_FOR_EACH_SUM(EDGECONV_STORE_SUM);

#undef EDGECONV_FOR_EACH_SUM
#undef EDGECONV_BEGIN_SUM
#undef EDGECONV_ADD_TO_SUM
#undef EDGECONV_ADD_WHOLE
#undef EDGECONV_ADD_LEFT
#undef EDGECONV_STORE_SUM
  }

  // The same for 1 <= `tiles` <= kMostTiles / vectors.
  template <int vectors, int most = kMostTiles / vectors, typename Input>
  static inline void multiply_tiles_of(int64_t tiles, const Input& input, const Weight* weights, const int32_t* bias,
                                       const int64_t* from, int32_t* sums) {
    if constexpr (most > 1) {
      if (tiles < most) return multiply_tiles_of<vectors, most - 1>(tiles, input, weights, bias, from, sums);
    }
    multiply_tiles<most, vectors>(input, weights, bias, from, sums);
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_DOTS_AMX_H_
