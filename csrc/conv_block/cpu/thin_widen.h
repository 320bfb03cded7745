// The wide map from the thin one: see thin.h. Vectors lie along the wide channels, the thin values are broadcast.
#pragma once

#include "conv_block/cpu/epilogue.h"
#include "conv_block/cpu/thin_block.h"

namespace fi::FI_ISA {
namespace {

constexpr int kSegment = 32;  // pixels between kernel and epilogue: they stay in the first cache

// One chunk of V vectors of channels of a target, for a piece.
template <int V, class Epilogue>
struct Chunk {
  Epilogue epilogues[V];
};
template <class Epilogue>
Chunk<1, Epilogue> make_chunk(const Target& t, int64_t c, std::integral_constant<int, 1>) {
  return {{Epilogue(t, c)}};
}
template <class Epilogue>
Chunk<2, Epilogue> make_chunk(const Target& t, int64_t c, std::integral_constant<int, 2>) {
  return {{Epilogue(t, c), Epilogue(t, c + kLanes)}};
}
template <class Epilogue>
Chunk<4, Epilogue> make_chunk(const Target& t, int64_t c, std::integral_constant<int, 4>) {
  return {{Epilogue(t, c), Epilogue(t, c + kLanes), Epilogue(t, c + 2 * kLanes), Epilogue(t, c + 3 * kLanes)}};
}

alignas(64) constexpr float kZeros[kMostVectors * kLanes] = {};

struct Work {
  const ThinPlan& plan;
  const Piece& piece;
  const Band& band;
  const float* values;  // of the band
  int64_t number;       // of the piece

  int64_t channels() const { return plan.shape.thin_channels; }
  const float* row(int row) const { return values + row * piece.y->scale * band.columns * band.stride; }
  // Number of the first of a row's pixels in the wide map.
  int64_t pixel(int row) const {
    const int64_t frame = piece.sample * plan.grid[0] + piece.t->first + piece.t->step * piece.frame;
    const int64_t line = frame * plan.grid[1] + piece.y->first + piece.y->step * (piece.row + row);
    return line * plan.grid[2] + piece.x->first + piece.x->step * piece.column;
  }
};

// Calls f(V, first channel) for chunks of vectors of a target's channels.
template <class F>
void for_chunks(const Target& target, F f) {
  for (int64_t c = 0; c < target.channels;) {
    const int64_t vectors = (target.channels - c) / kLanes;
    if (vectors >= 4 && kMostVectors >= 4) {
      f(std::integral_constant<int, kMostVectors>{}, c);
      c += kMostVectors * kLanes;
    } else if (vectors >= 2) {
      f(std::integral_constant<int, 2>{}, c);
      c += 2 * kLanes;
    } else {
      f(std::integral_constant<int, 1>{}, c);
      c += kLanes;
    }
  }
}

template <int V, int STEP, int K, class Epilogue>
void run_chunk(const Work& work, const Target& target, int64_t c, const float* packed) {
  constexpr int P = kSums / V;
  const Piece& piece = work.piece;
  auto chunk = make_chunk<Epilogue>(target, c, std::integral_constant<int, V>{});
  alignas(64) float results[kSegment * V * kLanes];
  for (int row = 0; row < piece.rows; ++row) {
    const float* from = work.row(row);
    const int64_t pixel = work.pixel(row);
    for (int begin = 0; begin < piece.columns; begin += kSegment) {
      const int count = piece.columns - begin < kSegment ? piece.columns - begin : kSegment;
      for (int i = 0; i < count; i += P) {
        block<V, STEP, K>(from + (begin + i) * STEP, work.band, packed, work.channels(), kZeros,
                          results + i * V * kLanes, V * kLanes);
      }
      for (int v = 0; v < V; ++v) {
        Epilogue epilogue = chunk.epilogues[v];  // its sums stay in registers
        for (int i = 0; i < count; ++i) {
          float* result = results + (i * V + v) * kLanes;
          epilogue(pixel + piece.x->step * (begin + i), load(result), result);
        }
        chunk.epilogues[v] = epilogue;
      }
      if (V != kLineVectors || V == 1 || !target.past_caches) continue;
      float* out = static_cast<float*>(target.out) + c;
      for (int i = 0; i < count; ++i) {
        stream_line(out + (pixel + piece.x->step * (begin + i)) * target.channels, results + i * V * kLanes);
      }
    }
  }
  if (!target.sums) return;
  double* sums = target.sums + work.number * Epilogue::count * target.channels + c;
  for (int v = 0; v < V; ++v) chunk.epilogues[v].finish(sums + v * kLanes);
}

// y = result + bias with nothing to sum up: results go from registers to the map.
template <int V, int STEP, int K>
void store_chunk(const Work& work, const Target& target, int64_t c, const float* packed) {
  constexpr int P = kSums / V;
  const int64_t columns = work.piece.columns, step = work.piece.x->step * target.channels, channels = work.channels();
  const float* bias = target.bias ? target.bias + c : kZeros;
  for (int row = 0; row < work.piece.rows; ++row) {
    const float* from = work.row(row);
    float* to = static_cast<float*>(target.out) + work.pixel(row) * target.channels + c;
    const int64_t i = columns / P * P;  // pixels in whole blocks
    if (work.band.tap_count <= long_runs<K>(channels)) {
      const Tap* taps = work.band.taps;
      block_pass<V, STEP, K>(from, taps, taps + work.band.tap_count, packed, channels, bias, 0, to, step, i / P,
                             target.past_caches);
    } else {
      for (int64_t j = 0; j < i; j += P)
        block<V, STEP, K>(from + j * STEP, work.band, packed, channels, bias, to + j * step, step);
    }
    if (i == columns) continue;
    alignas(64) float results[kSums * kLanes];
    block<V, STEP, K>(from + i * STEP, work.band, packed, channels, bias, results, V * kLanes);
    for (int64_t p = 0; i + p < columns; ++p) {
      std::memcpy(to + (i + p) * step, results + p * V * kLanes, V * kLanes * sizeof(float));
    }
  }
}

template <class S, int STEP, int RUN>
void run_piece(const Widen& args, const Work& work) {
  for (int i = 0; i < args.target_count; ++i) {
    const Target& target = args.targets[i];
    const float* packed = args.packed + target.first * work.plan.taps() * work.channels();
    for_chunks(target, [&](auto vectors, int64_t c) {
      constexpr int V = vectors(), K = kRun<V, STEP, RUN>;
      const float* of_chunk = packed + c * work.plan.taps() * work.channels();
      if (target.source) return run_chunk<V, STEP, K, ActivationGrad<S>>(work, target, c, of_chunk);
      if constexpr (std::is_same<S, float>::value) {
        if (!target.sums) return store_chunk<V, STEP, K>(work, target, c, of_chunk);
      }
      run_chunk<V, STEP, K, StoreWithStats<S>>(work, target, c, of_chunk);
    });
  }
}

// packed: for each chunk of channels [taps, thin_channels, channels of the chunk].
inline void pack_widen_chunks(const Widen& args, const Taps& w, float* packed) {
  const ThinShape& s = args.plan->shape;
  for (int i = 0; i < args.target_count; ++i) {
    const Target& target = args.targets[i];
    for_chunks(target, [&](auto vectors, int64_t c) {
      float* to = packed + (target.first + c) * args.plan->taps() * s.thin_channels;
      for (int64_t tap = 0; tap < args.plan->taps(); ++tap) {
        const float* from = static_cast<const float*>(w.data) + (target.first + c) * w.out +
                            tap / (s.kernel[1] * s.kernel[2]) * w.t + tap / s.kernel[2] % s.kernel[1] * w.y +
                            tap % s.kernel[2] * w.x;
        for (int64_t thin = 0; thin < s.thin_channels; ++thin)
          for (int n = 0; n < vectors() * kLanes; ++n) *to++ = from[thin * w.in + n * w.out];
      }
    });
  }
}

template <class S>
void widen_piece(const Widen& args, int64_t number) {
  const ThinPlan& plan = *args.plan;
  const Piece& piece = plan.pieces[number];
  const Band band(plan, piece, kSums, kThin);
  float* values = scratch(Scratch::tiles, band.size());
  fill_thin<S>(band, args.sources, args.source_count, values);
  const Work work{plan, piece, band, values, number};
  if (piece.x->scale != 1) {
    run_piece<S, 2 * kThin, 1>(args, work);
  } else if (band.run == 5) {
    run_piece<S, kThin, 5>(args, work);
  } else {
    band.run == 3 ? run_piece<S, kThin, 3>(args, work) : run_piece<S, kThin, 1>(args, work);
  }
  end_stream();
}

}  // namespace
}  // namespace fi::FI_ISA
