// Launch functions: dispatch on the instruction set, checks, how a call is cut into tasks. The arithmetic is
// in qlinear_mobile_kernel.h, compiled once for each instruction set.
#include <algorithm>
#include <cstring>

#include "qlinear_mobile/qlinear_mobile_packing.h"

namespace {

// The best of this operator's files up to `isa`.
const EdgeconvQLinearMobileIsa* find_isa(int isa) {
  if (isa < EDGECONV_ISA_BASELINE || isa > edgeconv_best_isa()) return nullptr;
#ifdef __aarch64__
  if (isa >= EDGECONV_ISA_NEON_DOTPROD) return &edgeconv_qlinear_mobile_neon_dotprod;
  if (isa >= EDGECONV_ISA_NEON) return &edgeconv_qlinear_mobile_neon;
#elif defined(__x86_64__)
#ifdef EDGECONV_HAVE_AMX
  if (isa >= EDGECONV_ISA_AMX) return &edgeconv_qlinear_mobile_amx;
#endif
  if (isa >= EDGECONV_ISA_AVX512_VNNI) return &edgeconv_qlinear_mobile_avx512_vnni;
  if (isa >= EDGECONV_ISA_AVX2) return &edgeconv_qlinear_mobile_avx2;
#endif
  return &edgeconv_qlinear_mobile_baseline;
}

bool takes_norms(const EdgeconvQLinearMobileParams& params) {
  return params.function == EDGECONV_QLINEAR_GAUSSIAN || params.function == EDGECONV_QLINEAR_EUCLIDEAN;
}

bool has(const EdgeconvQLinearMobileParams& params, int stage) { return params.stages[stage].shape.out_channels > 0; }

int check_stages(const EdgeconvQLinearMobileParams& params, EdgeconvStatus* status) {
  const int invalid = EDGECONV_INVALID_ARGUMENT;
  const EdgeconvConvShape &dense = params.stages[kDense].shape, &depthwise = params.stages[kDepthwise].shape,
                          &pointwise = params.stages[kPointwise].shape;
  const bool block = has(params, kDepthwise);
  if (!has(params, kDense) && !block) return edgeconv_set_status(status, invalid, "there is no stage to begin with");
  if (params.function != EDGECONV_NO_FUNCTION && dense.group != 1) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "group is %lld: it must be 1", as_long(dense.group));
  }
  if (has(params, kDense) && dense.group != 1) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "group is %lld: it must be 1 or the number of channels",
                               as_long(dense.group));
  }
  if (params.function == EDGECONV_QLINEAR_POLYNOMIAL && params.degree < 1) {
    return edgeconv_set_status(status, invalid, "degree is %lld: it must be 1 or more", as_long(params.degree));
  }
  if (takes_norms(params) && taps_of(dense) > INT32_MAX / (255 * 255)) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "a window has %lld activations: the sum of their squares may not fit into 32 bits",
                               as_long(taps_of(dense)));
  }
  if (block && (depthwise.group != depthwise.in_channels || depthwise.group != depthwise.out_channels)) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "the depthwise stage has %lld channels, %lld filters and group %lld: they must be the "
                               "same",
                               as_long(depthwise.in_channels), as_long(depthwise.out_channels),
                               as_long(depthwise.group));
  }
  const auto is_pointwise = [](const EdgeconvConvShape& shape) {
    return shape.kernel_height == 1 && shape.kernel_width == 1 && shape.stride_height == 1 && shape.stride_width == 1;
  };
  if (has(params, kDense) && block && dense.out_channels != depthwise.in_channels) {
    return edgeconv_set_status(status, invalid, "the expansion has %lld filters, the depthwise stage %lld",
                               as_long(dense.out_channels), as_long(depthwise.in_channels));
  }
  if (has(params, kPointwise) &&
      !(block && is_pointwise(pointwise) && pointwise.group == 1 && pointwise.in_channels == depthwise.out_channels)) {
    return edgeconv_set_status(status, invalid, "the projection must be 1 x 1, of %lld channels",
                               as_long(depthwise.out_channels));
  }
  if (params.residual && !(has(params, kDense) && has(params, kPointwise))) {
    return edgeconv_set_status(status, invalid, "a residual needs an expansion and a projection");
  }
  return status->code = EDGECONV_OK;
}

// Takes places for parts one after the other, each at a multiple of 64 bytes.
class Places {
 public:
  explicit Places(int64_t used) : used_(used) {}
  int64_t take(int64_t bytes) {
    const int64_t place = used_;
    used_ += round_up(bytes, 64);
    return place;
  }
  int64_t used() const { return used_; }

 private:
  int64_t used_;
};

constexpr int64_t kHeader = 64;                 // of the packed weights and of the scratch
constexpr int64_t kComfortable = 256 << 10;     // bytes of scratch that a task by rows may take to have more rows
constexpr int64_t kComfortableRing = 32 << 10;  // and of the ring in one block of channels
constexpr int64_t kSmallImage = 28 * 28;        // pixels, that tasks by channels take whole
constexpr int64_t kFewPositions = 14 * 14;      // results
constexpr int64_t kMostScratch = 1 << 20;

bool reads_in_place(const EdgeconvQLinearMobileParams& params, const EdgeconvQLinearMobileIsa& isa,
                    const EdgeconvConvShape& shape) {
  return isa.element_bytes == 1 && isa.offset == 0 && params.type == EDGECONV_UINT8 && params.x_channels_last &&
         shape.in_channels % isa.depth == 0 && shape.kernel_height == 1 && shape.kernel_width == 1 &&
         shape.pad_top == 0 && shape.pad_left == 0 && (shape.out_height - 1) * shape.stride_height < shape.in_height &&
         (shape.out_width - 1) * shape.stride_width < shape.in_width;
}

int64_t rows_seen(const EdgeconvConvShape& shape, int64_t rows) {
  return (rows - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
}

int64_t columns_seen(const EdgeconvConvShape& shape) {
  return (shape.out_width - 1) * shape.stride_width + (shape.kernel_width - 1) * shape.dilation_width + 1;
}

// Lays out the scratch for tasks of `rows` rows of results, or of whole images.
void lay_scratch(const EdgeconvQLinearMobileParams& params, const EdgeconvQLinearMobileIsa& isa, int64_t rows,
                 EdgeconvQLinearMobilePlan* plan) {
  const bool by_channels = plan->order == EDGECONV_MOBILE_BY_CHANNELS;
  const EdgeconvConvShape& last = params.stages[plan->last].shape;
  const EdgeconvConvShape &dense = params.stages[kDense].shape, &depthwise = params.stages[kDepthwise].shape;
  const int64_t block = isa.lanes * isa.vectors, positions = rows * last.out_width, bytes = isa.element_bytes;
  Places scratch(kHeader);
  plan->rows = rows;
  plan->strip_rows = plan->strip_pitch = plan->ring_rows = plan->ring_pitch = 0;
  plan->strip = plan->ring = plan->zeros = plan->columns = plan->places = plan->window = plan->middle = 0;
  if (plan->last != kDense) {
    plan->ring_rows = by_channels ? depthwise.in_height : rows_seen(depthwise, rows);
    const int64_t columns = std::max(columns_seen(depthwise), depthwise.pad_left + depthwise.in_width);
    const int64_t groups = divide_up(depthwise.kernel_height, isa.depth);
    plan->ring_pitch = columns * block;
    const int64_t rings = by_channels ? 1 : plan->packed[kDepthwise].blocks;
    plan->ring = scratch.take(rings * plan->ring_rows * plan->ring_pitch * bytes);
    plan->zeros = scratch.take(plan->ring_pitch * bytes);
    plan->columns = scratch.take(groups * columns_seen(depthwise) * isa.vectors * block * bytes);
    plan->places = scratch.take(plan->ring_rows * depthwise.in_width * 4);
    plan->window = scratch.take(groups * isa.depth * 8);
    const int64_t results = round_up(depthwise.out_channels, isa.lanes) * bytes;
    if (by_channels) {
      plan->shared_bytes = depthwise.out_height * depthwise.out_width * results;
    } else {
      plan->middle = scratch.take(positions * results);
    }
  }
  if (plan->first == kDense && !reads_in_place(params, isa, dense)) {
    plan->strip_rows = rows_seen(dense, plan->last == kDense ? rows : plan->ring_rows);
    plan->strip_pitch = columns_seen(dense) * round_up(dense.in_channels, isa.depth);
    plan->strip = scratch.take(plan->strip_rows * plan->strip_pitch * bytes);
  }
  plan->pixels = plan->norms = 0;
  if (takes_norms(params)) {
    plan->pixels = scratch.take(rows_seen(dense, rows) * dense.in_width * 4);
    plan->norms = scratch.take(positions * 4);
  }
  plan->result = scratch.take(params.y_channels_last ? 0 : positions * block);
  plan->added = scratch.take(params.residual && !params.x_channels_last ? positions * block : 0);
  plan->scratch_bytes = scratch.used();
}

void cut(const EdgeconvQLinearMobileParams& params, const EdgeconvQLinearMobileIsa& isa,
         EdgeconvQLinearMobilePlan* plan) {
  const EdgeconvConvShape& last = params.stages[plan->last].shape;
  const EdgeconvConvShape& first = params.stages[plan->first].shape;
  const int64_t positions = last.out_height * last.out_width, pixels = first.in_height * first.in_width;
  plan->shared_bytes = 0;
  plan->pieces = plan->steps = 1;
  if (plan->last != kDepthwise && positions <= kFewPositions && pixels <= kSmallImage &&
      (plan->last == kPointwise || (first.kernel_height == 1 && first.kernel_width == 1))) {
    plan->order = EDGECONV_MOBILE_BY_CHANNELS;
    lay_scratch(params, isa, last.out_height, plan);
    if (plan->scratch_bytes <= kMostScratch) {
      const bool two = plan->last == kPointwise;
      plan->phases = two ? 2 * last.batch : 1;
      plan->pieces = two ? std::clamp<int64_t>(positions / 24, 1, 4) : 1;
      plan->tasks[0] = two ? plan->packed[kDepthwise].blocks : last.batch * plan->packed[kDense].blocks;
      plan->tasks[1] = plan->packed[plan->last].blocks * plan->pieces;
      return;
    }
  }
  plan->order = EDGECONV_MOBILE_BY_ROWS;
  plan->shared_bytes = 0;
  int64_t rows = last.out_height;
  const auto ring_bytes = [&] { return plan->ring_rows * plan->ring_pitch * isa.element_bytes; };
  for (lay_scratch(params, isa, rows, plan);
       rows > 1 && (plan->scratch_bytes > kComfortable || ring_bytes() > kComfortableRing); --rows) {
    lay_scratch(params, isa, rows - 1, plan);
  }
  plan->steps = divide_up(last.out_height, rows);
  lay_scratch(params, isa, divide_up(last.out_height, plan->steps), plan);
  plan->phases = 1;
  plan->tasks[0] = plan->tasks[1] = last.batch * plan->steps;
}

}  // namespace

extern "C" {

int edgeconv_qlinear_mobile_packing_plan(const EdgeconvQLinearMobileParams* params, int isa,
                                         EdgeconvQLinearMobilePlan* plan, EdgeconvStatus* status) {
  *plan = {};
  const EdgeconvQLinearMobileIsa* const found = find_isa(isa);
  if (found == nullptr) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "this CPU does not have the instruction set %s",
                               edgeconv_isa_name(isa));
  }
  if (check_stages(*params, status) != EDGECONV_OK) return status->code;
  plan->first = has(*params, kDense) ? kDense : kDepthwise;
  plan->last = has(*params, kPointwise) ? kPointwise : has(*params, kDepthwise) ? kDepthwise : kDense;
  Places packed(kHeader);
  for (int stage = 0; stage < EDGECONV_MOBILE_STAGES; ++stage) {
    if (!has(*params, stage)) continue;
    const EdgeconvConvShape& shape = params->stages[stage].shape;
    EdgeconvMobilePacked& place = plan->packed[stage];
    const int64_t padded = round_up(shape.out_channels, found->lanes);
    const int64_t area = shape.kernel_height * shape.kernel_width;
    // The pointwise stage takes the depthwise stage's results with their padding.
    const int64_t channels = round_up(shape.in_channels, stage == kPointwise ? found->lanes : found->depth);
    place.depth = channels * area;
    if (stage == kDepthwise) {
      place.depth =
          round_up(shape.kernel_height, found->depth) * shape.kernel_width * depthwise_variants(shape, found->depth);
    }
    place.blocks = channel_blocks(shape.out_channels, found->lanes, found->vectors);
    place.weights = packed.take(padded * place.depth * found->element_bytes);
    place.bias = packed.take(padded * 4);
    place.multipliers = packed.take(padded * 4);
    place.offsets = packed.take(found->biased ? padded * 4 : 0);
    place.functions = packed.take(params->function != EDGECONV_NO_FUNCTION ? 4 * padded * 4 : 0);
  }
  plan->packed_bytes = packed.used();
  return status->code = EDGECONV_OK;
}

int edgeconv_qlinear_mobile_pack(const EdgeconvQLinearMobileParams* params, int isa,
                                 const EdgeconvQLinearMobilePlan* plan, const EdgeconvQLinearWeights* weights,
                                 void* packed, EdgeconvStatus* status) {
  const EdgeconvQLinearMobileIsa& found = *find_isa(isa);
  std::memset(packed, 0, static_cast<size_t>(plan->packed_bytes));
  EdgeconvQLinearGrid x = params->x;
  for (int stage = 0; stage < EDGECONV_MOBILE_STAGES; ++stage) {
    if (!has(*params, stage)) continue;
    const int code = pack_stage(*params, found, *plan, stage, x, weights[stage], static_cast<uint8_t*>(packed), status);
    if (code != EDGECONV_OK) return code;
    x = params->stages[stage].y;
  }
  return status->code = EDGECONV_OK;
}

int edgeconv_qlinear_mobile_plan(EdgeconvQLinearMobileParams* params, int isa, int64_t batch, int64_t height,
                                 int64_t width, const EdgeconvConvAttributes* windows, EdgeconvQLinearMobilePlan* plan,
                                 EdgeconvStatus* status) {
  for (int stage = 0; stage < EDGECONV_MOBILE_STAGES; ++stage) {
    if (!has(*params, stage)) continue;
    EdgeconvConvShape& shape = params->stages[stage].shape;
    const int64_t dims[4] = {batch, shape.in_channels, height, width};
    if (edgeconv_conv_input_shape(windows + stage, dims, 4, &shape, status) != EDGECONV_OK) {
      return status->code;
    }
    height = shape.out_height;
    width = shape.out_width;
  }
  const EdgeconvConvShape& last = params->stages[plan->last].shape;
  const EdgeconvConvShape& first = params->stages[plan->first].shape;
  if (params->residual && (last.out_channels != first.in_channels || last.out_height != first.in_height ||
                           last.out_width != first.in_width)) {
    return edgeconv_set_status(
        status, EDGECONV_INVALID_ARGUMENT,
        "X has shape (%lld, %lld, %lld, %lld), what it is added to (%lld, %lld, %lld, %lld): they "
        "must be the same",
        as_long(batch), as_long(first.in_channels), as_long(first.in_height), as_long(first.in_width), as_long(batch),
        as_long(last.out_channels), as_long(last.out_height), as_long(last.out_width));
  }
  cut(*params, *find_isa(isa), plan);
  return status->code = EDGECONV_OK;
}

void edgeconv_qlinear_mobile_begin(void* scratch) { std::memset(scratch, 0, kHeader); }

void edgeconv_qlinear_mobile_run(const EdgeconvQLinearMobileParams* params, int isa,
                                 const EdgeconvQLinearMobilePlan* plan, const EdgeconvQLinearMobileArguments* arguments,
                                 int64_t phase, int64_t first, int64_t last, void* scratch) {
  const EdgeconvQLinearMobileIsa& found = *find_isa(isa);
  for (int64_t task = first; task < last; ++task) found.run(params, plan, arguments, phase, task, scratch);
}

}  // extern "C"
