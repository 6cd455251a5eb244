// The CPU operator of the depthwise convolution: checks, the partition into jobs, registration.
//
// A job is (channel tile, batch entry, frames, rows), tiles slowest; a range of jobs runs on one thread and adds its
// gradients of the parameters to its own buffer: the result depends on the number of threads, not on their timing.
#include <torch/csrc/stable/library.h>

#include "conv.h"
#include "tensors.h"

namespace avsmamba {
namespace {

ConvKernels<float> float_kernels() {
  [[maybe_unused]] const Isa isa = instruction_set();
#ifdef AVSMAMBA_X86
  if (isa == Isa::avx512) return conv_kernels_avx512();
  if (isa == Isa::avx2) return conv_kernels_avx2();
#endif
  return conv_kernels_portable();
}

template <typename T>
ConvKernels<T> kernels() {
  if constexpr (sizeof(T) == 8) return conv_kernels_double();
  else return float_kernels();
}

struct ConvInputs {
  const Tensor &x, &weight, &bias;
  int64_t front[3];
  bool silu;
};

void check_tokens(const Tensor& t, const char* name, const Tensor& x) {
  bool same = t.dim() == 5 && x.dim() == 5 && t.scalar_type() == x.scalar_type();
  for (int64_t d = 0; same && d < 5; ++d) same = t.size(d) == x.size(d);
  STD_TORCH_CHECK(same, name, ": expected (B, T, H, W, C) of x's shape and dtype");
  STD_TORCH_CHECK(t.size(4) <= 1 || t.stride(4) == 1, name, ": its last axis must have stride 1");
}

// Check an output, a gradient or a parameter, all of which have the type of the sums.
void check_sums(const Tensor& t, const char* name, bool wide, int64_t size) {
  STD_TORCH_CHECK(t.is_contiguous() && t.numel() == size &&
                  t.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                  name, ": expected contiguous, ", size, " values, float32 (float64 with a float64 x)");
}

template <typename T>
ConvArgs<T> arguments(const ConvInputs& in) {
  check_tokens(in.x, "x", in.x);
  STD_TORCH_CHECK(in.weight.dim() == 5, "weight: expected (C, 1, kt, kh, kw)");
  ConvArgs<T> a{};
  a.batch = in.x.size(0), a.channels = in.x.size(4), a.silu = in.silu, a.input = input_type(in.x.scalar_type());
  for (int d = 0; d < 3; ++d) {
    a.size[d] = in.x.size(d + 1), a.kernel[d] = in.weight.size(d + 2), a.front[d] = in.front[d];
    STD_TORCH_CHECK(a.kernel[d] > 0 && a.front[d] >= 0 && a.front[d] < a.kernel[d],
                    "front: expected values of 0 … kernel size - 1, got ", a.front[d]);
  }
  a.taps = a.kernel[0] * a.kernel[1] * a.kernel[2];
  check_sums(in.weight, "weight", sizeof(T) == 8, a.channels * a.taps);
  check_sums(in.bias, "bias", sizeof(T) == 8, a.channels);
  for (int d = 0; d < 4; ++d) a.x_stride[d] = in.x.stride(d);
  a.x = in.x.const_data_ptr(), a.weight = pointer<T>(in.weight), a.bias = pointer<T>(in.bias);
  return a;
}

struct Partition {
  int width;
  int64_t tiles, batch, frame_parts, row_parts, jobs, ranges;

  template <typename T>
  Partition(ConvArgs<T>& a, const ConvKernels<T>& kernel, bool backward) : batch(a.batch) {
    constexpr int64_t budget = 1 << 17;  // values of scratch: half of a usual second-level cache, in float32
    const int64_t threads = torch::stable::get_num_threads();
    a.frames = a.kernel[0] > 1 ? std::clamp<int64_t>(a.size[0], 1, 8) : 1;
    frame_parts = (a.size[0] + a.frames - 1) / a.frames;
    auto count = [&] { return (a.channels + width - 1) / width * batch * frame_parts; };
    width = a.channels > 32 ? 64 : a.channels > 16 ? 32 : 16;
    while (width > 16 && (count() < threads || kernel.scratch(a, width, backward) > budget)) width /= 2;
    // Borders of row parts are computed twice in backward, so they are few, and only where threads would idle.
    row_parts = count() && count() < 4 * threads ? std::min(4 * threads / count(), a.size[1] / 16) : 1;
    row_parts = std::max<int64_t>(1, row_parts);
    tiles = (a.channels + width - 1) / width;
    jobs = a.size[1] && a.size[2] ? count() * row_parts : 0;
    ranges = std::min(threads, jobs);
  }

  int64_t tile(int64_t index) const { return index / (jobs / tiles); }

  // f(job) for the jobs of a range.
  template <typename T, typename F>
  void each(const ConvArgs<T>& a, int64_t range, void* scratch, const F& f) const {
    const int64_t first = range * jobs / ranges, last = (range + 1) * jobs / ranges;
    for (int64_t i = first; i < last; ++i) {
      const int64_t rows = i % row_parts, frames = i / row_parts % frame_parts;
      ConvJob j;
      j.b = i / row_parts / frame_parts % batch;
      j.t0 = frames * a.size[0] / frame_parts, j.t1 = (frames + 1) * a.size[0] / frame_parts;
      j.h0 = rows * a.size[1] / row_parts, j.h1 = (rows + 1) * a.size[1] / row_parts;
      j.e0 = tile(i) * width;
      j.lanes = (int)std::min<int64_t>(width, a.channels - j.e0), j.width = width;
      j.opens = i == first || tile(i) != tile(i - 1);
      j.closes = i + 1 == last || tile(i) != tile(i + 1);
      j.scratch = scratch;
      f(j);
    }
  }
};

template <typename T>
void run_forward(const ConvInputs& in, const Tensor& y) {
  ConvArgs<T> a = arguments<T>(in);
  check_sums(y, "y", sizeof(T) == 8, in.x.numel());
  const ConvKernels<T> kernel = kernels<T>();
  const Partition p(a, kernel, false);
  run_ranges<T>(p.ranges, kernel.scratch(a, p.width, false), [&](int64_t r, void* scratch) {
    p.each(a, r, scratch, [&](const ConvJob& j) { kernel.forward(a, j, writable<T>(y)); });
  });
}

template <typename T>
void run_backward(const ConvInputs& in, const Tensor& dy, const Tensor& dx, const Tensor& dweight,
                  const Tensor& dbias) {
  ConvArgs<T> a = arguments<T>(in);
  check_tokens(dy, "dy", in.x);
  for (int d = 0; d < 4; ++d) a.dy_stride[d] = dy.stride(d);
  a.dy = dy.const_data_ptr();
  check_sums(dx, "dx", sizeof(T) == 8, in.x.numel()), check_sums(dweight, "dweight", sizeof(T) == 8, in.weight.numel());
  check_sums(dbias, "dbias", sizeof(T) == 8, a.channels);
  const ConvKernels<T> kernel = kernels<T>();
  const Partition p(a, kernel, true);
  Shared<T> weights(dweight, std::max<int64_t>(1, p.ranges)), biases(dbias, std::max<int64_t>(1, p.ranges));
  run_ranges<T>(p.ranges, kernel.scratch(a, p.width, true), [&](int64_t r, void* scratch) {
    const ConvGrads<T> out{writable<T>(dx), weights.copy(r), biases.copy(r)};
    p.each(a, r, scratch, [&](const ConvJob& j) { kernel.backward(a, j, out); });
  });
  weights.gather(true), biases.gather(true);
}

void conv_forward(const Tensor x, const Tensor weight, const Tensor bias, int64_t front_t, int64_t front_h,
                  int64_t front_w, bool silu, Tensor y) {
  const ConvInputs in{x, weight, bias, {front_t, front_h, front_w}, silu};
  if (is_double(x)) run_forward<double>(in, y);
  else run_forward<float>(in, y);
}

void conv_backward(const Tensor dy, const Tensor x, const Tensor weight, const Tensor bias, int64_t front_t,
                   int64_t front_h, int64_t front_w, bool silu, Tensor dx, Tensor dweight, Tensor dbias) {
  const ConvInputs in{x, weight, bias, {front_t, front_h, front_w}, silu};
  if (is_double(x)) run_backward<double>(in, dy, dx, dweight, dbias);
  else run_backward<float>(in, dy, dx, dweight, dbias);
}

}  // namespace
}  // namespace avsmamba

STABLE_TORCH_LIBRARY_FRAGMENT(avsmamba_cpu, m) {
  m.def(
      "conv_forward(Tensor x, Tensor weight, Tensor bias, int front_t, int front_h, int front_w, bool silu, "
      "Tensor(a!) y) -> ()");
  m.def(
      "conv_backward(Tensor dy, Tensor x, Tensor weight, Tensor bias, int front_t, int front_h, int front_w, "
      "bool silu, Tensor(a!) dx, Tensor(b!) dweight, Tensor(c!) dbias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(avsmamba_cpu, CPU, m) {
  m.impl("conv_forward", TORCH_BOX(&avsmamba::conv_forward));
  m.impl("conv_backward", TORCH_BOX(&avsmamba::conv_backward));
}
