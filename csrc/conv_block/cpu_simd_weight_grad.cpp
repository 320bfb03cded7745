// The weight gradient of cpu.h: dw = G^T [ sum over tiles of (B^T d B) . (A dy A^T) ] G.
//
// One work item is one row of the 4 x 4 places, which needs two rows of each input patch, for a chunk of input and a
// chunk of output channels. It walks all tiles in order, so the sum is the same for any number of threads and chunks.
#include "conv_block/cpu_tiles.h"

namespace fi::FI_ISA {
namespace {

constexpr int kBatch = 56;      // tiles of one product
constexpr int kMaxOut = 128;    // most output channels of an item
constexpr int kRowOut = kMaxOut + 16;

// values[place][c]: row i of B^T d, then B along the columns.
template <class R, bool INSIDE>
void transform_input_row(const Source& source, int64_t c0, int64_t depth, const Patch& p, int i, float* values) {
    static constexpr int upper[] = {0, 1, 2, 1}, lower[] = {2, 2, 1, 3};
    const float sign = i == 1 ? 1.0f : -1.0f;
    const int64_t *above = p.pixel[upper[i]], *below = p.pixel[lower[i]];
    for (int64_t c = 0; c < depth; c += kLanes) {
        const R read(source, c0 + c);
        auto pair = [&](int j) {
            return read.template at<INSIDE>(above[j]) + sign * read.template at<INSIDE>(below[j]);
        };
        const Quad v = input_transform({pair(0), pair(1), pair(2), pair(3)});
        store(values + c, v.a);
        store(values + kBatch * kRow + c, v.b);
        store(values + 2 * kBatch * kRow + c, v.c);
        store(values + 3 * kBatch * kRow + c, v.d);
    }
}

// The same for row i of A dy.
template <class R, int M>
void transform_upstream_row(const Source& source, int64_t c0, int64_t width, const Patch& p, int i, float* values) {
    static constexpr float factors[2][4][3] = {{{1, 0, 0}, {1, 1, 0}, {1, -1, 0}, {0, -1, 0}},
                                               {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, -1}}};
    for (int64_t c = 0; c < width; c += kLanes) {
        const R read(source, c0 + c);
        auto combine = [&](int j) {
            vfloat v{};
            for (int k = 0; k < M; ++k) {
                const float f = factors[M - 2][i][k];
                if (f != 0 && p.pixel[k][j] >= 0) v += f * read(p.pixel[k][j]);
            }
            return v;
        };
        const Quad v = upstream_transform<M>({combine(0), combine(1), M == 3 ? combine(2) : vfloat{}, vfloat{}});
        store(values + c, v.a);
        store(values + kBatch * kRowOut + c, v.b);
        store(values + 2 * kBatch * kRowOut + c, v.c);
        store(values + 3 * kBatch * kRowOut + c, v.d);
    }
}

struct Work {
    int block, i;
    const Source* source;
    int64_t source_channel, k0, depth;  // channels [source_channel, + depth) of the source, k0 of all sources
    int64_t n0, width;                  // output channels
};

Work work_of(const WeightGrad& args, int64_t item) {
    Work w{};
    const int64_t piece_out = item % args.pieces_out;
    item /= args.pieces_out;
    int64_t piece = item % args.pieces_in;
    item /= args.pieces_in;
    w.i = static_cast<int>(item % 4);
    w.block = static_cast<int>(item / 4);
    for (int s = 0; s < args.source_count; ++s) {
        const int64_t channels = args.sources[s].channels, pieces = (channels + args.chunk_in - 1) / args.chunk_in;
        if (piece < pieces) {
            w.source = &args.sources[s];
            w.source_channel = piece * args.chunk_in;
            w.k0 += w.source_channel;
            w.depth = channels - w.source_channel < args.chunk_in ? channels - w.source_channel : args.chunk_in;
            break;
        }
        piece -= pieces;
        w.k0 += channels;
    }
    w.n0 = piece_out * args.chunk_out;
    const int64_t rest = args.form->shape.channels_out - w.n0;
    w.width = rest < args.chunk_out ? rest : args.chunk_out;
    return w;
}

// product[4 i + place, k0 + k, n0 + n] (+)= sum over the batch of values[place][tile][k] * upstream[place][tile][n].
void multiply(const WeightGrad& args, const Work& w, const float* values, const float* upstream, int64_t batch,
              bool add) {
    const int64_t channels_in = args.form->shape.channels_in, channels_out = args.form->shape.channels_out;
    for (int place = 0; place < 4; ++place) {
        float* out = args.product + ((w.block * 16 + 4 * w.i + place) * channels_in + w.k0) * channels_out + w.n0;
        for (int64_t n = 0; n < w.width; n += kChunk) {
            product<1, kRow, kRowOut>(values + place * kBatch * kRow, upstream + place * kBatch * kRowOut + n, batch,
                                      out + n, channels_out, add, w.depth, w.width - n > kLanes);
        }
    }
}

// Writes the taps of one block for the output channels [n0, n0 + kLanes).
void unpack_vector(const Form& form, const float* product, const Taps& dw, int number, int64_t n0) {
    const int64_t channels_in = form.shape.channels_in, channels_out = form.shape.channels_out;
    const Block& block = form.block[number];
    const float* base = product + number * 16 * channels_in * channels_out + n0;
    const int64_t place = channels_in * channels_out;
    for (int64_t k = 0; k < channels_in; ++k, base += channels_out) {
        auto column = [&](int j) {
            const Quad q{load(base + j * place), load(base + (4 + j) * place), load(base + (8 + j) * place),
                         load(base + (12 + j) * place)};
            return form.r == 3 ? weight_grad_transform<3>(q) : weight_grad_transform<2>(q);
        };
        const Quad c0 = column(0), c1 = column(1), c2 = column(2), c3 = column(3);
        alignas(64) float taps[3][3][kLanes];
        for (int i = 0; i < form.r; ++i) {
            const Quad q = row(c0, c1, c2, c3, i);
            const Quad t = form.r == 3 ? weight_grad_transform<3>(q) : weight_grad_transform<2>(q);
            store(taps[i][0], t.a);
            store(taps[i][1], t.b);
            store(taps[i][2], t.c);
        }
        for (int n = 0; n < kLanes; ++n) {
            float* to = dw.data + k * dw.in + (n0 + n) * dw.out + block.kt * dw.t;
            for (int i = 0; i < form.r; ++i)
                for (int j = 0; j < form.r; ++j)
                    if (block.ky[i] >= 0 && block.kx[j] >= 0) to[block.ky[i] * dw.y + block.kx[j] * dw.x] = taps[i][j][n];
        }
    }
}

}  // namespace

void weight_grad(const WeightGrad& args, int64_t item) {
    const Form& form = *args.form;
    const Work w = work_of(args, item);
    static thread_local float values[4 * kBatch * kRow], upstream[4 * kBatch * kRowOut];
    bool started = false;
    for (int g = 0; g < form.groups; ++g) {
        for (int u = 0; u < form.group[g].uses; ++u) {
            const Use& use = form.group[g].use[u];
            if (use.block != w.block) continue;
            for (int64_t next = 0, tiles = form.tiles(); next < tiles;) {
                int64_t batch = 0;
                for (; next < tiles && batch < kBatch; ++next) {
                    const Tile tile = tile_at(form, next);
                    Patch in;
                    if (!input_patch(form, use, tile, in)) continue;
                    const Patch out = output_patch(form, form.group[g], tile);
                    with_reader(*w.source, [&](auto* reader) {
                        using R = std::remove_pointer_t<decltype(reader)>;
                        float* to = values + batch * kRow;
                        if (in.inside) {
                            transform_input_row<R, true>(*w.source, w.source_channel, w.depth, in, w.i, to);
                        } else {
                            transform_input_row<R, false>(*w.source, w.source_channel, w.depth, in, w.i, to);
                        }
                    });
                    float* to = upstream + batch * kRowOut;
                    auto upstream_by = [&](auto* reader) {
                        using R = std::remove_pointer_t<decltype(reader)>;
                        if (form.m == 2) {
                            transform_upstream_row<R, 2>(args.upstream, w.n0, w.width, out, w.i, to);
                        } else {
                            transform_upstream_row<R, 3>(args.upstream, w.n0, w.width, out, w.i, to);
                        }
                    };
                    args.upstream.mean ? upstream_by(static_cast<Reader<1, 0, 1>*>(nullptr))
                                       : upstream_by(static_cast<Reader<0, 0, 0>*>(nullptr));
                    ++batch;
                }
                if (batch) multiply(args, w, values, upstream, batch, started);
                started |= batch > 0;
            }
        }
    }
    if (started) return;
    for (int place = 0; place < 4; ++place) {
        for (int64_t k = 0; k < w.depth; ++k) {
            float* out = args.product + ((w.block * 16 + 4 * w.i + place) * form.shape.channels_in + w.k0 + k) *
                                            form.shape.channels_out + w.n0;
            for (int64_t n = 0; n < w.width; ++n) out[n] = 0;
        }
    }
}

// item = block * (channels_out / 16) + group of 16 output channels: writes dw's taps of that block.
void unpack_weight_grad(const Form& form, const float* product, const Taps& dw, int64_t item) {
    const int64_t groups = form.shape.channels_out / 16;
    for (int64_t n0 = item % groups * 16, end = n0 + 16; n0 < end; n0 += kLanes) {
        unpack_vector(form, product, dw, static_cast<int>(item / groups), n0);
    }
}

}  // namespace fi::FI_ISA
