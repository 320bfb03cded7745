// Restates a convolution as correlations between sub-images: see winograd.h.
#include "conv_block/cpu/winograd.h"

namespace fi {
namespace {

// What a value of a transformed tile and one of a transformed weight cost, in multiplications of the products: those of
// ops/conv_block/cpu/select.py.
constexpr double kTransformed = 15, kPacked = 45;
constexpr int64_t kLeastDepth = 64, kLeastSteps = 16;

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

void add_use(Form& form, Group& group, int block, int kt, int first_y, int first_x, int origin_y, int origin_x) {
  const int frame = static_cast<int>(form.shape.time_origin + kt * form.shape.time_step);
  group.use[group.uses++] = {block, first_y, first_x, origin_y, origin_x, frame};
}

// Phase p of `up`: y[2b] = a[b-1] w[3] + a[b] w[1], y[2b+1] = a[b] w[2] + a[b+1] w[0].
void up(Form& form, int kt) {
  const int last = form.shape.kernel == 4 ? 3 : -1;
  for (int p = 0; p < 4; ++p) {
    const int py = p / 2, px = p % 2, block = kt * 4 + p;
    form.block[block] = {kt, {py ? 2 : last, py ? 0 : 1, -1}, {px ? 2 : last, px ? 0 : 1, -1}, 0};
    form.group[p].first_y = py;
    form.group[p].first_x = px;
    add_use(form, form.group[p], block, kt, 0, 0, py - 1, px - 1);
  }
}

// Phase p of `down`: y[b] = a[2b-1] w[0] + a[2b+1] w[2] of the odd phase, + a[2b] w[1] + a[2b+2] w[3] of the even one.
void down(Form& form, int kt) {
  const int last = form.shape.kernel == 4 ? 3 : -1;
  for (int p = 0; p < 4; ++p) {
    const int py = p / 2, px = p % 2, block = kt * 4 + p;
    form.block[block] = {kt, {py ? 0 : 1, py ? 2 : last, -1}, {px ? 0 : 1, px ? 2 : last, -1}, 0};
    add_use(form, form.group[0], block, kt, py, px, -py, -px);
  }
}

void same(Form& form, int kt) {
  const int first = form.shape.flip ? 2 : 0, last = 2 - first;
  form.block[kt] = {kt, {first, 1, last}, {first, 1, last}, 0};
  add_use(form, form.group[0], kt, kt, 0, 0, -1, -1);
}

// Whether the transformed tile has a place i along an axis with these taps: the first and the last of four are those of
// the first and the last tap alone.
bool has_place(const Form& form, const int* taps, int i) {
  if (form.tiling == Tiling::alone) return i < 3;
  return !(i == 0 && taps[0] < 0) && !(i == 3 && taps[form.r - 1] < 0);
}

void set_tiles(Form& form) {
  form.tiles_y = ceil_div(ceil_div(form.shape.height_out, form.step_out_y), form.m);
  form.tiles_x = ceil_div(ceil_div(form.shape.width_out, form.step_out_x), form.m);
}

// Small videos run on torch's slow_conv3d, whose sums are more exact than oneDNN's. The convolution's input decides
// that for the data gradient too.
bool on_slow_conv3d(const ConvShape& s) {
  const bool video = s.frames_in > 1 || s.kernel_t > 1;
  return video && s.batch * (s.flip ? s.channels_out : s.channels_in) * s.frames_in * s.height_in <= 20480;
}

// Whether the kernel has a dilation above `most` and no AVX-512 runs. There oneDNN leaves the weight gradient of dilated
// kernels to a matrix product, and sums them a row of taps at a time from a dilation of 3 on: both are more exact.
bool dilated_without_avx512(const ConvShape& s, int64_t most) {
  return isa() < Isa::avx512 && (s.dilation_h > most || s.dilation_w > most);
}

// Where larger tiles keep the rule of at most twice stock torch's error. Theirs hardly grows with the pixels, stock's
// does: at 8192 pixels and 64 channels it was 0.5 to 0.6 of stock's in the contiguous layout and 1.5 to 1.8 times
// channels-last's; of few channels, 2.0 times.
bool exact_in_larger_sums(const ConvShape& s) {
  return s.batch * s.frames_out * s.height_out * s.width_out >= 8192 && s.channels_in * s.channels_out >= 2048 &&
         !on_slow_conv3d(s) && !dilated_without_avx512(s, 1);
}

// Where forward and the data gradient in larger tiles keep the rule against stock torch's channels-last layout, with
// room: docs/cpu.md has the errors. Of few channels, and where a dilated kernel's taps often fall on padding, torch's
// error is smaller.
bool exact_in_larger_tiles(const ConvShape& s) {
  const int64_t least = dilated_without_avx512(s, 2) ? 2 * kLeastDepth : kLeastDepth;
  auto few_taps_on_padding = [](int64_t size, int64_t step) { return step == 1 || size >= kLeastSteps * step; };
  return s.channels_in >= least && few_taps_on_padding(s.height_in, s.dilation_h) &&
         few_taps_on_padding(s.width_in, s.dilation_w) && !on_slow_conv3d(s);
}

Form small_tiles(const ConvShape& shape) {
  Form form{};
  form.shape = shape;
  const Kind kind = static_cast<Kind>(shape.kind);
  form.r = kind == Kind::same ? 3 : 2;
  form.m = 5 - form.r;
  form.residues_y = kind == Kind::same ? static_cast<int>(shape.dilation_h) : 1;
  form.residues_x = kind == Kind::same ? static_cast<int>(shape.dilation_w) : 1;
  form.step_in_y = kind == Kind::down ? 2 : form.residues_y;
  form.step_in_x = kind == Kind::down ? 2 : form.residues_x;
  form.step_out_y = kind == Kind::up ? 2 : form.residues_y;
  form.step_out_x = kind == Kind::up ? 2 : form.residues_x;
  form.places = 16;
  form.tiles_each = kTiles;
  set_tiles(form);
  const bool alone = form.r == 3 && form.tiles_y == 1 && form.tiles_x == 1;
  form.tiling = alone ? Tiling::alone : form.r == 3 ? Tiling::three_taps : Tiling::two_taps;
  form.groups = kind == Kind::up ? 4 : 1;
  form.blocks = static_cast<int>(shape.kernel_t) * (kind == Kind::same ? 1 : 4);
  for (int kt = 0; kt < shape.kernel_t; ++kt) {
    if (kind == Kind::same) same(form, kt);
    if (kind == Kind::up) up(form, kt);
    if (kind == Kind::down) down(form, kt);
  }
  for (Block* block = form.block; block < form.block + form.blocks; ++block)
    for (int place = 0; place < 16; ++place)
      if (has_place(form, block->ky, place / 4) && has_place(form, block->kx, place % 4)) block->live |= uint64_t{1} << place;
  return form;
}

Form with_larger_tiles(Form form) {
  form.tiling = Tiling::large;
  form.m = 4;
  form.places = 36;
  set_tiles(form);
  const int64_t items = ceil_div(ceil_div(form.tiles(), kTiles), 4) * 4;
  form.tiles_each = ceil_div(form.tiles(), items);
  for (Block* block = form.block; block < form.block + form.blocks; ++block) {
    block->live = (uint64_t{1} << form.places) - 1;
  }
  return form;
}

// The work of a correlation in multiplications: products, transformed values and transformed weights.
double work(const Form& form) {
  const ConvShape& s = form.shape;
  const double pairs = s.channels_in * s.channels_out, inputs = s.kernel_t * s.channels_in;
  const double tile = s.kernel_t * pairs + kTransformed * (inputs + s.channels_out);
  return form.places * (form.tiles() * tile + kPacked * form.blocks * pairs);
}

}  // namespace

Form make_form(const ConvShape& shape, Dtype dtype) {
  const Form form = small_tiles(shape);
  if (dtype != Dtype::float32 || form.tiling != Tiling::three_taps || !exact_in_larger_tiles(shape)) return form;
  const Form large = with_larger_tiles(form);
  return work(large) < work(form) ? large : form;
}

Form make_weight_grad_form(const ConvShape& shape, Dtype dtype) {
  const Form form = small_tiles(shape);
  if (dtype != Dtype::float32 || form.tiling != Tiling::three_taps || !exact_in_larger_sums(shape)) return form;
  const Form large = with_larger_tiles(form);
  return large.places * large.tiles() < form.places * form.tiles() ? large : form;
}

}  // namespace fi
