// Kernels of x.w for groups too small to be matrix products, depthwise filters above all: a few outputs a thread, one
// below the other, summed over the taps from x as it is. Lanes run over what lies together: columns, or channels.
#include "kervolution/kervolution_cuda_dot_epilogue.h"

namespace {

constexpr int kThreads = 128, kOutputs = 4;  // outputs a thread

enum class Sum {
  kProducts,
  kDifferences,  // squares of them
  kParts,        // products and both sums of squares: where filters are not ordinary, inf - inf would be NaN
};

// A thread's outputs.
struct Outputs {
  int channel, count;
  int top, left;  // of the first patch
  int64_t image;  // of the image and its group's first channel, in x
  int64_t first;  // in y
  int row_pitch;  // from one to the next, in y
};

// False: nothing to do.
template <bool channels_last>
__device__ __forceinline__ bool place_outputs(const EdgeconvDotGroupsProblem& problem, Outputs* outputs) {
  const int channels = channels_last ? problem.y_pitch : problem.filters;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int row_blocks = (problem.out_height + kOutputs - 1) / kOutputs;
  if (index >= int64_t{problem.images} * channels * row_blocks * problem.out_width) return false;
  int64_t rest = index;
  int column;
  if (channels_last) {
    outputs->channel = static_cast<int>(rest % channels);
    rest /= channels;
    column = static_cast<int>(rest % problem.out_width);
    rest /= problem.out_width;
  } else {
    column = static_cast<int>(rest % problem.out_width);
    rest /= problem.out_width;
  }
  const int row = static_cast<int>(rest % row_blocks) * kOutputs;
  rest /= row_blocks;
  if (!channels_last) {
    outputs->channel = static_cast<int>(rest % channels);
    rest /= channels;
  }
  const int64_t image = rest, pixels = int64_t{problem.height} * problem.width;
  const int64_t first_channel = int64_t{outputs->channel / problem.group_filters} * problem.group_channels;
  outputs->image = channels_last ? image * pixels * problem.x_pitch + first_channel
                                 : (image * problem.channels + first_channel) * pixels;
  outputs->count = min(kOutputs, problem.out_height - row);
  outputs->top = row * problem.stride_height - problem.pad_top;
  outputs->left = column * problem.stride_width - problem.pad_left;
  const int64_t position = int64_t{row} * problem.out_width + column;
  const int64_t plane = int64_t{problem.out_height} * problem.out_width;
  outputs->first = channels_last ? (image * plane + position) * problem.y_pitch + outputs->channel
                                 : (image * problem.filters + outputs->channel) * plane + position;
  outputs->row_pitch = channels_last ? problem.out_width * problem.y_pitch : problem.out_width;
  return true;
}

template <bool channels_last, typename Element, Sum sum>
__device__ __forceinline__ void sum_taps(const EdgeconvDotGroupsProblem& problem, const Outputs& outputs,
                                         float (&sums)[kOutputs]) {
  const int by_channel = channels_last ? 1 : problem.height * problem.width;
  const int by_column = channels_last ? problem.x_pitch : 1, by_row = problem.width * by_column;
  const Element* x = static_cast<const Element*>(problem.x) + outputs.image;
  const float* packed = problem.packed + outputs.channel;
  float both[kOutputs] = {};
  for (int channel = 0; channel < problem.group_channels; ++channel, x += by_channel) {
    for (int tap_row = 0, top = outputs.top; tap_row < problem.kernel_height;
         ++tap_row, top += problem.dilation_height) {
      bool inside[kOutputs];
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        const int row = top + i * problem.stride_height;
        inside[i] = i < outputs.count && static_cast<unsigned>(row) < static_cast<unsigned>(problem.height);
      }
      for (int tap = 0, column = outputs.left; tap < problem.kernel_width; ++tap, column += problem.dilation_width) {
        const float w = *packed;
        packed += problem.filters;
        const bool in_row = static_cast<unsigned>(column) < static_cast<unsigned>(problem.width);
        const int64_t from = int64_t{top} * by_row + int64_t{column} * by_column;
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) {
          const float value =
              in_row && inside[i] ? to_float(x[from + int64_t{i * problem.stride_height} * by_row]) : 0.0f;
          if constexpr (sum == Sum::kDifferences) {
            sums[i] = fmaf(value - w, value - w, sums[i]);
          } else {
            sums[i] = fmaf(value, w, sums[i]);
            if (sum == Sum::kParts) both[i] += fmaf(value, value, w * w);
          }
        }
      }
    }
  }
  if constexpr (sum == Sum::kParts) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sums[i] = squared_distance(sums[i], both[i]);
  }
}

template <int kernel, typename Element>
__device__ __forceinline__ void finish_outputs(const EdgeconvDotGroupsProblem& problem, const Outputs& outputs,
                                               const float (&sums)[kOutputs]) {
  const DotChannel channel = load_channel<kernel, Element>(problem, outputs.channel);
  Element* const y = static_cast<Element*>(problem.y) + outputs.first;
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    if (i < outputs.count) {
      store_one(y + int64_t{i} * outputs.row_pitch, finish_value<kernel>(sums[i], channel, problem.degree));
    }
  }
}

template <bool channels_last, typename Element, bool squares>
__global__ void __launch_bounds__(kThreads, 8) dot_groups(const EdgeconvDotGroupsProblem problem) {
  Outputs outputs;
  if (!place_outputs<channels_last>(problem, &outputs)) return;
  if (channels_last && outputs.channel >= problem.filters) {
    Element* const y = static_cast<Element*>(problem.y) + outputs.first;
    for (int i = 0; i < outputs.count; ++i) store_one(y + int64_t{i} * outputs.row_pitch, 0.0f);
    return;
  }
  float sums[kOutputs] = {};
  if constexpr (!squares) {
    sum_taps<channels_last, Element, Sum::kProducts>(problem, outputs, sums);
    if (problem.kernel == EDGECONV_POLYNOMIAL) {
      finish_outputs<EDGECONV_POLYNOMIAL, Element>(problem, outputs, sums);
    } else {
      finish_outputs<EDGECONV_SIGMOID, Element>(problem, outputs, sums);
    }
  } else {
    if (problem.facts->ordinary) {
      sum_taps<channels_last, Element, Sum::kDifferences>(problem, outputs, sums);
    } else {
      sum_taps<channels_last, Element, Sum::kParts>(problem, outputs, sums);
    }
    if (problem.kernel == EDGECONV_GAUSSIAN) {
      finish_outputs<EDGECONV_GAUSSIAN, Element>(problem, outputs, sums);
    } else {
      finish_outputs<EDGECONV_EUCLIDEAN, Element>(problem, outputs, sums);
    }
  }
}

int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <typename Element, bool squares>
cudaError_t launch(const EdgeconvDotGroupsProblem& problem, cudaStream_t stream) {
  const int64_t threads = int64_t{problem.images} * (problem.channels_last ? problem.y_pitch : problem.filters) *
                          blocks(problem.out_height, kOutputs) * problem.out_width;
  const auto kernel = problem.channels_last ? dot_groups<true, Element, squares> : dot_groups<false, Element, squares>;
  return EDGECONV_LAUNCH(kernel, dim3(blocks(threads, kThreads)), dim3(kThreads), 0, stream, problem);
}

}  // namespace

extern "C" cudaError_t edgeconv_dot_groups(const EdgeconvDotGroupsProblem& problem, int element_type,
                                           cudaStream_t stream) {
  const bool squares = problem.kernel == EDGECONV_GAUSSIAN || problem.kernel == EDGECONV_EUCLIDEAN;
  if (element_type == EDGECONV_FLOAT16) {
    return squares ? launch<__half, true>(problem, stream) : launch<__half, false>(problem, stream);
  }
  return squares ? launch<float, true>(problem, stream) : launch<float, false>(problem, stream);
}
