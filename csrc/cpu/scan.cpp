// The CPU operators: checks, the partition of a scan into jobs, and their registration over torch's stable ABI.
//
// A job is (group of directions, batch entry, channel tile). Jobs are cut into as many contiguous ranges as there are
// threads; a range runs on one thread, from its first job to its last. Results to which several jobs add (y and dx of
// several groups, the sums over channels and over the batch in backward) have one buffer a group or a range, and the
// buffers are added in order: the result depends on the number of threads, never on their timing.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "../scan_inputs.h"
#include "scan.h"
#include "tensors.h"

namespace avsmamba {
namespace {

Kernels<float> float_kernels() {
  [[maybe_unused]] const Isa isa = instruction_set();
#ifdef AVSMAMBA_X86
  if (isa == Isa::avx512) return kernels_avx512();
  if (isa == Isa::avx2) return kernels_avx2();
#endif
  return kernels_portable();
}

template <typename T>
Kernels<T> kernels() {
  if constexpr (sizeof(T) == 8) return kernels_double();
  else return float_kernels();
}

// Steps of each direction up to its last requested token; later ones change no output. An order that leads out of
// memory is refused here.
template <typename T>
std::vector<int64_t> needed_steps(const ScanArgs<T>& a) {
  std::vector<int64_t> steps(a.directions, 0);
  for (int64_t k = 0; k < a.directions; ++k)
    for (int64_t i = 0; i < a.length; ++i) {
      const int64_t token = a.order[k * a.length + i];
      STD_TORCH_CHECK(token >= 0 && token < a.length, "order: expected tokens of 0 … ", a.length - 1, ", got ", token);
      if ((uint64_t)(token - a.out_start) < (uint64_t)a.out_length) steps[k] = i + 1;
    }
  return steps;
}

template <typename T>
ScanArgs<T> arguments(const ScanInputs& in) {
  ScanArgs<T> a = checked_arguments<ScanArgs<T>, T>(in);
  a.input = input_type(in.x.scalar_type());
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

  int64_t first_job(int64_t range) const { return range * jobs / ranges; }
  int64_t range_of(int64_t index) const { return ((index + 1) * ranges - 1) / jobs; }
  int64_t first_direction(int64_t group) const { return group * directions / groups; }

  // Groups slowest, then batch, then tiles: a range touches few batch entries.
  ScanJob job(int64_t index, int64_t* group, void* scratch) const {
    ScanJob j;
    *group = index / tiles / batch;
    j.b = index / tiles % batch;
    j.e0 = index % tiles * width;
    j.lanes = (int)std::min<int64_t>(width, channels - j.e0);
    j.width = width;
    j.k0 = first_direction(*group), j.k1 = first_direction(*group + 1);
    j.scratch = scratch;
    return j;
  }
};

// The gradients of dt, B and C are sums over channels, to which every channel tile adds. Each range of jobs has rows of
// its own, in scan order, for its batch entries and a few directions at a time: with many threads, all directions at once
// would need more memory than a K x L x E tensor.
template <typename T>
struct RowSums {
  const ScanArgs<T>& a;
  const Partition& p;
  int64_t pitch, at_once, passes;
  std::vector<std::unique_ptr<T[]>> rows;

  RowSums(const ScanArgs<T>& a, const Partition& p) : a(a), p(p), pitch(a.rank + 2 * a.states), rows(p.ranges) {
    int64_t entries = 1, longest = (a.directions + p.groups - 1) / p.groups;
    for (int64_t r = 0; r < p.ranges; ++r) entries = std::max(entries, last(r) - first(r) + 1);
    constexpr int64_t budget = 1 << 19;  // values a range: small scans then take one pass
    at_once = std::min(longest, std::max<int64_t>(1, budget / std::max<int64_t>(1, entries * a.length * pitch)));
    passes = (longest + at_once - 1) / at_once;
    for (int64_t r = 0; r < p.ranges; ++r) rows[r].reset(new T[entry_size() * (last(r) - first(r) + 1)]);
  }

  int64_t entry_size() const { return at_once * a.length * pitch; }
  // (group, batch entry) pairs that a range works on, as one number.
  int64_t first(int64_t range) const { return p.first_job(range) / p.tiles; }
  int64_t last(int64_t range) const { return (p.first_job(range + 1) - 1) / p.tiles; }
  void clear(int64_t range) const {
    std::fill_n(rows[range].get(), entry_size() * (last(range) - first(range) + 1), T(0));
  }
  T* of(int64_t range, int64_t entry) const { return rows[range].get() + (entry - first(range)) * entry_size(); }

  // Add up the ranges' rows of one pass, in order, and put them where their tokens are.
  void gather(int64_t pass, T* ddt, T* dB, T* dC) const {
    const int64_t L = a.length, R = a.rank, N = a.states, K = a.directions;
    parallel(p.groups * p.batch * at_once * L, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin, stop; index < end; index = stop) {
        const int64_t t0 = index % L, local = index / L % at_once, entry = index / L / at_once;
        const int64_t group = entry / p.batch, k = p.first_direction(group) + pass * at_once + local;
        stop = std::min(end, index - t0 + L);
        if (k >= p.first_direction(group + 1)) continue;
        const int64_t first_range = p.range_of(entry * p.tiles), last_range = p.range_of((entry + 1) * p.tiles - 1);
        for (int64_t r = first_range; r <= last_range; ++r) {
          const T* row = of(r, entry) + (local * L + t0) * pitch;
          for (int64_t t = t0; t < t0 + stop - index; ++t, row += pitch) {
            const int64_t to = (entry % p.batch * L + a.order[k * L + t]) * K + k;
            put(ddt + to * R, row, R, r > first_range);
            put(dB + to * N, row + R, N, r > first_range);
            put(dC + to * N, row + R + N, N, r > first_range);
          }
        }
      }
    });
  }

  static void put(T* to, const T* from, int64_t count, bool add) {
    for (int64_t i = 0; i < count; ++i) to[i] = settled(add ? to[i] + from[i] : from[i]);
  }
};

// States (b, K, tiles, N, E) at the tiles' borders, from which the backward starts; zero for tiles without an output.
template <typename T>
T* border_states(const ScanArgs<T>& a, const Tensor& states) {
  const int64_t tiles = (a.length + kTile - 1) / kTile;
  check(states, "states", {a.batch, a.directions, tiles, a.states, a.channels}, state_type<T>(), states);
  return writable<T>(states);
}

template <typename T>
void run_forward(const ScanInputs& in, const Tensor& y, const Tensor& states) {
  ScanArgs<T> a = arguments<T>(in);
  const std::vector<int64_t> steps = needed_steps(a);
  a.steps = steps.data();
  check(y, "y", {a.batch, a.out_length, a.channels}, state_type<T>(), in.x);
  T* const borders = states.numel() ? border_states(a, states) : nullptr;
  const Partition p(a);
  Shared<T> sums(y, p.groups, p.jobs == 0);
  if (!p.jobs) return;
  const Kernels<T> kernel = kernels<T>();
  run_ranges<T>(p.ranges, kernel.scratch(a, p.width, false), [&](int64_t r, void* scratch) {
    for (int64_t i = p.first_job(r); i < p.first_job(r + 1); ++i) {
      int64_t group;
      const ScanJob j = p.job(i, &group, scratch);
      kernel.forward(a, j, sums.copy(group), borders);
    }
  });
  sums.gather(false);
}

template <typename T>
void run_backward(const ScanInputs& in, const Tensor& dy, const Tensor& states, const std::vector<Tensor>& grads) {
  ScanArgs<T> a = arguments<T>(in);
  const std::vector<int64_t> steps = needed_steps(a);
  a.steps = steps.data();
  check(dy, "dy", {a.batch, a.out_length, a.channels}, in.x.scalar_type(), in.x);
  const T* const borders = border_states(a, states);
  for (const Tensor& grad : grads)
    STD_TORCH_CHECK(grad.is_contiguous() && grad.scalar_type() == state_type<T>(),
                    "gradients: expected contiguous, of the state's dtype");
  const Partition p(a);
  Shared<T> dx(grads[0], p.groups, false);
  if (!p.jobs)
    for (int i : {0, 1, 2, 3}) std::fill_n(writable<T>(grads[i]), grads[i].numel(), T(0));
  // With one batch entry each parameter belongs to one job.
  std::vector<Shared<T>> parameters;
  for (int i : {4, 5, 6, 7}) parameters.emplace_back(grads[i], a.batch > 1 ? p.ranges : 1);
  if (!p.jobs) return;
  const RowSums<T> rows(a, p);
  const Kernels<T> kernel = kernels<T>();
  for (int64_t pass = 0; pass < rows.passes; ++pass) {
    run_ranges<T>(p.ranges, kernel.scratch(a, p.width, true), [&](int64_t r, void* scratch) {
      rows.clear(r);
      for (int64_t i = p.first_job(r); i < p.first_job(r + 1); ++i) {
        int64_t group;
        ScanJob j = p.job(i, &group, scratch);
        j.k0 += pass * rows.at_once;
        j.k1 = std::min(j.k1, j.k0 + rows.at_once);
        const ScanGrads<T> out{dx.copy(group), pass == 0, rows.of(r, i / p.tiles), a.length * rows.pitch,
                               parameters[0].copy(r), parameters[1].copy(r), parameters[2].copy(r),
                               parameters[3].copy(r)};
        kernel.backward(a, j, dy.const_data_ptr(), borders, out);
      }
    });
    rows.gather(pass, writable<T>(grads[1]), writable<T>(grads[2]), writable<T>(grads[3]));
  }
  dx.gather(true);
  for (auto& s : parameters) s.gather(true);
}

void scan_forward(const Tensor x, const Tensor dt, const Tensor B, const Tensor C, const Tensor A, const Tensor D,
                  const Tensor dt_weight, const Tensor dt_bias, const Tensor order, int64_t out_start,
                  int64_t out_length, Tensor y, Tensor states) {
  const ScanInputs in{x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length};
  if (is_double(x)) run_forward<double>(in, y, states);
  else run_forward<float>(in, y, states);
}

void scan_backward(const Tensor dy, const Tensor states, const Tensor x, const Tensor dt, const Tensor B,
                   const Tensor C, const Tensor A, const Tensor D, const Tensor dt_weight, const Tensor dt_bias,
                   const Tensor order, int64_t out_start, int64_t out_length, Tensor dx, Tensor ddt, Tensor dB,
                   Tensor dC, Tensor dA, Tensor dD, Tensor ddt_weight, Tensor ddt_bias) {
  const ScanInputs in{x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length};
  const std::vector<Tensor> grads{dx, ddt, dB, dC, dA, dD, ddt_weight, ddt_bias};
  if (is_double(x)) run_backward<double>(in, dy, states, grads);
  else run_backward<float>(in, dy, states, grads);
}

int64_t scan_tile() { return kTile; }

// Run the arithmetic of a tile on data in cache, on every thread, and return the number of state updates.
int64_t scan_peak(int64_t states, int64_t rank, bool backward, int64_t rounds) {
  ScanArgs<float> a{};
  a.states = states, a.rank = rank;
  const Kernels<float> kernel = float_kernels();
  const int64_t threads = torch::stable::get_num_threads();
  run_ranges<float>(threads, kernel.scratch(a, 64, true) + kTile * (64 + rank + 2 * states),
                    [&](int64_t, void* scratch) { kernel.peak(states, rank, rounds, backward, (float*)scratch); });
  return threads * rounds * 64 * kTile * states;
}

}  // namespace
}  // namespace avsmamba

STABLE_TORCH_LIBRARY(avsmamba_cpu, m) {
  m.def("tile() -> int");
  m.def("peak(int states, int rank, bool backward, int rounds) -> int");
  m.def(
      "forward(Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, Tensor dt_weight, Tensor dt_bias, "
      "Tensor order, int out_start, int out_length, Tensor(a!) y, Tensor(b!) states) -> ()");
  m.def(
      "backward(Tensor dy, Tensor states, Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, "
      "Tensor dt_weight, Tensor dt_bias, Tensor order, int out_start, int out_length, Tensor(a!) dx, Tensor(b!) ddt, "
      "Tensor(c!) dB, Tensor(d!) dC, Tensor(e!) dA, Tensor(f!) dD, Tensor(g!) ddt_weight, Tensor(h!) ddt_bias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(avsmamba_cpu, CompositeExplicitAutograd, m) {
  m.impl("tile", TORCH_BOX(&avsmamba::scan_tile));
  m.impl("peak", TORCH_BOX(&avsmamba::scan_peak));
}

STABLE_TORCH_LIBRARY_IMPL(avsmamba_cpu, CPU, m) {
  m.impl("forward", TORCH_BOX(&avsmamba::scan_forward));
  m.impl("backward", TORCH_BOX(&avsmamba::scan_backward));
}

// Importing the module registers the operators; it has no other contents.
extern "C" PyMODINIT_FUNC PyInit__cpu() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
