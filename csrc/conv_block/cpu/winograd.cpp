// Entry points of the Winograd convolutions on the CPU: channels-last, every channel count a multiple of 16. Maps are
// float32 or bfloat16, weights as the maps or float32, vectors float32.
// Each but the first returns 0. Maps, vectors and weights are the caller's; nothing is kept but scratch memory per
// thread.
#include "conv_block/cpu/winograd.h"

#include "conv_block/cpu/amx.h"

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "activation/cpu_merge.h"
#include "common/cpu_parallel.h"
#include "conv_block/cpu/grad_targets.h"

namespace fi {

constexpr size_t kLargePage =
    2 << 20;  // packed weights are streamed over and over: small pages cost a fifth of the time
constexpr int64_t kLargeMap = 8 << 20;  // bytes
constexpr int64_t kWidestVector = 64;   // bytes

float* scratch(Scratch which, int64_t floats) {
  struct Buffer {
    float* data = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(data); }
  };
  static thread_local Buffer buffers[4];
  Buffer& buffer = buffers[static_cast<int>(which)];
  if (buffer.size < floats) {
    std::free(buffer.data);
    const size_t page = floats * 4 < kLargePage ? 4096 : kLargePage, bytes = (floats * 4 + page - 1) / page * page;
    buffer.data = static_cast<float*>(std::aligned_alloc(page, bytes));
    if (!buffer.data) std::abort();
#if defined(MADV_HUGEPAGE)
    if (page == kLargePage) madvise(buffer.data, bytes, MADV_HUGEPAGE);
#endif
    buffer.size = floats;
  }
  return buffer.data;
}

bool leaves_caches(const void* map, int64_t values) {
  return values * int64_t{sizeof(float)} > kLargeMap && reinterpret_cast<uintptr_t>(map) % kWidestVector == 0;
}

MultiplyByAmx& amx() {
  static MultiplyByAmx chosen = [] { return FI_DISPATCH_BF16(multiply_by_amx()) }();
  return chosen;
}

namespace {

int64_t pixels_out(const ConvShape& s) { return s.batch * s.frames_out * s.height_out * s.width_out; }

Taps taps_of(const void* weight, const int64_t* strides, int dtype) {
  return {const_cast<void*>(weight), strides[0], strides[1], strides[2], strides[3], strides[4],
          static_cast<Dtype>(dtype)};
}

// Packs the weight and runs every item; targets' sums and counts are the caller's to merge.
void run(Correlation& args, Dtype dtype, const Taps& weight, int threads) {
  const Form& form = *args.form;
  const bool half = dtype == Dtype::bfloat16;
  int64_t chunk = 0;
  if (half) {
    FI_DISPATCH_BF16(chunk_channels_bf16(&chunk))
  } else {
    FI_DISPATCH(chunk_channels(&chunk))
  }
  args.part = kPartChannels / chunk;
  for (int i = 0; i < args.target_count; ++i) args.chunks += (args.targets[i].channels + chunk - 1) / chunk;
  const int64_t values = form.blocks * args.chunks * form.places * form.shape.channels_in * chunk;
  float* packed = scratch(Scratch::weights, half ? values / 2 : values);
  auto pack = [&](int64_t item, int) {
    if (half) {
      FI_DISPATCH_BF16(pack_weights_bf16(args, weight, item, packed))
    } else {
      FI_DISPATCH(pack_weights(args, weight, item, packed))
    }
  };
  parallel_for(form.blocks * args.chunks, threads, pack);
  args.packed = packed;
  // the last item of a thread leaves the others idle: few items that do not go round evenly are halved, though each
  // half transforms all inputs
  const int64_t items = args.items(), rounds = (items + threads - 1) / threads;
  if (items < 16 * threads && rounds * threads * 20 > items * 21) args.part /= 2;
  auto body = [&](int64_t item, int) {
    if (half) {
      FI_DISPATCH_BF16(correlate_bf16(args, item))
    } else {
      FI_DISPATCH(correlate(args, item))
    }
  };
  parallel_for(args.items(), threads, body);
}

// Cuts the work into pieces of channels, halved until every thread has work. Few channels make few pieces: then the
// tiles are split too, by sizes alone, so the sum does not depend on the number of threads.
void divide(WeightGrad& args, int threads) {
  const ConvShape& shape = args.form->shape;
  auto count_pieces = [&] {
    args.pieces_in = 0;
    for (int i = 0; i < args.source_count; ++i) {
      args.pieces_in += (args.sources[i].channels + args.chunk_in - 1) / args.chunk_in;
    }
    args.pieces_out = (shape.channels_out + args.chunk_out - 1) / args.chunk_out;
  };
  count_pieces();
  args.splits = std::clamp<int64_t>(std::min(8 / args.items(), args.form->tiles() / 256), 1, 8);
  while (args.items() < 2 * threads && args.chunk_in > 32) {
    args.chunk_in /= 2;
    args.chunk_out = std::max<int64_t>(32, args.chunk_out / 2);
    count_pieces();
  }
}

}  // namespace
}  // namespace fi

using namespace fi;

// Outputs a side of a tile of the correlation or, with of_weight, of the weight gradient.
FI_EXPORT int fi_cpu_winograd_tile(const ConvShape* shape, int dtype, int of_weight) {
  const Dtype maps = static_cast<Dtype>(dtype);
  return (of_weight ? make_weight_grad_form(*shape, maps) : make_form(*shape, maps)).m;
}

// y = correlation of the sources' activations + bias; mean and var [channels_out] of y where not null.
// strides: of the weight's in, out, t, y, x axes, in values.
FI_EXPORT int fi_cpu_winograd_fwd(const ConvShape* shape, const Source* sources, int count, const void* weight,
                                  const int64_t* strides, const float* bias, void* y, float* mean, float* var,
                                  int dtype, int weight_dtype, int threads) {
  const Form form = make_form(*shape, static_cast<Dtype>(dtype));
  const bool past_caches = leaves_caches(y, pixels_out(*shape) * shape->channels_out);
  Target target{y, shape->channels_out, 0, bias, nullptr, nullptr, nullptr, past_caches};
  Correlation args{&form, sources, count, &target, 1, nullptr, nullptr, 0, 0};
  std::vector<double> sums(mean ? args.tile_blocks() * 3 * shape->channels_out : 0);
  std::vector<double> counts(mean ? args.tile_blocks() : 0);
  if (mean) {
    target.sums = sums.data();
    args.counts = counts.data();
  }
  run(args, static_cast<Dtype>(dtype), taps_of(weight, strides, weight_dtype), threads);
  if (mean) {
    auto pixels = [&](int64_t block) { return counts[block]; };
    merge_stats(sums, pixels, shape->channels_out, mean, var);
  }
  return 0;
}

// The gradients of the sources from G, the upstream source, to grads [count]; `shape` is that of the data gradient,
// from G to a.
FI_EXPORT int fi_cpu_winograd_dgrad(const ConvShape* shape, const Source* upstream, const void* weight,
                                    const int64_t* strides, const Source* sources, int count, const SourceGrads* grads,
                                    int dtype, int weight_dtype, int threads) {
  const Form form = make_form(*shape, static_cast<Dtype>(dtype));
  Correlation args{&form, upstream, 1, nullptr, 0, nullptr, nullptr, 0, 0};
  const GradTargets targets(sources, count, grads, pixels_out(*shape), args.tile_blocks());
  args.targets = targets.list.data();
  args.target_count = targets.count();
  run(args, static_cast<Dtype>(dtype), taps_of(weight, strides, weight_dtype), threads);
  targets.merge();
  return 0;
}

// dweight, by the strides of its in, out, t, y, x axes, from the sources' activations and G.
FI_EXPORT int fi_cpu_winograd_wgrad(const ConvShape* shape, const Source* sources, int count, const Source* upstream,
                                    void* dweight, const int64_t* strides, int dtype, int weight_dtype, int threads) {
  const Form form = make_weight_grad_form(*shape, static_cast<Dtype>(dtype));
  WeightGrad args{&form, sources, count, *upstream, nullptr, 1, kChunkIn, kChunkOut, 0, 0};
  divide(args, threads);
  args.product = scratch(Scratch::weights, args.splits * args.split_size());
  const bool half = static_cast<Dtype>(dtype) == Dtype::bfloat16;
  auto body = [&](int64_t item, int) {
    if (half) {
      FI_DISPATCH_BF16(weight_grad_bf16(args, item))
    } else {
      FI_DISPATCH(weight_grad(args, item))
    }
  };
  parallel_for(args.items(), threads, body);
  const Taps taps = taps_of(dweight, strides, weight_dtype);
  auto unpack = [&](int64_t item, int) {
    if (half) {
      FI_DISPATCH_BF16(unpack_weight_grad_bf16(args, taps, item))
    } else {
      FI_DISPATCH(unpack_weight_grad(args, taps, item))
    }
  };
  parallel_for(form.blocks * (shape->channels_out / 16), threads, unpack);
  return 0;
}

// For tests: products of bfloat16 pairs by this function, or null.
FI_EXPORT void fi_cpu_use_amx(void* multiply) { fi::amx() = reinterpret_cast<fi::MultiplyByAmx>(multiply); }
