// Tile registers (AMX): eight matrices of up to sixteen rows of 64 bytes, and the product of two of them in bfloat16 or
// in bytes.
//
// A build with EDGECONV_SOFTWARE_TILES, for tests on CPUs without AMX, computes the same in plain C++.
#ifndef EDGECONV_COMMON_TILES_H_
#define EDGECONV_COMMON_TILES_H_

#include <stdint.h>

namespace {

constexpr int kTileSide = 16;     // rows, and 32-bit elements of a row
constexpr int kTileBytes = 64;    // of a row
constexpr int kTileFloats = 256;  // of a tile

// What ldtilecfg reads: palette 1, and the rows and the bytes of a row of each tile.
struct TileConfig {
  uint8_t palette, first_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "as the hardware reads it");

constexpr TileConfig kWholeTiles = {
    1,
    0,
    {},
    {kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, 0, 0, 0, 0, 0, 0,
     0, 0},
    {kTileSide, kTileSide, kTileSide, kTileSide, kTileSide, kTileSide, kTileSide, kTileSide, 0, 0, 0, 0, 0, 0, 0, 0}};

}  // namespace

// The numbers of tiles are part of the instructions, hence macros:
//   TILE_ZERO(tile), TILE_LOAD(tile, from, stride), TILE_STORE(tile, to, stride): strides in bytes from row to row
//   TILE_DOT_BF16(sums, a, b): sums[m][n] += a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1] over all k
//   TILE_DOT_U8S8(sums, a, b): sums[m][n] += a[m][4k + i] * b[k][4n + i] over all k and i < 4, of unsigned bytes of `a`
//   and signed ones of `b`, in 32-bit integers, modulo 2^32
#ifdef EDGECONV_SOFTWARE_TILES
#include "software_tiles.h"

#define TILE_ZERO(tile) software_tiles::zero(tile)
#define TILE_LOAD(tile, from, stride) software_tiles::load(tile, from, stride)
#define TILE_STORE(tile, to, stride) software_tiles::store(tile, to, stride)
#define TILE_DOT_BF16(sums, a, b) software_tiles::dot_bf16(sums, a, b)
#define TILE_DOT_U8S8(sums, a, b) software_tiles::dot_u8s8(sums, a, b)
#define TILE_CONFIGURE(config) software_tiles::configure(config)
#define TILE_RELEASE() software_tiles::release()
#else
#include <immintrin.h>

#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define TILE_DOT_BF16(sums, a, b) _tile_dpbf16ps(sums, a, b)
#define TILE_DOT_U8S8(sums, a, b) _tile_dpbusd(sums, a, b)
#define TILE_CONFIGURE(config) _tile_loadconfig(config)
#define TILE_RELEASE() _tile_release()
#endif

namespace {

// Shapes this thread's tiles, and clears them. To be followed by release_tiles(): in the initial state that it brings
// back, a thread that is switched off saves and restores no tiles, and whoever owns the thread finds it as it was.
inline void use_tiles(const TileConfig& config = kWholeTiles) {
  __asm__ volatile("" : : "r"(&config) : "memory");  // GCC's intrinsic tells the compiler of its first eight bytes only
  TILE_CONFIGURE(&config);
}
inline void release_tiles() { TILE_RELEASE(); }

// To be called between ordinary stores and tile loads of the same memory: GCC's intrinsics do not tell the compiler
// that a tile load reads memory.
inline void publish_to_tiles() { __asm__ volatile("" ::: "memory"); }

}  // namespace

#endif  // EDGECONV_COMMON_TILES_H_
