// What the CPU kernels of the multi-directional scan get, for one scalar type.
#pragma once
#include <cstdint>

namespace avsmamba {

constexpr int kTile = 32;      // tokens packed into L1 at a time; states are kept at the tiles' borders in backward
constexpr int kMaxLanes = 64;  // channels of a job at most

// Strides are in elements; the last axis of every tensor has stride 1. Outputs are contiguous.
template <typename T>
struct ScanArgs {
  int64_t batch, length, channels, directions, states, rank;
  const T *x, *dt, *B, *C;                    // (b, L, E), (b, L, K, R), (b, L, K, N), (b, L, K, N)
  int64_t x_stride[2], dt_stride[3], B_stride[3], C_stride[3];
  const T *A, *D, *dt_weight, *dt_bias;       // (K, E, N), (K, E), (K, E, R), (K, E), contiguous
  const int32_t* order;                       // (K, L)
  int64_t out_start, out_length;              // tokens whose output is wanted
  const int64_t* steps;                       // (K): steps of each direction up to its last wanted token
};

// Where one range of jobs of the backward adds its gradients: `dx` belongs to one group of directions, the rest to one
// range of jobs. All are contiguous, in the shapes of the inputs.
template <typename T>
struct ScanGrads {
  T *dx, *ddt, *dB, *dC, *dA, *dD, *ddt_weight, *ddt_bias;
};

// One job: the directions [k0, k1) of one batch entry and the channels [e0, e0 + lanes).
struct ScanJob {
  int64_t b, e0, k0, k1;
  int lanes;   // channels that exist
  int width;   // channels of the job: 16, 32 or 64
};

template <typename T>
using ForwardFn = void (*)(const ScanArgs<T>&, const ScanJob&, T* y);
template <typename T>
using BackwardFn = void (*)(const ScanArgs<T>&, const ScanJob&, const T* dy, const ScanGrads<T>&);

template <typename T>
struct Kernels {
  ForwardFn<T> forward;
  BackwardFn<T> backward;
};

Kernels<float> kernels_portable();
Kernels<double> kernels_double();
#if defined(__x86_64__)
Kernels<float> kernels_avx2();
Kernels<float> kernels_avx512();
#endif

}  // namespace avsmamba
