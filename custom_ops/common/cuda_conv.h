// A convolution as a matrix product without its matrix: rows are output positions, columns filters, and k runs over
// (kernel row, kernel column, channel) of activations whose channels lie together, in chunks of 16 bytes. Patches go
// from global memory into the stages of cuda_gemm.h; what lies outside the image, and what is missing of the last chunk
// of channels, becomes zeros on the way.
#ifndef EDGECONV_COMMON_CUDA_CONV_H_
#define EDGECONV_COMMON_CUDA_CONV_H_

#include "common/cuda_gemm.h"

// All counts are below 2^31, and so are those of chunks in x.
struct EdgeconvConvPatches {
  const char* x;
  int positions;                   // output positions of all images
  int image_positions, out_width;  // of one
  int height, width;
  int pixel_chunks;              // from one pixel to the next
  int channel_chunks;            // of a group
  int last_bytes;                // of the last of them
  int stage_taps, stage_chunks;  // how far a stage of the product's tile gets: whole taps, and chunks of the next one
  int kernel_height, kernel_width;
  int stride_height, stride_width;
  int pad_top, pad_left;
  int dilation_height, dilation_width;
};

// The filters of a group as rows of k, zeros at the end of each.
struct EdgeconvConvFilters {
  const char* packed;
  int filters;     // of a group
  int row_chunks;  // a multiple of 8
};

namespace {

// What one thread copies of `rows` rows of patches, stage by stage.
template <int rows, int chunks, int threads>
class PatchLoader {
  static constexpr int kRowStep = threads / chunks, kLoads = rows / kRowStep;
  static_assert(threads % chunks == 0 && rows % kRowStep == 0, "whole rows a step");
  static_assert(kRowStep % 8 == 0, "all of a thread's rows are swizzled alike");

 public:
  // Begins with chunk `first_chunk` of k, at row `first_row` of the product.
  __device__ PatchLoader(const EdgeconvConvPatches& patches, int first_row, int group, int first_chunk) {
    const int chunk = first_chunk + static_cast<int>(threadIdx.x) % chunks;
    const int tap = chunk / patches.channel_chunks;
    channel_ = chunk % patches.channel_chunks;
    kernel_row_ = tap / patches.kernel_width;
    kernel_column_ = tap % patches.kernel_width;
    position_ = first_row + static_cast<int>(threadIdx.x) / chunks;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const Patch patch(patches, position_ + i * kRowStep);
      const unsigned pixel = (static_cast<unsigned>(patch.image) * patches.height + patch.top) * patches.width;
      from_[i] = (pixel + patch.left) * patches.pixel_chunks + group * patches.channel_chunks;
    }
    look_at_taps(patches, tap / 32);
  }

  // Starts the copies of the next stage.
  __device__ void load(const EdgeconvConvPatches& patches, char* stage) {
    const int tap = kernel_row_ * patches.kernel_width + kernel_column_;
    const unsigned line = static_cast<unsigned>(kernel_row_ * patches.dilation_height) * patches.width;
    const unsigned offset = (line + kernel_column_ * patches.dilation_width) * patches.pixel_chunks + channel_;
    const int bytes = channel_ == patches.channel_chunks - 1 ? patches.last_bytes : kChunkBytes;
    const unsigned bit = 1u << (tap & 31);
    char* const to = stage + swizzled<chunks>(static_cast<int>(threadIdx.x) / chunks, threadIdx.x % chunks);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const bool inside = (inside_[i] & bit) != 0;
      const unsigned from = inside ? from_[i] + offset : 0;
      cp_async<kChunkBytes>(to + i * kRowStep * chunks * kChunkBytes, patches.x + uint64_t{from} * kChunkBytes,
                            inside ? bytes : 0);
    }
    advance(patches, tap);
  }

 private:
  // Where the first tap of an output position is.
  struct Patch {
    int image, top, left;

    __device__ Patch(const EdgeconvConvPatches& patches, int position) {
      const int rest = position % patches.image_positions;
      image = position / patches.image_positions;
      top = rest / patches.out_width * patches.stride_height - patches.pad_top;
      left = rest % patches.out_width * patches.stride_width - patches.pad_left;
    }
  };

  // Which of the taps from 32 * word on are inside the image. Once, but for large kernels.
  __device__ void look_at_taps(const EdgeconvConvPatches& patches, int word) {
    const int taps = min(32, patches.kernel_height * patches.kernel_width - 32 * word);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int position = position_ + i * kRowStep;
      const Patch patch(patches, position);
      unsigned inside = 0;
      int kernel_row = 32 * word / patches.kernel_width, kernel_column = 32 * word % patches.kernel_width;
#pragma unroll 1
      for (int tap = 0; tap < taps && position < patches.positions; ++tap) {
        const int row = patch.top + kernel_row * patches.dilation_height;
        const int column = patch.left + kernel_column * patches.dilation_width;
        if (static_cast<unsigned>(row) < static_cast<unsigned>(patches.height) &&
            static_cast<unsigned>(column) < static_cast<unsigned>(patches.width)) {
          inside |= 1u << tap;
        }
        if (++kernel_column == patches.kernel_width) {
          kernel_column = 0;
          ++kernel_row;
        }
      }
      inside_[i] = inside;
    }
  }

  __device__ void advance(const EdgeconvConvPatches& patches, int tap) {
    channel_ += patches.stage_chunks;
    kernel_column_ += patches.stage_taps;
    if (channel_ >= patches.channel_chunks) {
      channel_ -= patches.channel_chunks;
      ++kernel_column_;
    }
    // Beyond the last row nothing is inside.
    while (kernel_column_ >= patches.kernel_width && kernel_row_ < patches.kernel_height) {
      kernel_column_ -= patches.kernel_width;
      ++kernel_row_;
    }
    const int next = kernel_row_ * patches.kernel_width + kernel_column_;
    if (next / 32 != tap / 32) look_at_taps(patches, next / 32);
  }

  int channel_, kernel_row_, kernel_column_, position_;
  unsigned from_[kLoads];    // the first chunk of each patch in x, were it inside; modulo 2^32
  unsigned inside_[kLoads];  // which of 32 taps are inside
};

// What one thread copies of `rows` filters. Filters beyond the last become zeros.
template <int rows, int chunks, int threads>
class FilterLoader {
  static constexpr int kRowStep = threads / chunks, kLoads = rows / kRowStep;
  static_assert(threads % chunks == 0 && rows % kRowStep == 0, "whole rows a step");
  static_assert(kRowStep % 8 == 0, "all of a thread's rows are swizzled alike");

 public:
  __device__ FilterLoader(const EdgeconvConvFilters& filters, int first_filter, int group, int first_chunk) {
    const int filter = first_filter + static_cast<int>(threadIdx.x) / chunks;
    left_ = filters.filters - filter;
    from_ = static_cast<unsigned>(group * filters.filters + filter) * filters.row_chunks + first_chunk +
            threadIdx.x % chunks;
  }

  // Starts the copies of the next stage.
  __device__ void load(const EdgeconvConvFilters& filters, char* stage) {
    char* const to = stage + swizzled<chunks>(static_cast<int>(threadIdx.x) / chunks, threadIdx.x % chunks);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint64_t from = from_ + static_cast<unsigned>(i * kRowStep) * filters.row_chunks;
      cp_async<kChunkBytes>(to + i * kRowStep * chunks * kChunkBytes, filters.packed + from * kChunkBytes,
                            i * kRowStep < left_ ? kChunkBytes : 0);
    }
    from_ += chunks;
  }

 private:
  int left_;       // filters from the thread's first one on
  unsigned from_;  // its next chunk
};

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_CONV_H_
