// The kernels of csrc/cuda over the emulation, for ctypes. emulation.py defines the contents of `pointers` and `sizes`.
#include "cuda_emulation.h"

#include "scan_backward.cuh"

namespace {

using namespace avsmamba;
using emulation::state;

template <typename T>
void output(T* data, int64_t count) {
  state.outputs.push_back({data, (size_t)count, sizeof(T), {}, {}, {}, {}});
}

template <typename I, typename T>
void run(void** p, const int64_t* s, bool backward) {
  ScanArgs<I, T> a{};
  a.batch = s[0], a.length = s[1], a.channels = s[2], a.directions = s[3], a.states = s[4], a.rank = s[5];
  a.out_start = s[6], a.out_length = s[7];
  std::copy_n(s + 10, 2, a.x_stride), std::copy_n(s + 12, 3, a.dt_stride);
  std::copy_n(s + 15, 3, a.B_stride), std::copy_n(s + 18, 3, a.C_stride);
  a.x = (I*)p[0], a.dt = (I*)p[1], a.B = (I*)p[2], a.C = (I*)p[3];
  a.A = (T*)p[4], a.D = (T*)p[5], a.dt_weight = (T*)p[6], a.dt_bias = (T*)p[7];
  a.order = (int32_t*)p[8], a.steps = (int32_t*)p[9];
  state.outputs.clear();
  const int64_t tokens = s[0] * s[1], KE = s[3] * s[2], K = s[3], N = s[4], R = s[5];
  if (!backward) {
    output((T*)p[10], s[0] * s[7] * s[2]);
    return run_forward<I, T>(emulation::Launch{}, a, (T*)p[10]);
  }
  ScanGrads<T> g{(T*)p[12], (T*)p[13], (T*)p[14], (T*)p[15], (T*)p[16], (T*)p[17], (T*)p[18], (T*)p[19],
                 (int)s[8], (int)s[9]};
  output((T*)p[11], s[0] * K * tiles_of(s[1]) * N * s[2]);
  output(g.dx, tokens * s[2]);
  output(g.ddt, s[8] * tokens * K * R), output(g.dB, s[8] * tokens * K * N), output(g.dC, s[8] * tokens * K * N);
  output(g.dA, s[9] * KE * N), output(g.dD, s[9] * KE);
  output(g.ddt_weight, s[9] * KE * R), output(g.ddt_bias, s[9] * KE);
  run_backward<I, T>(emulation::Launch{}, a, (const I*)p[10], (T*)p[11], g);
}

}  // namespace

// What went wrong, or an empty text.
extern "C" const char* emulated_scan(void** pointers, const int64_t* sizes, int type, int backward, int seed) {
  state.error.clear();
  state.seed = seed;
  try {
    if (type == 0) run<float, float>(pointers, sizes, backward);
#ifndef FLOAT32_ONLY  // the mutants' builds: a quarter of the time
    else if (type == 1) run<__nv_bfloat16, float>(pointers, sizes, backward);
    else if (type == 2) run<__half, float>(pointers, sizes, backward);
    else if (type == 3) run<double, double>(pointers, sizes, backward);
#endif
    else emulation::fail("no such dtype in this build");
  } catch (const std::exception& error) {
    emulation::fail(error.what());
  }
  return state.error.c_str();
}
