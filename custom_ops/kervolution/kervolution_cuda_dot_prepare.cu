// Activations as the product over patches reads them, where x is not so already: the channels of a group together, on
// 16 bytes; and where there are few of them, all taps of a kernel row together. And |x|^2 of each pixel.
#include "kervolution/kervolution_cuda_dot.h"

namespace {

constexpr int kThreads = 256;

int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

// From planes to pixels, through shared memory: 32 pixels by 128 bytes of channels a block. A thread writes 4 bytes.
template <typename Raw>
__global__ void __launch_bounds__(kThreads) gather_planes(const EdgeconvDotPreparation prepared) {
  constexpr int kPixels = 32, kPack = 4 / static_cast<int>(sizeof(Raw)), kChannels = 32 * kPack;
  EDGECONV_SHARED(Raw, tile, [kChannels][kPixels + kPack]);
  const int pixels = prepared.in_height * prepared.in_width;
  const int group_pitch = prepared.group_chunks * kChunkBytes / static_cast<int>(sizeof(Raw));
  const int pitch = prepared.groups * group_pitch;
  const int channel_tiles = (pitch + kChannels - 1) / kChannels, pixel_tiles = (pixels + kPixels - 1) / kPixels;
  const int first_channel = blockIdx.x % channel_tiles * kChannels;
  const int pixel_block = blockIdx.x / channel_tiles;
  const int first_pixel = pixel_block % pixel_tiles * kPixels, image = pixel_block / pixel_tiles;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Raw* const x =
      static_cast<const Raw*>(prepared.x) + int64_t{image} * prepared.groups * prepared.group_channels * pixels;
  for (int i = warp; i < kChannels; i += kThreads / 32) {
    const int group = (first_channel + i) / group_pitch, channel = (first_channel + i) % group_pitch;
    const bool exists = first_pixel + lane < pixels && group < prepared.groups && channel < prepared.group_channels;
    const int64_t plane = int64_t{group} * prepared.group_channels + channel;
    tile[i][lane] = exists ? x[plane * pixels + first_pixel + lane] : Raw{0};
  }
  __syncthreads();
  char* const to = static_cast<char*>(prepared.to);
  const int channel = first_channel + lane * kPack;
  for (int i = warp; i < kPixels && channel < pitch; i += kThreads / 32) {
    if (first_pixel + i >= pixels) break;
    uint32_t word = 0;
#pragma unroll
    for (int e = 0; e < kPack; ++e) word |= static_cast<uint32_t>(tile[lane * kPack + e][i]) << (e * 16);
    const int64_t pixel = int64_t{image} * pixels + first_pixel + i;
    *reinterpret_cast<uint32_t*>(to + (pixel * pitch + channel) * static_cast<int>(sizeof(Raw))) = word;
  }
}

// A thread a chunk, from any layout.
template <typename Raw>
__global__ void __launch_bounds__(kThreads) gather_chunks(const EdgeconvDotPreparation prepared, int chunks) {
  constexpr int kElements = kChunkBytes / static_cast<int>(sizeof(Raw));
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= chunks) return;
  int rest = static_cast<int>(index);
  const int chunk = rest % prepared.group_chunks;
  rest /= prepared.group_chunks;
  const int group = rest % prepared.groups;
  rest /= prepared.groups;
  const int out_column = rest % prepared.out_width;
  rest /= prepared.out_width;
  const int row = rest % prepared.in_height, image = rest / prepared.in_height;

  // Elements of x from one channel, one row and one column to the next.
  const int64_t pixels = int64_t{prepared.in_height} * prepared.in_width;
  const int64_t by_channel = prepared.channels_last ? 1 : pixels;
  const int64_t by_column = prepared.channels_last ? prepared.in_pitch : 1;
  const int64_t images =
      int64_t{image} * (prepared.channels_last ? prepared.in_pitch : prepared.groups * prepared.group_channels);
  const Raw* const x = static_cast<const Raw*>(prepared.x) + images * pixels +
                       int64_t{row} * prepared.in_width * by_column +
                       int64_t{group} * prepared.group_channels * by_channel;
  int tap = chunk * kElements / prepared.group_channels, channel = chunk * kElements % prepared.group_channels;
  uint32_t words[4] = {};
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const int column = out_column * prepared.stride - prepared.pad + tap * prepared.dilation;
    const bool exists = tap < prepared.taps && static_cast<unsigned>(column) < static_cast<unsigned>(prepared.in_width);
    const Raw value = exists ? x[column * by_column + channel * by_channel] : Raw{0};
    words[e * 4 / kElements] |= static_cast<uint32_t>(value) << e % (kElements / 4) * 16;
    if (++channel == prepared.group_channels) {
      channel = 0;
      ++tap;
    }
  }
  static_cast<uint4*>(prepared.to)[index] = make_uint4(words[0], words[1], words[2], words[3]);
}

// Several threads a pixel, as many as it has chunks.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    sum_pixels(const EdgeconvConvPatches patches, int pixels, int groups, int team, int tf32, float* sums) {
  constexpr int kElements = kChunkBytes / static_cast<int>(sizeof(Element));
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / team;
  const bool exists = item < int64_t{pixels} * groups;
  const int group = static_cast<int>(item / pixels), pixel = static_cast<int>(item % pixels);
  const int last = patches.last_bytes / static_cast<int>(sizeof(Element));
  const int64_t first = int64_t{pixel} * patches.pixel_chunks + int64_t{group} * patches.channel_chunks;
  const uint4* const x = reinterpret_cast<const uint4*>(patches.x) + first;
  float sum = 0.0f;
  for (int chunk = threadIdx.x % team; chunk < patches.channel_chunks && exists; chunk += team) {
    float values[kElements];
    unpack(x[chunk], values);
    const int count = chunk == patches.channel_chunks - 1 ? last : kElements;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float value = tf32 ? __uint_as_float(round_to_tf32(values[e])) : values[e];
      if (e < count) sum = fmaf(value, value, sum);
    }
  }
  for (int distance = team / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (exists && threadIdx.x % team == 0) sums[item] = sum;
}

}  // namespace

extern "C" cudaError_t edgeconv_dot_prepare(const EdgeconvDotPreparation& prepared, cudaStream_t stream) {
  const bool half = prepared.element_bytes == 2;
  if (!prepared.channels_last && prepared.taps == 1) {
    const int64_t channels = int64_t{prepared.groups} * prepared.group_chunks * kChunkBytes;
    const int64_t pixels = int64_t{prepared.in_height} * prepared.in_width;
    const int64_t count = blocks(channels, 128) * blocks(pixels, 32) * prepared.images;
    return EDGECONV_LAUNCH(half ? gather_planes<uint16_t> : gather_planes<uint32_t>, dim3(count), dim3(kThreads), 0,
                           stream, prepared);
  }
  const int64_t chunks =
      int64_t{prepared.images} * prepared.in_height * prepared.out_width * prepared.groups * prepared.group_chunks;
  return EDGECONV_LAUNCH(half ? gather_chunks<uint16_t> : gather_chunks<uint32_t>, dim3(blocks(chunks, kThreads)),
                         dim3(kThreads), 0, stream, prepared, static_cast<int>(chunks));
}

extern "C" cudaError_t edgeconv_dot_pixel_sums(const EdgeconvDotProblem& problem, int element_type, bool tf32,
                                               cudaStream_t stream) {
  const EdgeconvConvPatches& patches = problem.patches;
  const int pixels = patches.positions / patches.image_positions * patches.height * patches.width;
  int team = 1;
  while (team < 32 && team < patches.channel_chunks) team *= 2;
  const int64_t count = blocks(int64_t{pixels} * problem.groups * team, kThreads);
  const auto kernel = element_type == EDGECONV_FLOAT16 ? sum_pixels<__half> : sum_pixels<float>;
  return EDGECONV_LAUNCH(kernel, dim3(count), dim3(kThreads), 0, stream, patches, pixels, problem.groups, team, tf32,
                         problem.pixel_sums);
}
