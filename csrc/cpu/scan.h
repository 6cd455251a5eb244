// Arguments of the CPU kernels of the multi-directional scan, for one type of state.
#pragma once
#include "common.h"

namespace avsmamba {

constexpr int kTile = 32;  // tokens packed into L1 at a time; states are kept at the tiles' borders in backward

// Strides are in elements; the last axis of every tensor has stride 1. Outputs are contiguous.
template <typename T>
struct ScanArgs {
  int64_t batch, length, channels, directions, states, rank;
  Input input;
  const void *x, *dt, *B, *C;                 // (b, L, E), (b, L, K, R), (b, L, K, N), (b, L, K, N)
  int64_t x_stride[2], dt_stride[3], B_stride[3], C_stride[3];
  const T *A, *D, *dt_weight, *dt_bias;       // (K, E, N), (K, E), (K, E, R), (K, E), contiguous
  const int32_t* order;                       // (K, L)
  int64_t out_start, out_length;              // tokens whose output is requested
  const int64_t* steps;                       // (K): steps of each direction up to its last requested token
};

// Where a job of the backward adds its gradients. `rows` holds ddt, dB and dC of one batch entry in scan order,
// (directions of the job, L, R + 2 N) with `row_stride` values from one direction to the next; the rest has the shapes
// of the inputs.
template <typename T>
struct ScanGrads {
  T* dx;
  bool fresh;  // dx holds nothing yet: the job's first direction writes all of its rows, the others add
  T* rows;
  int64_t row_stride;
  T *dA, *dD, *ddt_weight, *ddt_bias;
};

// One job: the directions [k0, k1) of one batch entry and the channels [e0, e0 + lanes).
struct ScanJob {
  int64_t b, e0, k0, k1;
  int lanes;      // channels that exist
  int width;      // channels of the job: 16, 32 or 64
  void* scratch;  // as many values as `scratch` below returns, on a 64-byte border
};

// In y a job's first direction writes, the others add. `states` (b, K, tiles, N, E) are those before each tile of kTile
// steps; null: forward does not keep them.
template <typename T>
struct Kernels {
  void (*forward)(const ScanArgs<T>&, const ScanJob&, T* y, T* states);
  void (*backward)(const ScanArgs<T>&, const ScanJob&, const void* dy, const T* states, const ScanGrads<T>&);
  int64_t (*scratch)(const ScanArgs<T>&, int width, bool backward);
  void (*peak)(int64_t states, int64_t rank, int64_t rounds, bool backward, T* scratch);
};

Kernels<float> kernels_portable();
Kernels<double> kernels_double();
#ifdef AVSMAMBA_X86
Kernels<float> kernels_avx2();
Kernels<float> kernels_avx512();
#endif

}  // namespace avsmamba
