// Filters as the kernels read them, their sums of squares, and what is to know about all of them: three kernels.
#include "kervolution/kervolution_cuda_dot.h"

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

// Of a filter.
struct Statistics {
  double sum, squares;
  float largest;  // magnitude; NaN is above all
  float unused;
};

__device__ float load_element(const float* w, int64_t index) { return w[index]; }
__device__ float load_element(const __half* w, int64_t index) { return __half2float(w[index]); }
__device__ void store_element(float* to, float value) { *to = value; }
__device__ void store_element(__half* to, float value) { *to = __float2half_rn(value); }  // which it was

__device__ unsigned magnitude_bits(float value) { return __float_as_uint(value) & 0x7fffffffu; }

// Of a block; every thread gets them. The order does not depend on anything but the number of threads.
__device__ Statistics sum_block(double sum, double squares, unsigned largest) {
  EDGECONV_SHARED(double, parts, [kWarps][2]);
  EDGECONV_SHARED(unsigned, magnitudes, [kWarps]);
  sum = warp_sum(sum);
  squares = warp_sum(squares);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
  }
  if (threadIdx.x % 32 == 0) {
    parts[threadIdx.x / 32][0] = sum;
    parts[threadIdx.x / 32][1] = squares;
    magnitudes[threadIdx.x / 32] = largest;
  }
  __syncthreads();
  Statistics result = {};
  for (int warp = 0; warp < kWarps; ++warp) {
    result.sum += parts[warp][0];
    result.squares += parts[warp][1];
    result.largest = __uint_as_float(max(__float_as_uint(result.largest), magnitudes[warp]));
  }
  return result;
}

// A block a filter.
template <typename Element>
__global__ void __launch_bounds__(kThreads) sum_filters(const Element* w, int64_t taps, Statistics* statistics) {
  double sum = 0.0, squares = 0.0;
  unsigned largest = 0;
  for (int64_t tap = threadIdx.x; tap < taps; tap += kThreads) {
    const float value = load_element(w, blockIdx.x * taps + tap);
    sum += value;
    squares += static_cast<double>(value) * value;
    largest = max(largest, magnitude_bits(value));
  }
  const Statistics result = sum_block(sum, squares, largest);
  if (threadIdx.x == 0) statistics[blockIdx.x] = result;
}

// One block.
__global__ void __launch_bounds__(kThreads)
    judge_filters(const Statistics* statistics, int64_t filters, int64_t taps, EdgeconvDotFilterFacts* facts) {
  constexpr double kOffset = 4.0;  // standard deviations
  double sum = 0.0, squares = 0.0;
  unsigned largest = 0;
  for (int64_t i = threadIdx.x; i < filters; i += kThreads) {
    sum += statistics[i].sum;
    squares += statistics[i].squares;
    largest = max(largest, __float_as_uint(statistics[i].largest));
  }
  const Statistics all = sum_block(sum, squares, largest);
  if (threadIdx.x != 0) return;
  const double count = static_cast<double>(filters * taps), mean = all.sum / count;
  const double variance = all.squares / count - mean * mean;
  const bool ordinary = all.largest < 0x1p60f;
  *facts = {ordinary, ordinary && mean * mean > kOffset * kOffset * variance};
}

// A block a filter: its row of k, and the sum of its squares.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    pack_filters(const EdgeconvDotPacking packing, const Element* w, char* packed) {
  constexpr int kElements = kChunkBytes / static_cast<int>(sizeof(Element));
  // Differences are taken from filters as they are.
  const bool round =
      packing.tf32 && !reinterpret_cast<const EdgeconvDotFilterFacts*>(packed + packing.places.facts)->have_offset;
  const int64_t taps = int64_t{packing.kernel_height} * packing.kernel_width;
  // Elements of k that belong to one step of it: a tap, or a row of unrolled ones.
  const int64_t depth = packing.unrolled ? packing.group_channels * packing.kernel_width : packing.group_channels;
  const int64_t steps = packing.unrolled ? packing.kernel_height : taps;
  const int64_t pitch = (depth + kElements - 1) / kElements * kElements;
  const Element* const filter = w + blockIdx.x * packing.group_channels * taps;
  Element* const to = reinterpret_cast<Element*>(packed) + blockIdx.x * packing.row_chunks * kElements;
  double squares = 0.0;
  for (int64_t k = threadIdx.x; k < packing.row_chunks * kElements; k += kThreads) {
    const int64_t step = k / pitch, inner = k % pitch;
    const bool exists = step < steps && inner < depth;
    const int64_t channel = packing.unrolled ? inner % packing.group_channels : inner;
    const int64_t tap = packing.unrolled ? step * packing.kernel_width + inner / packing.group_channels : step;
    float value = exists ? load_element(filter, channel * taps + tap) : 0.0f;
    if (round) value = __uint_as_float(round_to_tf32(value));
    store_element(to + k, value);
    squares += static_cast<double>(value) * value;
  }
  const Statistics result = sum_block(0.0, squares, 0);
  if (threadIdx.x == 0) {
    reinterpret_cast<float*>(packed + packing.places.sums)[blockIdx.x] = static_cast<float>(result.squares);
  }
}

// A thread an element of [tap][filter], in float32.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    transpose_filters(const Element* w, int64_t filters, int64_t taps, float* packed) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index < filters * taps) packed[index] = load_element(w, index % filters * taps + index / filters);
}

template <typename Element>
cudaError_t pack(const EdgeconvDotPacking& packing, const Element* w, char* packed, cudaStream_t stream) {
  const int64_t taps = packing.group_channels * packing.kernel_height * packing.kernel_width;
  Statistics* const statistics = reinterpret_cast<Statistics*>(packed + packing.places.statistics);
  const dim3 filters(packing.filters), threads(kThreads);
  cudaError_t error = EDGECONV_LAUNCH(sum_filters<Element>, filters, threads, 0, stream, w, taps, statistics);
  if (error != cudaSuccess) return error;
  error = EDGECONV_LAUNCH(judge_filters, dim3(1), threads, 0, stream, statistics, packing.filters, taps,
                          reinterpret_cast<EdgeconvDotFilterFacts*>(packed + packing.places.facts));
  if (error != cudaSuccess) return error;
  if (packing.small_groups) {
    const int64_t blocks = (packing.filters * taps + kThreads - 1) / kThreads;
    return EDGECONV_LAUNCH(transpose_filters<Element>, dim3(blocks), threads, 0, stream, w, packing.filters, taps,
                           reinterpret_cast<float*>(packed));
  }
  return EDGECONV_LAUNCH(pack_filters<Element>, filters, threads, 0, stream, packing, w, packed);
}

}  // namespace

extern "C" cudaError_t edgeconv_dot_pack(const EdgeconvDotPacking& packing, const void* w, void* packed,
                                         cudaStream_t stream) {
  char* const to = static_cast<char*>(packed);
  return packing.element_type == EDGECONV_FLOAT16 ? pack(packing, static_cast<const __half*>(w), to, stream)
                                                  : pack(packing, static_cast<const float*>(w), to, stream);
}
