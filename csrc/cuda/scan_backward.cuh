// The backward kernel: tiles from the last to the first, each from the states at its border, which a forward scan has
// stored in `borders`. With g_t the gradient of the state after step t, g_t = C_t dy_t + e_{t+1} g_{t+1} is scanned as
// the states are, in the other direction.
//
// Sums over channels (ddt, dB, dC) are taken over a warp's four channels by shuffles, over the block's
// warps in shared memory, and over blocks by atomic adds; the parameters' gradients over tokens in registers and
// shared memory, and over the batch by atomic adds; dx over directions by atomic adds. The caller has zeroed all
// eight. Deterministic mode depends on the caller's arguments: one direction a launch, and a copy of ddt, dB and
// dC for each channel tile and of the parameters' gradients for each batch entry, so that no address receives two
// additions in one launch.
#pragma once
#include "scan_forward.cuh"

namespace avsmamba {

constexpr int kGroup = 4;            // states whose dB and dC wait in shared memory at a time
constexpr int kParts = 2 * kGroup;   // rows that a warp has there
constexpr int kPartPitch = kTile + 4;

template <typename T>
struct BackwardShared {
  Ring<T> rows;
  Ring<int32_t> tokens;
  T *x, *dy, *A, *W, *g, *gA, *gW, *parts;
  int bytes;
  __host__ __device__ BackwardShared(unsigned char* base, int N, int R) {
    SharedArena c(base);
    rows = Ring<T>(c, 2, (R + 2 * N) * kTile), tokens = Ring<int32_t>(c, 3, kTile);
    x = c.take<T>(kTile * kPitch), dy = c.take<T>(kTile * kPitch);
    A = c.take<T>(N * kChannels), W = c.take<T>(R * kChannels);
    g = c.take<T>(N * kChannels), gA = c.take<T>(N * kChannels), gW = c.take<T>(R * kChannels);
    static_assert(kWarps * kParts * kPartPitch >= kTile * kPitch, "dx goes out through `parts`");
    parts = c.take<T>(kWarps * kParts * kPartPitch);
    bytes = c.used;
  }
};

// The dy of a tile's requested tokens, zeros for the others.
template <typename I, typename T>
__device__ inline void stage_dy(const ScanArgs<I, T>& a, const ThreadPosition& p, const I* dy, T* to,
                                const int32_t* tokens, int count) {
  const int c = threadIdx.x % kChannels, e = p.tile * kChannels + c;
#pragma unroll 4
  for (int t = threadIdx.x / kChannels; t < kTile; t += kThreads / kChannels) {
    T* value = to + t * kPitch + c;
    if (t < count && e < a.channels && wanted(a, tokens[t]))
      fetch(value, dy + ((int64_t)p.b * a.out_length + tokens[t] - a.out_start) * a.channels + e);
    else
      *value = T(0);
  }
}

// Half of two values each, summed over the threads that differ in bit `mask`: those with the bit set get the second.
template <typename T>
__device__ inline T exchange(T first, T second, int mask) {
  const bool upper = threadIdx.x & mask;
  return (upper ? second : first) + __shfl_xor_sync(kAll, upper ? first : second, mask);
}

// Adds the warps' parts of a tile up and to `to(part, token)`, where there is such a part.
template <typename T, typename To>
__device__ inline void flush_parts(const T* parts, const int32_t* tokens, int count, const To& to) {
  __syncthreads();
  for (int i = threadIdx.x; i < kParts * count; i += kThreads) {
    const int part = i % kParts, t = i / kParts;
    T* address = to(part, tokens[t]);
    if (!address) continue;
    T sum = T(0);
    for (int w = 0; w < kWarps; ++w) sum += parts[(w * kParts + part) * kPartPitch + t];
    atomicAdd(address, sum);
  }
  __syncthreads();
}

template <typename I, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2)
    scan_backward(ScanArgs<I, T> a, const I* dy_, const T* borders, ScanGrads<T> out) {
  AVS_DYNAMIC_SHARED(memory);
  const int N = a.states, R = a.rank;
  const BackwardShared<T> s(memory, N, R);
  const ThreadPosition p(a);
  const int steps = a.steps[p.k], tiles = tiles_of(steps);
  const int64_t parameter = (int64_t)p.k * a.channels + p.e;
  const T bias = p.exists ? a.dt_bias[parameter] : T(0), skip = p.exists ? a.D[parameter] : T(0);
  // Rows of ddt, dB and dC that this block adds to, and (direction, channel) of the parameters' gradients.
  const int64_t copy = out.row_copies > 1 ? p.tile : 0;
  auto row_of = [&](int token) { return ((copy * a.batch + p.b) * a.length + token) * a.directions + p.k; };
  const int64_t own_parameter = (out.parameter_copies > 1 ? (int64_t)p.b * a.directions * a.channels : 0) + parameter;

  load_parameters(a, p, s.A, s.W);
  for (int n = p.lane; n < N; n += kLanes) s.g[n * kChannels + p.local] = s.gA[n * kChannels + p.local] = T(0);
  for (int r = p.lane; r < R; r += kLanes) s.gW[r * kChannels + p.local] = T(0);
  load_tokens(a, p, s.tokens[tiles + 2], steps, tiles - 1);
  load_tokens(a, p, s.tokens[tiles + 1], steps, tiles - 2);
  __syncthreads();
  auto stage_tokens = [&](int i) {
    stage_x(a, p, s.x, s.tokens[i], count_of(steps, i));
    stage_dy(a, p, dy_, s.dy, s.tokens[i], count_of(steps, i));
    stage_rows(a, p, s.rows[i], s.tokens[i], count_of(steps, i));
  };
  if (tiles) stage_tokens(tiles - 1);
  T gD = T(0), gbias = T(0);
  const int warp = threadIdx.x / 32;
  T* parts = s.parts + warp * kParts * kPartPitch;

  for (int i = tiles - 1; i >= 0; --i) {
    const int count = count_of(steps, i);
    const int32_t* tokens = s.tokens[i];
    const T* rows = s.rows[i];
    const T* border = borders + (((int64_t)p.b * a.directions + p.k) * tiles_of(a.length) + i) * N * a.channels + p.e;
    async_wait();
    __syncthreads();
    T delta[kSteps], x[kSteps], dy[kSteps], d_delta[kSteps], d_xb[kSteps];
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int at = (p.lane * kSteps + j) * kPitch + p.local;
      x[j] = s.x[at], dy[j] = s.dy[at], d_delta[j] = d_xb[j] = T(0);
      gD += x[j] * dy[j];
    }
    __syncthreads();
    if (i > 0) {
      stage_tokens(i - 1);
      load_tokens(a, p, s.tokens[i + 1], steps, i - 2);
    }
    make_delta(delta, rows, s.W, bias, R, p, count);

    for (int n0 = 0; n0 < N; n0 += kGroup) {
      for (int n = n0; n < min(n0 + kGroup, N); ++n) {
        const T A = s.A[n * kChannels + p.local];
        T b[kSteps], c[kSteps], e[kSteps], H[kSteps], product[kSteps];
        load_steps(b, rows + (R + n) * kTile, p.lane);
        load_steps(c, rows + (R + N + n) * kTile, p.lane);
        T h = p.lane == 0 && p.exists ? border[(int64_t)n * a.channels] : T(0), decay = T(1);
        const T first = h;
#pragma unroll
        for (int j = 0; j < kSteps; ++j) {
          e[j] = exp2_(delta[j] * A);
          h = e[j] * h + delta[j] * x[j] * b[j], decay *= e[j];
          H[j] = h, product[j] = decay;
        }
        const T before = scan_lanes(h, decay, p.lane);
#pragma unroll
        for (int j = 0; j < kSteps; ++j) H[j] += product[j] * before;
        const T last = p.lane == kLanes - 1 ? s.g[n * kChannels + p.local] : T(0);
        T g = last;
#pragma unroll
        for (int j = kSteps - 1; j >= 0; --j) g = e[j] * (dy[j] * c[j] + g);
        T carried = scan_lanes_back(g, decay, p.lane) + last;
        if (p.lane == 0) s.g[n * kChannels + p.local] = g;
        T gA = T(0), sums[kSteps];
#pragma unroll kSteps
        for (int j = kSteps - 1; j >= 0; --j) {
          const T grad = dy[j] * c[j] + carried;
          carried = e[j] * grad;
          const T q = carried * (j ? H[j - 1] : before + first);
          d_delta[j] += A * q, gA += delta[j] * q, d_xb[j] += grad * b[j];
          sums[j] = exchange(grad * delta[j] * x[j], dy[j] * H[j], 16);
        }
        Quad<T> four;
#pragma unroll
        for (int j = 0; j < 4; ++j) four.v[j] = exchange(sums[j], sums[j + 4], 8);
        const int part = (threadIdx.x & 16 ? kGroup : 0) + n - n0;
        *reinterpret_cast<Quad<T>*>(parts + part * kPartPitch + p.lane * kSteps + (threadIdx.x & 8 ? 4 : 0)) = four;
        gA = sum_lanes(gA);
        if (p.lane == 0) s.gA[n * kChannels + p.local] += gA;
      }
      flush_parts(s.parts, tokens, count, [&](int part, int token) -> T* {
        const int n = n0 + part % kGroup;
        return n < N ? (part < kGroup ? out.dB : out.dC) + row_of(token) * N + n : nullptr;
      });
    }

    T raw[kSteps];
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      raw[j] = (d_delta[j] * T(0.69314718055994530942) + x[j] * d_xb[j]) * sigmoid_of_softplus(delta[j]);
      gbias += raw[j];
    }
    for (int r0 = 0; r0 < R; r0 += kParts) {
      for (int r = r0; r < min(r0 + kParts, R); ++r) {
        const T w = s.W[r * kChannels + p.local];
        T low[kSteps], half[4], gW = T(0);
        load_steps(low, rows + r * kTile, p.lane);
#pragma unroll
        for (int j = 0; j < kSteps; ++j) gW += raw[j] * low[j];
#pragma unroll
        for (int j = 0; j < 4; ++j) half[j] = exchange(raw[j] * w, raw[j + 4] * w, 16);
        const int t = p.lane * kSteps + (threadIdx.x & 16 ? 4 : 0) + (threadIdx.x & 8 ? 2 : 0);
        for (int j = 0; j < 2; ++j) parts[(r - r0) * kPartPitch + t + j] = exchange(half[j], half[j + 2], 8);
        gW = sum_lanes(gW);
        if (p.lane == 0) s.gW[r * kChannels + p.local] += gW;
      }
      flush_parts(s.parts, tokens, count, [&](int part, int token) -> T* {
        return r0 + part < R ? out.ddt + row_of(token) * R + r0 + part : nullptr;
      });
    }

#pragma unroll
    for (int j = 0; j < kSteps; ++j)
      s.parts[(p.lane * kSteps + j) * kPitch + p.local] = delta[j] * d_xb[j] + skip * dy[j];
    __syncthreads();
    const int c = threadIdx.x % kChannels, e = p.tile * kChannels + c;
    for (int t = threadIdx.x / kChannels; t < count; t += kThreads / kChannels)
      if (e < a.channels)
        atomicAdd(out.dx + ((int64_t)p.b * a.length + tokens[t]) * a.channels + e, s.parts[t * kPitch + c]);
  }

  gD = sum_lanes(gD), gbias = sum_lanes(gbias);
  __syncthreads();
  if (!p.exists) return;
  for (int n = p.lane; n < N; n += kLanes)
    atomicAdd(out.dA + own_parameter * N + n, s.gA[n * kChannels + p.local]);
  for (int r = p.lane; r < R; r += kLanes)
    atomicAdd(out.ddt_weight + own_parameter * R + r, s.gW[r * kChannels + p.local]);
  if (p.lane == 0) atomicAdd(out.dD + own_parameter, gD), atomicAdd(out.ddt_bias + own_parameter, gbias);
}

// `borders` is room for the states before each tile, (b, K, tiles, N, E).
template <typename I, typename T, typename Launch>
void run_backward(const Launch& launch, const ScanArgs<I, T>& a, const I* dy, T* borders, const ScanGrads<T>& out) {
  run_forward<I, T, true>(launch, a, borders);
  const int bytes = BackwardShared<T>(nullptr, a.states, a.rank).bytes;
  launch(scan_backward<I, T>, a.batch * channel_tiles(a.channels), a.directions, kThreads, bytes, a, dy,
         (const T*)borders, out);
}

}  // namespace avsmamba
