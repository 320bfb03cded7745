// The correlation of cpu.h: forward, and data gradient with the activation's backward as its epilogue.
//
// One work item is kTiles tiles of one group and all output channels: their inputs are read with the sources' batch
// norm, ReLU and addends applied, transformed, multiplied by the packed weights, transformed back and finished.
#include "conv_block/cpu_epilogue.h"
#include "conv_block/cpu_tiles.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kSlab = kTiles * kRow;          // transformed inputs of one of the 16 places
constexpr int64_t kResultSlab = kTiles * kChunk;  // results of one of the 16 places for one chunk of channels

// Transforms the results of one vector of channels back and hands every pixel inside the map to the epilogue.
template <int M, class Epilogue>
void finish_channels(const float* results, const Patch* outputs, int64_t count, Epilogue& epilogue) {
  for (int64_t tile = 0; tile < count; ++tile) {
    const float* place = results + tile * kChunk;
    auto column = [&](int j) {
      return output_transform<M>({load(place + j * kResultSlab), load(place + (4 + j) * kResultSlab),
                                  load(place + (8 + j) * kResultSlab), load(place + (12 + j) * kResultSlab)});
    };
    const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
    const Patch& p = outputs[tile];
    for (int i = 0; i < M; ++i) {
      const Quad y = output_transform<M>(row(c0, c1, c2, c3, i));
      if (p.pixel[i][0] >= 0) epilogue(p.pixel[i][0], y.a);
      if (p.pixel[i][1] >= 0) epilogue(p.pixel[i][1], y.b);
      if (M == 3 && p.pixel[i][2] >= 0) epilogue(p.pixel[i][2], y.c);
    }
  }
}

template <class Epilogue>
void finish_chunk(const Form& form, const Target& target, int64_t c, int64_t width, const float* results,
                  const Patch* outputs, int64_t count, int64_t block) {
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    Epilogue epilogue(target, c + lane);
    if (form.m == 2) {
      finish_channels<2>(results + lane, outputs, count, epilogue);
    } else {
      finish_channels<3>(results + lane, outputs, count, epilogue);
    }
    if (target.sums) epilogue.finish(target.sums + block * Epilogue::count * target.channels + c + lane);
  }
}

// Calls f(target, first channel, width, chunk number) for the chunks [begin, end) of output channels.
template <class F>
void for_chunks(const Correlation& args, int64_t begin, int64_t end, F f) {
  int64_t chunk = 0;
  for (int i = 0; i < args.target_count; ++i) {
    const int64_t channels = args.targets[i].channels;
    for (int64_t c = 0; c < channels; c += kChunk, ++chunk) {
      if (chunk < begin || chunk >= end) continue;
      f(args.targets[i], c, channels - c < kChunk ? channels - c : kChunk, chunk);
    }
  }
}

// The tiles of one item, where their outputs lie and, for the use at hand, their inputs.
struct Tiles {
  int64_t count;
  Tile tile[kTiles];
  Patch output[kTiles], input[kTiles];
  bool live[kTiles];  // the input's frame is one of the video's

  Tiles(const Form& form, const Group& group, int64_t begin)
      : count(form.tiles() - begin < kTiles ? form.tiles() - begin : kTiles) {
    for (int64_t i = 0; i < count; ++i) {
      tile[i] = tile_at(form, begin + i);
      output[i] = output_patch(form, group, tile[i]);
    }
  }
  double pixels(int m) const {
    double inside = 0;
    for (int64_t i = 0; i < count; ++i)
      for (int j = 0; j < m * m; ++j) inside += output[i].pixel[j / m][j % m] >= 0;
    return inside;
  }
  bool find_inputs(const Form& form, const Use& use) {
    bool any = false;
    for (int64_t i = 0; i < count; ++i) any |= live[i] = input_patch(form, use, tile[i], input[i]);
    return any;
  }
};

void transform(const Source& source, int64_t first, int64_t depth, const Tiles& tiles, float* values) {
  with_reader(source, [&](auto* reader) {
    using R = std::remove_pointer_t<decltype(reader)>;
    for (int64_t i = 0; i < tiles.count; ++i) {
      float* to = values + i * kRow;
      if (i + 1 < tiles.count && tiles.live[i + 1]) prefetch<4>(source, first, depth, tiles.input[i + 1]);
      if (!tiles.live[i]) {
        for (int place = 0; place < 16; ++place)
          for (int64_t c = 0; c < depth; c += kLanes) store(to + place * kSlab + c, vfloat{});
      } else if (tiles.input[i].inside) {
        transform_input<kSlab, R, true>(source, first, depth, tiles.input[i], to);
      } else {
        transform_input<kSlab, R, false>(source, first, depth, tiles.input[i], to);
      }
    }
  });
}

}  // namespace

void chunk_channels(int64_t* channels) { *channels = kChunk; }

void correlate(const Correlation& args, int64_t item) {
  const Form& form = *args.form;
  const int64_t block = item / args.parts(), blocks = args.tile_blocks() / form.groups;
  const int64_t first_chunk = item % args.parts() * kPart;
  const int64_t last_chunk = first_chunk + kPart < args.chunks ? first_chunk + kPart : args.chunks;
  const Group& group = form.group[block / blocks];
  Tiles tiles(form, group, block % blocks * kTiles);
  if (args.counts && first_chunk == 0) args.counts[block] = tiles.pixels(form.m);

  float* values = scratch(Scratch::tiles, 16 * kSlab + kPart * 16 * kResultSlab);
  float* results = values + 16 * kSlab;
  auto result = [&](int64_t chunk) { return results + (chunk - first_chunk) * 16 * kResultSlab; };
  bool started = false;
  for (int u = 0; u < group.uses; ++u) {
    if (!tiles.find_inputs(form, group.use[u])) continue;
    int64_t k = 0;
    for (int s = 0; s < args.source_count; ++s) {
      const Source& source = args.sources[s];
      for (int64_t c = 0; c < source.channels; c += kDepth) {
        const int64_t depth = source.channels - c < kDepth ? source.channels - c : kDepth;
        transform(source, c, depth, tiles, values);
        for_chunks(args, first_chunk, last_chunk, [&](const Target&, int64_t, int64_t width, int64_t chunk) {
          for (int place = 0; place < 16; ++place) {
            const int64_t panel = (group.use[u].block * args.chunks + chunk) * 16 + place;
            product<kRow, 1, kChunk>(values + place * kSlab,
                                     args.packed + (panel * form.shape.channels_in + k) * kChunk, depth,
                                     result(chunk) + place * kResultSlab, kChunk, started, tiles.count, width > kLanes);
          }
        });
        started = true;
        k += depth;
      }
    }
  }
  if (!started) {
    for (int64_t i = 0; i < (last_chunk - first_chunk) * 16 * kResultSlab; ++i) results[i] = 0;
  }
  for_chunks(args, first_chunk, last_chunk, [&](const Target& target, int64_t c, int64_t width, int64_t chunk) {
    if (target.source) {
      finish_chunk<ActivationGrad>(form, target, c, width, result(chunk), tiles.output, tiles.count, block);
    } else {
      finish_chunk<StoreWithStats>(form, target, c, width, result(chunk), tiles.output, tiles.count, block);
    }
  });
}

// item = block * chunks + chunk: packs G w G^T of it as [16, channels_in, kChunk]; lanes past a target's end are zero.
void pack_weights(const Correlation& args, const Taps& w, int64_t item, float* packed) {
  const Form& form = *args.form;
  int64_t first = 0, width = 0;
  const int64_t chunk = item % args.chunks;
  for_chunks(args, chunk, chunk + 1, [&](const Target& target, int64_t c, int64_t own_width, int64_t) {
    first = target.first + c;
    width = own_width;
  });
  const Block& block = form.block[item / args.chunks];
  float* out = packed + item * 16 * form.shape.channels_in * kChunk;
  const int64_t place = form.shape.channels_in * kChunk;
  for (int64_t k = 0; k < form.shape.channels_in; ++k, out += kChunk) {
    alignas(64) float taps[3][3][kChunk] = {};
    for (int64_t n = 0; n < width; ++n) {
      const float* from = w.data + k * w.in + (first + n) * w.out + block.kt * w.t;
      for (int i = 0; i < form.r; ++i)
        for (int j = 0; j < form.r; ++j)
          if (block.ky[i] >= 0 && block.kx[j] >= 0) taps[i][j][n] = from[block.ky[i] * w.y + block.kx[j] * w.x];
    }
    for (int lane = 0; lane < kChunk; lane += kLanes) {
      auto column = [&](int j) {
        const Quad q{load(taps[0][j] + lane), load(taps[1][j] + lane), load(taps[2][j] + lane), vfloat{}};
        return form.r == 3 ? weight_transform<3>(q) : weight_transform<2>(q);
      };
      const Quad c0 = column(0), c1 = column(1), c2 = column(2);
      for (int i = 0; i < 4; ++i) {
        const Quad q = row(c0, c1, c2, Quad{}, i);
        const Quad u = form.r == 3 ? weight_transform<3>(q) : weight_transform<2>(q);
        float* to = out + 4 * i * place + lane;
        store(to, u.a);
        store(to + place, u.b);
        store(to + 2 * place, u.c);
        store(to + 3 * place, u.d);
      }
    }
  }
}

}  // namespace fi::FI_ISA
