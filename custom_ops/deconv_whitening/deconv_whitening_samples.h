// Samples: gathered from the input into rows of F features, summed, and packed as operands of the register tile.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_SAMPLES_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_SAMPLES_H_

#include "common/float16.h"
#include "deconv_whitening/deconv_whitening_matrix.h"

namespace {

// By what samples and results are scaled: 1, or a power of two where their squares might overflow.
struct Scale {
  double scale;   // results: mean * scale, deconv / scale
  float inverse;  // samples: x * inverse; NaN where a sample is not finite, which makes all results NaN
};

// Consecutive positions in one row of windows.
struct Segment {
  int64_t first, count;  // within the chunk
  int64_t image;         // where it begins, in elements
  int64_t row, column;   // of the input, at the first position's first tap
};
constexpr int kMostSegments = 64;

// The segments of `count` positions from `first`.
inline int cut_segments(const EdgeconvConvShape& shape, int64_t first, int64_t count, Segment* segments) {
  const int64_t image_size = shape.in_channels * shape.in_height * shape.in_width;
  int segment_count = 0;
  for (int64_t done = 0; done < count; ++segment_count) {
    Segment& segment = segments[segment_count];
    const int64_t position = first + done;
    int64_t left;
    if (shape.kernel_height * shape.kernel_width == 1) {
      const int64_t pixel = position * shape.stride_width, image = pixel / shape.in_width;
      segment.image = image * image_size;
      segment.row = 0;
      segment.column = pixel - image * shape.in_width;
      left = divide_up(shape.in_width - segment.column, shape.stride_width);
    } else {
      const int64_t row = position / shape.out_width, column = position % shape.out_width;
      segment.image = row / shape.out_height * image_size;
      segment.row = row % shape.out_height * shape.stride_height - shape.pad_top;
      segment.column = column * shape.stride_width - shape.pad_left;
      left = shape.out_width - column;
    }
    segment.first = done;
    segment.count = smaller(left, count - done);
    done += segment.count;
  }
  return segment_count;
}

// to[i * to_step] = the columns column, column + step, … of a row of `width`; zeros in the padding.
template <typename Element>
inline void gather_row(const Element* row, int64_t width, int64_t column, int64_t step, int64_t count, int64_t to_step,
                       Element* to) {
  int64_t i = 0;
  if (column >= 0 && column + (count - 1) * step < width) {
    for (row += column; i < count; ++i, row += step, to += to_step) *to = *row;
    return;
  }
  for (; i < count; ++i, column += step, to += to_step) *to = column >= 0 && column < width ? row[column] : Element();
}

// The samples of `count` positions (at most kMostSegments) from `first`, one after another.
template <typename Element>
void gather(const Group& group, int64_t first, int64_t count, Element* to) {
  const EdgeconvDeconvWhiteningParams& params = *group.params;
  const EdgeconvConvShape& shape = params.shape;
  const int64_t stride = group.plan->sample_stride, blocks = params.blocks;
  const int64_t to_step = blocks * stride;
  Segment segments[kMostSegments];
  const int segment_count = cut_segments(shape, first, count, segments);
  int64_t feature = 0, block = 0;  // of a sample, and which
  const int64_t channels = shape.in_channels / shape.group;
  const Element* plane = static_cast<const Element*>(group.x);
  for (int64_t c = 0; c < channels; ++c, plane += shape.in_height * shape.in_width) {
    for (int64_t i = 0; i < shape.kernel_height; ++i) {
      for (int64_t j = 0; j < shape.kernel_width; ++j) {
        Element* const column = to + block * stride + feature;
        for (int s = 0; s < segment_count; ++s) {
          const Segment& segment = segments[s];
          Element* out = column + segment.first * to_step;
          const int64_t row = segment.row + i * shape.dilation_height;
          if (row >= 0 && row < shape.in_height) {
            gather_row(plane + segment.image + row * shape.in_width, shape.in_width,
                       segment.column + j * shape.dilation_width, shape.stride_width, segment.count, to_step, out);
          } else {
            for (int64_t p = 0; p < segment.count; ++p) out[p * to_step] = Element();
          }
        }
        if (++block == blocks) {
          block = 0;
          ++feature;
        }
      }
    }
  }
  for (int64_t sample = 0; sample < count * blocks; ++sample) {
    for (int64_t f = params.features; f < group.plan->full.padded; ++f) to[sample * stride + f] = Element();
  }
}

// Adds samples to sums, each a pair of the sum and of what was lost to rounding.
template <typename Element>
inline void add_samples(const Element* samples, int64_t count, int64_t stride, int64_t padded, float inverse,
                        float* sums, float* lost, Simd::Float* largest) {
  const Simd::Float factor = Simd::set(inverse);
  for (int64_t f = 0; f < padded; f += Simd::kLanes) {
    Simd::Float sum = Simd::load(sums + f), rest = Simd::load(lost + f), most = *largest;
    const Element* from = samples + f;
    for (int64_t sample = 0; sample < count; ++sample, from += stride) {
      const Simd::Float value = Simd::load(from), x = Simd::mul(value, factor);
      most = Simd::max_magnitude(most, value);
      const Simd::Float next = Simd::add(sum, x), part = Simd::sub(next, sum);
      rest = Simd::add(rest, Simd::add(Simd::sub(sum, Simd::sub(next, part)), Simd::sub(x, part)));
      sum = next;
    }
    Simd::store(sums + f, sum);
    Simd::store(lost + f, rest);
    *largest = most;
  }
}

// The larger of two magnitudes; NaN is larger than infinity.
inline float larger_magnitude(float a, float b) { return bits_from_float(a) > bits_from_float(b) ? a : b; }

template <typename Element>
void sum_part(const Group& group, int64_t task, float inverse) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const int64_t blocks = group.params->blocks, padded = plan.full.padded;
  float* const sums = group.scratch_after_offsets<float>();
  float* const lost = sums + padded;
  Element* const here = reinterpret_cast<Element*>(lost + padded);
  for (int64_t f = 0; f < 2 * padded; ++f) sums[f] = 0.0f;
  const int64_t begin = task * plan.mean_positions;
  const int64_t end = smaller(group.params->positions, begin + plan.mean_positions);
  Simd::Float largest = Simd::zero();
  for (int64_t first = begin; first < end; first += plan.chunk_positions) {
    const int64_t count = smaller(plan.chunk_positions, end - first);
    Element* const samples = plan.keep ? group.at<Element>(plan.gathered) + first * blocks * plan.sample_stride : here;
    gather(group, first, count, samples);
    add_samples(samples, count * blocks, plan.sample_stride, padded, inverse, sums, lost, &largest);
  }
  double* const partial = group.at<double>(plan.partial_sums) + task * padded;
  for (int64_t f = 0; f < padded; ++f) partial[f] = static_cast<double>(sums[f]) + static_cast<double>(lost[f]);
  float lanes[Simd::kLanes], most = 0.0f;
  Simd::store(lanes, largest);
  for (const float lane : lanes) most = larger_magnitude(most, lane);
  group.at<float>(plan.magnitudes)[task] = most;
}

// Up to here squares of samples, their covariance and the squares of that stay far from overflow and need no scaling.
constexpr uint32_t kLargeExponent = 127 + 20;
// From here on the sums of samples may overflow.
constexpr uint32_t kHugeExponent = 127 + 64;

// The power of two by which samples of a magnitude are multiplied before they are squared.
inline float inverse_scale(float magnitude) {
  const uint32_t exponent = bits_from_float(magnitude) >> 23;
  if (exponent <= kLargeExponent) return 1.0f;
  return float_from_bits((exponent == 254 ? 1 : 254 - exponent) << 23);  // no subnormal
}

// The largest magnitude of the samples, scaled and less their mean.
template <typename Element>
float largest_centred(const Group& group) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const int64_t blocks = group.params->blocks, positions = group.params->positions;
  const Simd::Float inverse = Simd::set(group.at<Scale>(plan.scale)->inverse);
  const float* const mean = group.at<float>(plan.mean);
  Element* const here = group.scratch_after_offsets<Element>();
  Simd::Float largest = Simd::zero();
  for (int64_t first = 0; first < positions; first += plan.chunk_positions) {
    const int64_t count = smaller(plan.chunk_positions, positions - first);
    gather(group, first, count, here);
    const Element* sample = here;
    for (int64_t i = 0; i < count * blocks; ++i, sample += plan.sample_stride) {
      for (int64_t f = 0; f < plan.full.padded; f += Simd::kLanes) {
        const Simd::Float x = Simd::mul(Simd::load(sample + f), inverse);
        largest = Simd::max_magnitude(largest, Simd::sub(x, Simd::load(mean + f)));
      }
    }
  }
  float lanes[Simd::kLanes], most = 0.0f;
  Simd::store(lanes, largest);
  for (const float lane : lanes) most = larger_magnitude(most, lane);
  return most;
}

// The mean of the samples in units of the scale, in two floats: what one of them lacks would show in the covariance of
// far-off samples.
inline void write_mean(const Group& group, double factor) {
  const EdgeconvDeconvWhiteningParams& params = *group.params;
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const double scale = group.at<Scale>(plan.scale)->scale;
  float* const high = group.at<float>(plan.mean);
  float* const low = high + plan.full.padded;
  const double* const partial = group.at<double>(plan.partial_sums);
  for (int64_t f = 0; f < plan.full.padded; ++f) {
    double mean = 0.0;
    for (int64_t task = 0; task < plan.mean_tasks; ++task) mean += partial[task * plan.full.padded + f];
    mean *= factor;
    high[f] = static_cast<float>(mean);
    low[f] = static_cast<float>(mean - static_cast<double>(high[f]));
    if (f < params.features) group.mean[f] = static_cast<float>(mean * scale);
    if (!params.centered) high[f] = low[f] = 0.0f;
  }
}

template <typename Element>
void finish_mean(const Group& group) {
  const EdgeconvDeconvWhiteningParams& params = *group.params;
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  float largest = 0.0f;
  for (int64_t task = 0; task < plan.mean_tasks; ++task) {
    largest = larger_magnitude(largest, group.at<float>(plan.magnitudes)[task]);
  }
  Scale& scale = *group.at<Scale>(plan.scale);
  scale = {1.0, 1.0f};
  double summed_by = 1.0;  // the factor that the sums have already
  const double samples = static_cast<double>(params.positions) * static_cast<double>(params.blocks);
  const uint32_t exponent = bits_from_float(largest) >> 23;
  const bool finite = exponent != 255;
  if (!finite) {
    scale.scale = scale.inverse = __builtin_nanf("");
  } else {
    scale.inverse = inverse_scale(largest);
    scale.scale = 1.0 / static_cast<double>(scale.inverse);
    if (exponent > kHugeExponent) {
      for (int64_t task = 0; task < plan.mean_tasks; ++task) sum_part<Element>(group, task, scale.inverse);
      summed_by = static_cast<double>(scale.inverse);
    }
  }
  write_mean(group, static_cast<double>(scale.inverse) / summed_by / samples);
  if (!finite || scale.inverse == 1.0f || !params.centered) return;
  // It is the centred samples that are squared. Where they are alike, however large, eps must not get lost in the
  // scale.
  const double spread = static_cast<double>(largest_centred<Element>(group)) * scale.scale;
  scale.inverse = inverse_scale(static_cast<float>(spread < 3e38 ? spread : 3e38));
  scale.scale = 1.0 / static_cast<double>(scale.inverse);
  write_mean(group, static_cast<double>(scale.inverse) / summed_by / samples);
}

// Centred and scaled values of one sample from feature f on, a vector of them.
template <typename Element>
struct Centred {
  Simd::Float inverse;
  const float* high;
  const float* low;

  explicit Centred(const Group& group)
      : inverse(Simd::set(group.at<Scale>(group.plan->scale)->inverse)),
        high(group.at<float>(group.plan->mean)),
        low(high + group.plan->full.padded) {}

  inline Simd::Float operator()(const Element* sample, int64_t f) const {
    const Simd::Float x = Simd::mul(Simd::load(sample + f), inverse);
    return Simd::sub(Simd::sub(x, Simd::load(high + f)), Simd::load(low + f));
  }
};

// Samples as rows of both operands of the features' products.
template <typename Element>
void pack_samples(const Group& group, const Element* samples, int64_t first, int64_t count) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const Centred<Element> centred(group);
  for (int64_t k = first; k < first + count; ++k, samples += plan.sample_stride) {
    float* right = group.at<float>(plan.samples) + k * kColumns;
    float* left = group.at<float>(plan.left) + k * kRows;
    for (int64_t column = 0; column < plan.full.padded; column += kColumns, right += plan.operand_rows * kColumns) {
      const int64_t end = smaller(kColumns, plan.full.padded - column);
      for (int64_t f = 0; f < end; f += Simd::kLanes) Simd::store(right + f, centred(samples, column + f));
      for (int64_t f = 0; f < end; f += kRows, left += plan.operand_rows * kRows) {
        RowSimd::store(left, RowSimd::load(right + f));
      }
    }
  }
}

// Few samples as columns of both operands of the samples' products, and as rows of the left operand of the result.
// `first` is a multiple of kRows; behind the last sample come zeros up to whole vectors.
template <typename Element>
void pack_few_samples(const Group& group, const Element* samples, int64_t first, int64_t count) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  constexpr int64_t kPanel = kRows > Simd::kLanes ? kRows : Simd::kLanes;  // whole vectors, whole tiles of rows
  const int64_t features = plan.operand_rows;
  const Centred<Element> centred(group);
  const int64_t end = first + count < plan.root.order ? first + count : plan.root.padded;
  for (int64_t k = first; k < end; k += kRows, samples += kRows * plan.sample_stride) {
    const int64_t there = smaller(kRows, first + count - k);
    float* const left = group.at<float>(plan.left) + k * features;
    float* const right = group.at<float>(plan.samples) + k / kColumns * features * kColumns + k % kColumns;
    for (int64_t f = 0; f < plan.full.padded; f += kPanel) {
      TileRows rows;
      for (int64_t r = 0; r < kRows; ++r) {
        const Element* const sample = samples + r * plan.sample_stride;
        for (int64_t c = 0; c < kPanel; c += Simd::kLanes) {
          Simd::store(rows.values + r * kColumns + c, r < there ? centred(sample, f + c) : Simd::zero());
        }
      }
      for (int64_t s = 0; s < kPanel; s += kRows) {
        float* const to = group.at<float>(plan.features_left) + (f + s) * plan.root.padded + k * kRows;
        for (int64_t r = 0; r < kRows; ++r) {
          RowSimd::store(to + r * kRows, RowSimd::load(rows.values + r * kColumns + s));
        }
      }
      alignas(64) float columns[kPanel * kRows];
      transpose(rows.values, kPanel, columns);
      const int64_t rest = smaller(kPanel, features - f);
      for (int64_t c = 0; c < rest; ++c) {
        const RowSimd::Float values = RowSimd::load(columns + c * kRows);
        RowSimd::store(left + (f + c) * kRows, values);
        RowSimd::store(right + (f + c) * kColumns, values);
      }
    }
  }
}

// Task `task` of the block `block` of samples.
template <typename Element>
void pack_part(const Group& group, int64_t block, int64_t task) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const int64_t blocks = group.params->blocks, begin = task * plan.chunk_positions;
  const int64_t count = smaller(plan.chunk_positions, block_positions(*group.params, plan, block) - begin);
  const int64_t first = block * plan.block_positions + begin;
  const Element* samples;
  if (plan.keep) {
    samples = group.at<Element>(plan.gathered) + first * blocks * plan.sample_stride;
  } else {
    Element* const here = group.scratch_after_offsets<Element>();
    gather(group, first, count, here);
    samples = here;
  }
  if (plan.few_samples) {
    pack_few_samples(group, samples, begin * blocks, count * blocks);
  } else {
    pack_samples(group, samples, begin * blocks, count * blocks);
  }
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_SAMPLES_H_
