// The correlation of cpu.h: forward, and data gradient with the activation's backward as its epilogue.
//
// One work item is kTiles tiles of one group and all output channels: their inputs are read with the sources' batch
// norm, ReLU and addends applied, transformed, multiplied by the packed weights, transformed back and finished.
#include <cstdlib>

#include "conv_block/cpu_tiles.h"

namespace fi::FI_ISA {
namespace {

constexpr int64_t kSlab = kTiles * kRow;           // transformed inputs of one of the 16 places
constexpr int64_t kResultSlab = kTiles * kChunk;   // results of one of the 16 places for one chunk of channels

// A buffer of the calling thread, kept between calls and grown as needed: fresh pages cost more than the arithmetic.
float* scratch(int64_t floats) {
    struct Buffer {
        float* data = nullptr;
        int64_t size = 0;
        ~Buffer() { std::free(data); }
    };
    static thread_local Buffer buffer;
    if (buffer.size < floats) {
        std::free(buffer.data);
        const int64_t bytes = (floats * 4 + 4095) / 4096 * 4096;
        buffer.data = static_cast<float*>(std::aligned_alloc(4096, bytes));
        buffer.size = floats;
    }
    return buffer.data;
}

// values[place][tile][c] = (B^T d B)[place] for `depth` channels of one source from c0 on.
template <class R, bool INSIDE>
void transform_tile(const Source& source, int64_t c0, int64_t depth, const Patch& p, float* values) {
    for (int64_t c = 0; c < depth; c += kLanes) {
        const R read(source, c0 + c);
        auto column = [&](int j) {
            return input_transform({read.template at<INSIDE>(p.pixel[0][j]), read.template at<INSIDE>(p.pixel[1][j]),
                                    read.template at<INSIDE>(p.pixel[2][j]), read.template at<INSIDE>(p.pixel[3][j])});
        };
        const Quad c0_ = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
        float* out = values + c;
        for (int i = 0; i < 4; ++i, out += 4 * kSlab) {
            const Quad v = input_transform(row(c0_, c1, c2, c3, i));
            store(out, v.a);
            store(out + kSlab, v.b);
            store(out + 2 * kSlab, v.c);
            store(out + 3 * kSlab, v.d);
        }
    }
}

// y = result + bias, with sums of what exceeds the item's first value.
struct StoreWithStats {
    float* out;
    int64_t channels;
    vfloat bias{}, first{};
    Halves sum, squares;
    bool any = false;

    StoreWithStats(const Target& t, int64_t c) : out(t.out + c), channels(t.channels) {
        if (t.bias) bias = load(t.bias + c);
    }
    void operator()(int64_t pixel, vfloat v) {
        v += bias;
        store(out + pixel * channels, v);
        if (!any) first = v;
        any = true;
        add(sum, v - first);
        add_product(squares, v - first, v - first);
    }
    static constexpr int count = 3;
    void finish(double* sums) const {
        store_sums(sums, halves(first), kLanes);
        store_sums(sums + channels, sum, kLanes);
        store_sums(sums + 2 * channels, squares, kLanes);
    }
};

// The activation's backward: dz = da * 1[z > 0], dx = dz * scale, and the sums of dz and dz * (x - mean).
struct ActivationGrad {
    const float* x;
    float *out, *daddend;
    int64_t channels;
    bool affine, clamp;
    vfloat mean{}, scale{}, shift{};
    Halves sum_dz, sum_dz_x;

    ActivationGrad(const Target& t, int64_t c)
        : x(static_cast<const float*>(t.source->x) + c),
          out(t.out + c),
          daddend(t.daddend ? t.daddend + c : nullptr),
          channels(t.channels),
          affine(t.source->mean),
          clamp(t.source->relu) {
        if (!affine) return;
        mean = load(static_cast<const float*>(t.source->mean) + c);
        scale = load(static_cast<const float*>(t.source->scale) + c);
        shift = load(static_cast<const float*>(t.source->shift) + c);
    }
    void operator()(int64_t pixel, vfloat dz) {
        const int64_t at = pixel * channels;
        if (daddend) store(daddend + at, dz);
        if (affine || clamp) {
            const vfloat xv = load(x + at);
            if (clamp) dz = gate(affine ? (xv - mean) * scale + shift : xv, dz);
            add(sum_dz, dz);
            add_product(sum_dz_x, dz, xv - mean);
        }
        store(out + at, affine ? dz * scale : dz);
    }
    static constexpr int count = 2;
    void finish(double* sums) const {
        store_sums(sums, sum_dz, kLanes);
        store_sums(sums + channels, sum_dz_x, kLanes);
    }
};

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
                  const Patch* outputs, int64_t count, int64_t item) {
    for (int64_t lane = 0; lane < width; lane += kLanes) {
        Epilogue epilogue(target, c + lane);
        if (form.m == 2) {
            finish_channels<2>(results + lane, outputs, count, epilogue);
        } else {
            finish_channels<3>(results + lane, outputs, count, epilogue);
        }
        if (target.sums) epilogue.finish(target.sums + item * Epilogue::count * target.channels + c + lane);
    }
}

// Calls f(target, first channel, width, chunk number) for every chunk of output channels.
template <class F>
int for_chunks(const Correlation& args, F f) {
    int chunk = 0;
    for (int i = 0; i < args.target_count; ++i) {
        const int64_t channels = args.targets[i].channels;
        for (int64_t c = 0; c < channels; c += kChunk) {
            f(args.targets[i], c, channels - c < kChunk ? channels - c : kChunk, chunk++);
        }
    }
    return chunk;
}

}  // namespace

void chunk_channels(int64_t* channels) { *channels = kChunk; }

void correlate(const Correlation& args, int64_t item) {
    const Form& form = *args.form;
    const Group& group = form.group[item / args.items_per_group()];
    const int64_t begin = item % args.items_per_group() * kTiles;
    const int64_t count = form.tiles() - begin < kTiles ? form.tiles() - begin : kTiles;
    const int chunks = for_chunks(args, [](const Target&, int64_t, int64_t, int) {});
    float* values = scratch(16 * kSlab + chunks * 16 * kResultSlab);
    float* results = values + 16 * kSlab;

    Tile tiles[kTiles];
    Patch inputs[kTiles], outputs[kTiles];
    double pixels = 0;
    for (int64_t i = 0; i < count; ++i) {
        tiles[i] = tile_at(form, begin + i);
        outputs[i] = output_patch(form, group, tiles[i]);
        for (int j = 0; j < form.m * form.m; ++j) pixels += outputs[i].pixel[j / form.m][j % form.m] >= 0;
    }
    if (args.counts) args.counts[item] = pixels;

    bool started = false;
    for (int u = 0; u < group.uses; ++u) {
        const Use& use = group.use[u];
        bool live[kTiles], any = false;
        for (int64_t i = 0; i < count; ++i) any |= live[i] = input_patch(form, use, tiles[i], inputs[i]);
        if (!any) continue;
        int64_t k0 = 0;
        for (int s = 0; s < args.source_count; ++s) {
            const Source& source = args.sources[s];
            for (int64_t c0 = 0; c0 < source.channels; c0 += kDepth) {
                const int64_t depth = source.channels - c0 < kDepth ? source.channels - c0 : kDepth;
                with_reader(source, [&](auto* reader) {
                    using R = std::remove_pointer_t<decltype(reader)>;
                    for (int64_t i = 0; i < count; ++i) {
                        float* to = values + i * kRow;
                        if (!live[i]) {
                            for (int place = 0; place < 16; ++place)
                                for (int64_t c = 0; c < depth; c += kLanes) store(to + place * kSlab + c, vfloat{});
                        } else if (inputs[i].inside) {
                            transform_tile<R, true>(source, c0, depth, inputs[i], to);
                        } else {
                            transform_tile<R, false>(source, c0, depth, inputs[i], to);
                        }
                    }
                });
                for_chunks(args, [&](const Target&, int64_t, int64_t width, int chunk) {
                    const int64_t packed_rows = form.shape.channels_in;
                    for (int place = 0; place < 16; ++place) {
                        const int64_t panel = (static_cast<int64_t>(use.block) * chunks + chunk) * 16 + place;
                        product<kRow, 1, kChunk>(values + place * kSlab,
                                                 args.packed + (panel * packed_rows + k0) * kChunk, depth,
                                                 results + (chunk * 16 + place) * kResultSlab, kChunk, started, count,
                                                 width > kLanes);
                    }
                });
                started = true;
                k0 += depth;
            }
        }
    }
    if (!started) {
        for (int64_t i = 0; i < chunks * 16 * kResultSlab; ++i) results[i] = 0;
    }
    for_chunks(args, [&](const Target& target, int64_t c, int64_t width, int chunk) {
        const float* from = results + chunk * 16 * kResultSlab;
        if (target.source) {
            finish_chunk<ActivationGrad>(form, target, c, width, from, outputs, count, item);
        } else {
            finish_chunk<StoreWithStats>(form, target, c, width, from, outputs, count, item);
        }
    });
}

// item = block * chunks + chunk: packs G w G^T of it as [16, channels_in, kChunk]; lanes past a target's end are zero.
void pack_weights(const Correlation& args, const Taps& w, int64_t item, float* packed) {
    const Form& form = *args.form;
    const int chunks = for_chunks(args, [](const Target&, int64_t, int64_t, int) {});
    int64_t first = 0, width = 0;
    for_chunks(args, [&](const Target& target, int64_t c, int64_t own_width, int chunk) {
        if (chunk != item % chunks) return;
        first = target.first + c;
        width = own_width;
    });
    const Block& block = form.block[item / chunks];
    float* out = packed + item * 16 * form.shape.channels_in * kChunk;
    const int64_t place = form.shape.channels_in * kChunk;
    for (int64_t k = 0; k < form.shape.channels_in; ++k, out += kChunk) {
        alignas(64) float taps[3][3][kChunk] = {};
        for (int64_t n = 0; n < width; ++n) {
            const float* from = w.data + k * w.in + (first + n) * w.out + block.kt * w.t;
            for (int i = 0; i < form.r; ++i)
                for (int j = 0; j < form.r; ++j)
                    if (block.ky[i] >= 0 && block.kx[j] >= 0)
                        taps[i][j][n] = from[block.ky[i] * w.y + block.kx[j] * w.x];
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
