// The forward kernel, and the same scan for the backward, which keeps the states at the tiles' borders instead of y.
//
// Directions are summed by atomic adds into y (red.global.add; one each token, channel and direction), which the caller
// has zeroed: no K x L x E buffer, but the order of the adds, and so the last bits of y, change from run to run. With
// one launch for each direction every element receives one addition a launch, in the launches' order: the deterministic
// mode, which has 1 / K of the parallelism.
#pragma once
#include "scan_common.cuh"

namespace avsmamba {

template <typename T>
struct ForwardShared {
  Ring<T> rows, x;
  Ring<int32_t> tokens;
  T *A, *W, *h;
  int bytes;
  __host__ __device__ ForwardShared(unsigned char* base, int N, int R) {
    SharedArena c(base);
    rows = Ring<T>(c, 2, (R + 2 * N) * kTile), x = Ring<T>(c, 2, kTile * kPitch), tokens = Ring<int32_t>(c, 3, kTile);
    A = c.take<T>(N * kChannels), W = c.take<T>(R * kChannels), h = c.take<T>(N * kChannels);
    bytes = c.used;
  }
};

// `out` is y (b, out_length, E), or with BORDERS the states before each tile, (b, K, tiles, N, E).
template <typename I, typename T, bool BORDERS>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) scan_forward(ScanArgs<I, T> a, T* out) {
  AVS_DYNAMIC_SHARED(memory);
  const int N = a.states, R = a.rank;
  const ForwardShared<T> s(memory, N, R);
  const ThreadPosition p(a);
  const int steps = a.steps[p.k], tiles = tiles_of(steps);
  const int64_t parameter = (int64_t)p.k * a.channels + p.e;
  const T bias = p.exists ? a.dt_bias[parameter] : T(0), skip = p.exists ? a.D[parameter] : T(0);
  load_parameters(a, p, s.A, s.W);
  for (int n = p.lane; n < N; n += kLanes) s.h[n * kChannels + p.local] = T(0);
  load_tokens(a, p, s.tokens[0], steps, 0);
  load_tokens(a, p, s.tokens[1], steps, 1);
  __syncthreads();
  if (tiles) {
    stage_rows(a, p, s.rows[0], s.tokens[0], count_of(steps, 0));
    stage_x(a, p, s.x[0], s.tokens[0], count_of(steps, 0));
  }
  for (int i = 0; i < tiles; ++i) {
    const int count = count_of(steps, i);
    const int32_t* tokens = s.tokens[i];
    T *rows = s.rows[i], *x = s.x[i];
    async_wait();
    // After this barrier the tile is loaded, and the other tile's buffers are free.
    const bool output = __syncthreads_or(!BORDERS && threadIdx.x < count && wanted(a, tokens[threadIdx.x]));
    if (i + 1 < tiles) {
      stage_rows(a, p, s.rows[i + 1], s.tokens[i + 1], count_of(steps, i + 1));
      stage_x(a, p, s.x[i + 1], s.tokens[i + 1], count_of(steps, i + 1));
      load_tokens(a, p, s.tokens[i + 2], steps, i + 2);
    }
    T delta[kSteps], u[kSteps], y[kSteps];
    make_delta(delta, rows, s.W, bias, R, p, count);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const T value = x[(p.lane * kSteps + j) * kPitch + p.local];
      u[j] = delta[j] * value, y[j] = skip * value;
    }
    for (int n = 0; n < N; ++n) {
      const T A = s.A[n * kChannels + p.local];
      T b[kSteps], own[kSteps], product[kSteps];
      load_steps(b, rows + (R + n) * kTile, p.lane);
      T h = T(0), decay = T(1);
      if (p.lane == 0) {
        h = s.h[n * kChannels + p.local];
        if (BORDERS && p.exists)
          out[((((int64_t)p.b * a.directions + p.k) * tiles_of(a.length) + i) * N + n) * a.channels + p.e] = h;
      }
#pragma unroll
      for (int j = 0; j < kSteps; ++j) {
        const T e = exp2_(delta[j] * A);
        h = e * h + u[j] * b[j], decay *= e;
        own[j] = h, product[j] = decay;
      }
      const T before = scan_lanes(h, decay, p.lane);
      if (p.lane == kLanes - 1) s.h[n * kChannels + p.local] = h;
      if (!output) continue;
      T c[kSteps];
      load_steps(c, rows + (R + N + n) * kTile, p.lane);
#pragma unroll
      for (int j = 0; j < kSteps; ++j) y[j] += c[j] * (product[j] * before + own[j]);
    }
    if (!output) continue;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) x[(p.lane * kSteps + j) * kPitch + p.local] = y[j];
    __syncthreads();
    const int c = threadIdx.x % kChannels, e = p.tile * kChannels + c;
    for (int t = threadIdx.x / kChannels; t < count; t += kThreads / kChannels)
      if (e < a.channels && wanted(a, tokens[t]))
        atomicAdd(out + ((int64_t)p.b * a.out_length + tokens[t] - a.out_start) * a.channels + e, x[t * kPitch + c]);
  }
}

// `launch(kernel, grid x, grid y, threads, bytes of shared memory, arguments …)`.
template <typename I, typename T, bool BORDERS = false, typename Launch>
void run_forward(const Launch& launch, const ScanArgs<I, T>& a, T* out) {
  const int bytes = ForwardShared<T>(nullptr, a.states, a.rank).bytes;
  launch(scan_forward<I, T, BORDERS>, a.batch * channel_tiles(a.channels), a.directions, kThreads, bytes, a, out);
}

}  // namespace avsmamba
