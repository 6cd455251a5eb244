// The CPU operators: checks, the partition of a scan into jobs, and their registration over torch's stable ABI.
//
// A job is (group of directions, batch entry, channel tile). Jobs are cut into as many contiguous ranges as there are
// threads; a range runs on one thread, from its first job to its last. What several jobs add to (y and dx of several
// groups, the sums over channels and over the batch in backward) has one buffer a group or a range, and the buffers
// are added in order: the result depends on the number of threads, never on their timing.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "scan.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace avsmamba {

static Kernels<float> float_kernels() {
  const char* forced = std::getenv("AVSMAMBA_CPU_ISA");
  const std::string isa = forced ? forced : "";
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  STD_TORCH_CHECK(isa.empty() || isa == "portable" || isa == "avx2" || isa == "avx512",
                  "AVSMAMBA_CPU_ISA: expected portable, avx2 or avx512, got ", isa);
  STD_TORCH_CHECK((isa != "avx2" || avx2) && (isa != "avx512" || avx512), "AVSMAMBA_CPU_ISA: this CPU has no ", isa);
  if (isa == "avx512" || (isa.empty() && avx512)) return kernels_avx512();
  if (isa == "avx2" || (isa.empty() && avx2)) return kernels_avx2();
#else
  STD_TORCH_CHECK(isa.empty() || isa == "portable", "AVSMAMBA_CPU_ISA: this build has portable only, got ", isa);
#endif
  return kernels_portable();
}

template <typename T>
static Kernels<T> kernels();
template <>
Kernels<float> kernels<float>() {
  return float_kernels();
}
template <>
Kernels<double> kernels<double>() {
  return kernels_double();
}

struct Inputs {
  const Tensor &x, &dt, &B, &C, &A, &D, &dt_weight, &dt_bias, &order;
  int64_t out_start, out_length;
};

static void check(const Tensor& t, const char* name, std::initializer_list<int64_t> sizes, ScalarType type) {
  bool same = t.dim() == (int64_t)sizes.size();
  for (int64_t d = 0; same && d < t.dim(); ++d) same = t.size(d) == sizes.begin()[d];
  STD_TORCH_CHECK(same, name, ": its shape does not fit those of x, dt, B and order");
  STD_TORCH_CHECK(t.scalar_type() == type, name, ": its dtype differs from the one expected");
  STD_TORCH_CHECK(t.dim() == 0 || t.size(t.dim() - 1) <= 1 || t.stride(t.dim() - 1) == 1,
                  name, ": its last axis must have stride 1");
}

template <typename T>
static const T* pointer(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
static T* writable(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Steps of each direction up to its last wanted token: what comes after changes no output.
static std::vector<int64_t> needed_steps(const Inputs& in, int64_t K, int64_t L) {
  std::vector<int64_t> steps(K, 0);
  const int32_t* order = pointer<int32_t>(in.order);
  for (int64_t k = 0; k < K; ++k)
    for (int64_t i = L - 1; i >= 0 && !steps[k]; --i)
      if ((uint64_t)(order[k * L + i] - in.out_start) < (uint64_t)in.out_length) steps[k] = i + 1;
  return steps;
}

template <typename T>
static ScanArgs<T> arguments(const Inputs& in, const std::vector<int64_t>& steps) {
  const ScalarType type = in.x.scalar_type();
  const int64_t b = in.x.size(0), L = in.x.size(1), E = in.x.size(2);
  const int64_t K = in.order.size(0), R = in.dt.size(3), N = in.B.size(3);
  check(in.x, "x", {b, L, E}, type), check(in.dt, "dt", {b, L, K, R}, type), check(in.B, "B", {b, L, K, N}, type);
  check(in.C, "C", {b, L, K, N}, type), check(in.A, "A", {K, E, N}, type), check(in.D, "D", {K, E}, type);
  check(in.dt_weight, "dt_weight", {K, E, R}, type), check(in.dt_bias, "dt_bias", {K, E}, type);
  check(in.order, "order", {K, L}, ScalarType::Int);
  for (const Tensor* t : {&in.A, &in.D, &in.dt_weight, &in.dt_bias, &in.order})
    STD_TORCH_CHECK(t->is_contiguous(), "A, D, dt_weight, dt_bias and order must be contiguous");
  ScanArgs<T> a{};
  a.batch = b, a.length = L, a.channels = E, a.directions = K, a.states = N, a.rank = R;
  a.x = pointer<T>(in.x), a.dt = pointer<T>(in.dt), a.B = pointer<T>(in.B), a.C = pointer<T>(in.C);
  for (int d = 0; d < 2; ++d) a.x_stride[d] = in.x.stride(d);
  for (int d = 0; d < 3; ++d)
    a.dt_stride[d] = in.dt.stride(d), a.B_stride[d] = in.B.stride(d), a.C_stride[d] = in.C.stride(d);
  a.A = pointer<T>(in.A), a.D = pointer<T>(in.D);
  a.dt_weight = pointer<T>(in.dt_weight), a.dt_bias = pointer<T>(in.dt_bias);
  a.order = pointer<int32_t>(in.order);
  a.out_start = in.out_start, a.out_length = in.out_length, a.steps = steps.data();
  return a;
}

// How a scan is cut: channels of a job, groups of directions, and ranges of jobs (one a thread).
struct Partition {
  int width;
  int64_t tiles, groups, jobs, ranges, batch, channels, directions;

  template <typename T>
  explicit Partition(const ScanArgs<T>& a) : batch(a.batch), channels(a.channels), directions(a.directions) {
    const int64_t threads = torch::stable::get_num_threads();
    width = channels > 32 ? 64 : channels > 16 ? 32 : 16;
    auto count = [&] { return batch * ((channels + width - 1) / width); };
    while (width > 16 && count() < threads && channels > width / 2) width /= 2;
    groups = std::min(directions, std::max<int64_t>(1, threads / std::max<int64_t>(1, count())));
    tiles = (channels + width - 1) / width;
    jobs = groups * batch * tiles;
    ranges = std::max<int64_t>(1, std::min(threads, jobs));
  }

  // Groups slowest, then batch, then tiles: a range touches few batch entries.
  ScanJob job(int64_t index, int64_t* group) const {
    ScanJob j;
    const int64_t tile = index % tiles;
    *group = index / tiles / batch;
    j.b = index / tiles % batch;
    j.e0 = tile * width;
    j.lanes = (int)std::min<int64_t>(width, channels - j.e0);
    j.width = width;
    j.k0 = *group * directions / groups, j.k1 = (*group + 1) * directions / groups;
    return j;
  }

  template <typename F>
  void run(const F& f) const {
    torch::stable::parallel_for(0, ranges, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t i = r * jobs / ranges; i < (r + 1) * jobs / ranges; ++i) {
          int64_t group;
          const ScanJob j = job(i, &group);
          f(r, group, j);
        }
    });
  }
};

// `copies` zeroed buffers of `size` values, the first of which is `own`; `gather` adds the others to it.
template <typename T>
struct Shared {
  T* own;
  int64_t size, copies;
  std::vector<T> rest;

  Shared(T* own, int64_t size, int64_t copies) : own(own), size(size), copies(copies) {
    std::fill(own, own + size, T(0));
    rest.assign((copies - 1) * size, T(0));
  }
  T* copy(int64_t c) { return c ? rest.data() + (c - 1) * size : own; }
  void gather() {
    if (copies < 2) return;
    torch::stable::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t c = 1; c < copies; ++c) {
        const T* from = copy(c);
        for (int64_t i = begin; i < end; ++i) own[i] += from[i];
      }
    });
  }
};

template <typename T>
static void run_forward(const Inputs& in, const Tensor& y) {
  const std::vector<int64_t> steps = needed_steps(in, in.order.size(0), in.x.size(1));
  const ScanArgs<T> a = arguments<T>(in, steps);
  check(y, "y", {a.batch, a.out_length, a.channels}, in.x.scalar_type());
  const Partition p(a);
  Shared<T> sums(writable<T>(y), y.numel(), p.groups);
  if (!p.jobs) return;
  const ForwardFn<T> kernel = kernels<T>().forward;
  p.run([&](int64_t, int64_t group, const ScanJob& j) { kernel(a, j, sums.copy(group)); });
  sums.gather();
}

template <typename T>
static void run_backward(const Inputs& in, const Tensor& dy, const std::vector<Tensor>& grads) {
  const std::vector<int64_t> steps = needed_steps(in, in.order.size(0), in.x.size(1));
  const ScanArgs<T> a = arguments<T>(in, steps);
  check(dy, "dy", {a.batch, a.out_length, a.channels}, in.x.scalar_type());
  STD_TORCH_CHECK(dy.is_contiguous(), "dy must be contiguous");
  const Partition p(a);
  std::vector<Shared<T>> sums;
  sums.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i)
    sums.emplace_back(writable<T>(grads[i]), grads[i].numel(), i == 0 ? p.groups : p.ranges);
  if (!p.jobs) return;
  const BackwardFn<T> kernel = kernels<T>().backward;
  p.run([&](int64_t r, int64_t group, const ScanJob& j) {
    const ScanGrads<T> out{sums[0].copy(group), sums[1].copy(r), sums[2].copy(r), sums[3].copy(r),
                           sums[4].copy(r),     sums[5].copy(r), sums[6].copy(r), sums[7].copy(r)};
    kernel(a, j, pointer<T>(dy), out);
  });
  for (auto& s : sums) s.gather();
}

static bool is_double(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "x: expected float32 or float64");
  return type == ScalarType::Double;
}

static void scan_forward(const Tensor x, const Tensor dt, const Tensor B, const Tensor C, const Tensor A,
                         const Tensor D, const Tensor dt_weight, const Tensor dt_bias, const Tensor order,
                         int64_t out_start, int64_t out_length, Tensor y) {
  const Inputs in{x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length};
  if (is_double(x)) run_forward<double>(in, y);
  else run_forward<float>(in, y);
}

static void scan_backward(const Tensor dy, const Tensor x, const Tensor dt, const Tensor B, const Tensor C,
                          const Tensor A, const Tensor D, const Tensor dt_weight, const Tensor dt_bias,
                          const Tensor order, int64_t out_start, int64_t out_length, Tensor dx, Tensor ddt, Tensor dB,
                          Tensor dC, Tensor dA, Tensor dD, Tensor ddt_weight, Tensor ddt_bias) {
  const Inputs in{x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length};
  const std::vector<Tensor> grads{dx, ddt, dB, dC, dA, dD, ddt_weight, ddt_bias};
  if (is_double(x)) run_backward<double>(in, dy, grads);
  else run_backward<float>(in, dy, grads);
}

}  // namespace avsmamba

STABLE_TORCH_LIBRARY(avsmamba_cpu, m) {
  m.def(
      "forward(Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, Tensor dt_weight, Tensor dt_bias, "
      "Tensor order, int out_start, int out_length, Tensor(a!) y) -> ()");
  m.def(
      "backward(Tensor dy, Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, Tensor dt_weight, "
      "Tensor dt_bias, Tensor order, int out_start, int out_length, Tensor(a!) dx, Tensor(b!) ddt, Tensor(c!) dB, "
      "Tensor(d!) dC, Tensor(e!) dA, Tensor(f!) dD, Tensor(g!) ddt_weight, Tensor(h!) ddt_bias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(avsmamba_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&avsmamba::scan_forward));
  m.impl("backward", TORCH_BOX(&avsmamba::scan_backward));
}

// Importing the module is what registers the operators; it has nothing else to offer.
extern "C" PyMODINIT_FUNC PyInit__cpu() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
