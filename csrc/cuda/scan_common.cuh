// What the CUDA kernels of the multi-directional scan share. The kernels use CUDA only through this file's macros and
// the usual builtins, so that tests/cuda_emulation can compile the very same sources with a plain C++ compiler.
//
// A block scans kChannels channels of one batch entry in one direction, kTile tokens at a time. kLanes threads share a
// channel, and each has kSteps consecutive tokens of the tile, with all the states. A state h_t = e_t h_{t-1} + u_t B_t
// is scanned in three phases: each lane over its own steps from zero (lane 0 from the state of the tile before), the
// lanes' ends by shuffles, and then every step by h = (product of e so far) h_in + (own scan). So each exponential and
// each delta is computed once, N and R may have any value, and one long sequence has 8 times as many threads as channels.
#pragma once
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define AVS_DYNAMIC_SHARED(name) extern __shared__ __align__(64) unsigned char name[]
#endif

namespace avsmamba {

constexpr int kLanes = 8, kSteps = 8, kTile = kLanes * kSteps;
constexpr int kChannels = 32, kThreads = kChannels * kLanes, kWarps = kThreads / 32;
constexpr int kPitch = kChannels + 1;  // of a tile of tokens and channels in shared memory: an odd number of banks
constexpr unsigned kAll = 0xffffffffu;

// Strides are in elements; the last axis of every tensor has stride 1. Parameters, order, dy and outputs are
// contiguous.
template <typename I, typename T>
struct ScanArgs {
  int batch, length, channels, directions, states, rank;
  const I *x, *dt, *B, *C;  // (b, L, E), (b, L, K, R), (b, L, K, N), (b, L, K, N)
  int64_t x_stride[2], dt_stride[3], B_stride[3], C_stride[3];
  const T *A, *D, *dt_weight, *dt_bias;  // (K, E, N), (K, E), (K, E, R), (K, E)
  const int32_t* order;                  // (K, L)
  const int32_t* steps;                  // (K): steps of each direction up to its last requested token
  int out_start, out_length;             // tokens whose output is requested
};

// Where the backward adds its gradients. With row_copies = 1 all channel tiles add to the same ddt, dB and dC; with as
// many copies as there are channel tiles each has its own. The same with parameter_copies and batch entries.
template <typename T>
struct ScanGrads {
  T *dx, *ddt, *dB, *dC;                 // (b, L, E), (row_copies, b, L, K, R), (…, N), (…, N)
  T *dA, *dD, *ddt_weight, *ddt_bias;    // (parameter_copies, K, E, N), …
  int row_copies, parameter_copies;
};

#ifdef __CUDACC__
__device__ inline float exp2_(float v) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
// An asynchronous copy to shared memory, complete after async_wait by the same thread.
template <typename T>
__device__ inline void async_copy(T* to, const T* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from),
               "n"(sizeof(T)));
}
__device__ inline void async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif
__device__ inline double exp2_(double v) { return exp2(v); }

__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float widen(__half v) { return __half2float(v); }

template <typename I, typename T>
__device__ inline void fetch(T* to, const I* from) {
  if constexpr (std::is_same_v<I, T>) async_copy(to, from);
  else *to = widen(*from);
}

// softplus(v); its derivative is 1 - exp(-softplus(v)).
__device__ inline float softplus(float v) { return fmaxf(v, 0.f) + log1pf(expf(-fabsf(v))); }
__device__ inline double softplus(double v) { return fmax(v, 0.) + log1p(exp(-fabs(v))); }
__device__ inline float sigmoid_of_softplus(float d) { return -expm1f(-d); }
__device__ inline double sigmoid_of_softplus(double d) { return -expm1(-d); }

__host__ __device__ inline int tiles_of(int length) { return (length + kTile - 1) / kTile; }
__host__ __device__ inline int channel_tiles(int channels) { return (channels + kChannels - 1) / kChannels; }

// Position of this thread: a lane of a channel, and the block's batch entry, direction and channels.
struct ThreadPosition {
  int lane, local, tile, b, k, e;
  bool exists;
  template <typename Args>
  __device__ explicit ThreadPosition(const Args& a) {
    const int tiles = channel_tiles(a.channels);
    lane = threadIdx.x % kLanes, local = threadIdx.x / kLanes;
    tile = blockIdx.x % tiles, b = blockIdx.x / tiles, k = blockIdx.y;
    e = tile * kChannels + local;
    exists = e < a.channels;
  }
};

// Rows of a tile are transposed in shared memory, one column of kTile tokens after the other; in a column the lanes'
// first four tokens come first: a quad a lane, without bank conflicts.
__device__ inline int slot(int t) {
  return (t % kSteps / 4) * (4 * kLanes) + t / kSteps * 4 + t % 4;
}

template <typename T>
struct alignas(4 * sizeof(T)) Quad {
  T v[4];
};

template <typename T>
__device__ inline void load_steps(T (&v)[kSteps], const T* column, int lane) {
  static_assert(kSteps == 8, "two quads");
  const Quad<T> low = *reinterpret_cast<const Quad<T>*>(column + 4 * lane);
  const Quad<T> high = *reinterpret_cast<const Quad<T>*>(column + 4 * kLanes + 4 * lane);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = low.v[j], v[4 + j] = high.v[j];
}

// Cuts the dynamic shared memory into arrays, each on a 64-byte border; with base = nullptr it only counts.
struct SharedArena {
  unsigned char* base;
  int used = 0;
  __host__ __device__ explicit SharedArena(unsigned char* base) : base(base) {}
  template <typename T>
  __host__ __device__ T* take(int count) {
    T* p = reinterpret_cast<T*>(base + used);
    used += (count * (int)sizeof(T) + 63) / 64 * 64;
    return p;
  }
};

// Buffers that are used in turn.
template <typename T>
struct Ring {
  T* first = nullptr;
  int size = 1, stride = 0;
  Ring() = default;
  __host__ __device__ Ring(SharedArena& c, int size, int count) : size(size) {
    const int before = c.used;
    first = c.take<T>(count);
    stride = (c.used - before) / (int)sizeof(T);
    for (int i = 1; i < size; ++i) c.take<T>(count);
  }
  __device__ T* operator[](int i) const { return first + i % size * stride; }
};

__device__ inline int count_of(int steps, int i) { return min(kTile, steps - i * kTile); }

// The tokens of tile i, to be read after the next barrier.
template <typename Args>
__device__ inline void load_tokens(const Args& a, const ThreadPosition& p, int32_t* tokens, int steps, int i) {
  const int t = i * kTile + threadIdx.x;
  if (threadIdx.x < kTile) tokens[threadIdx.x] = i >= 0 && t < steps ? a.order[(int64_t)p.k * a.length + t] : 0;
}

// The dt, B and C of a tile into columns 0 … R - 1, R … R + N - 1 and the N after them; zeros past its end.
template <typename I, typename T>
__device__ inline void stage_rows(const ScanArgs<I, T>& a, const ThreadPosition& p, T* rows, const int32_t* tokens,
                                  int count) {
  const int R = a.rank, N = a.states;
  for (int t = threadIdx.x / 32; t < kTile; t += kWarps) {
    const int64_t token = tokens[t];
    const I* dt = a.dt + p.b * a.dt_stride[0] + token * a.dt_stride[1] + p.k * a.dt_stride[2];
    const I* B = a.B + p.b * a.B_stride[0] + token * a.B_stride[1] + p.k * a.B_stride[2];
    const I* C = a.C + p.b * a.C_stride[0] + token * a.C_stride[1] + p.k * a.C_stride[2];
    for (int c = threadIdx.x % 32; c < R + 2 * N; c += 32) {
      T* to = rows + c * kTile + slot(t);
      if (t < count) fetch(to, c < R ? dt + c : c < R + N ? B + (c - R) : C + (c - R - N));
      else *to = T(0);
    }
  }
}

// The x of a tile, a warp to a token; zeros for channels and tokens that do not exist.
template <typename I, typename T>
__device__ inline void stage_x(const ScanArgs<I, T>& a, const ThreadPosition& p, T* x, const int32_t* tokens,
                               int count) {
  const int c = threadIdx.x % kChannels, e = p.tile * kChannels + c;
#pragma unroll 4
  for (int t = threadIdx.x / kChannels; t < kTile; t += kThreads / kChannels) {
    T* to = x + t * kPitch + c;
    if (t < count && e < a.channels) fetch(to, a.x + p.b * a.x_stride[0] + tokens[t] * a.x_stride[1] + e);
    else *to = T(0);
  }
}

template <typename Args>
__device__ inline bool wanted(const Args& a, int token) {
  return (unsigned)(token - a.out_start) < (unsigned)a.out_length;
}

// The direction's A (times log2 e) and dt_weight, transposed to (state or rank, channel).
template <typename I, typename T>
__device__ inline void load_parameters(const ScanArgs<I, T>& a, const ThreadPosition& p, T* A, T* W) {
  const int64_t row = (int64_t)p.k * a.channels + p.e;
  for (int n = p.lane; n < a.states; n += kLanes)
    A[n * kChannels + p.local] = p.exists ? a.A[row * a.states + n] * T(1.4426950408889634074) : T(0);
  for (int r = p.lane; r < a.rank; r += kLanes)
    W[r * kChannels + p.local] = p.exists ? a.dt_weight[row * a.rank + r] : T(0);
}

// delta of the thread's steps; zero for steps that do not exist, which then change no state.
template <typename T>
__device__ inline void make_delta(T (&delta)[kSteps], const T* rows, const T* W, T bias, int rank,
                                  const ThreadPosition& p, int count) {
#pragma unroll
  for (int j = 0; j < kSteps; ++j) delta[j] = bias;
  for (int r = 0; r < rank; ++r) {
    const T w = W[r * kChannels + p.local];
    T low[kSteps];
    load_steps(low, rows + r * kTile, p.lane);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) delta[j] += w * low[j];
  }
#pragma unroll
  for (int j = 0; j < kSteps; ++j)
    delta[j] = p.exists && p.lane * kSteps + j < count ? softplus(delta[j]) : T(0);
}

// From each lane's end h (of its own steps) and decay p over them: h after all lanes up to this one. Returns the state
// that the lane before left, zero for lane 0.
template <typename T>
__device__ inline T scan_lanes(T& h, T decay, int lane) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    const T other = __shfl_up_sync(kAll, h, d, kLanes), product = __shfl_up_sync(kAll, decay, d, kLanes);
    if (lane >= d) h += decay * other, decay *= product;
  }
  const T before = __shfl_up_sync(kAll, h, 1, kLanes);
  return lane == 0 ? T(0) : before;
}

// The same from the last lane to the first.
template <typename T>
__device__ inline T scan_lanes_back(T& g, T decay, int lane) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    const T other = __shfl_down_sync(kAll, g, d, kLanes), product = __shfl_down_sync(kAll, decay, d, kLanes);
    if (lane + d < kLanes) g += decay * other, decay *= product;
  }
  const T after = __shfl_down_sync(kAll, g, 1, kLanes);
  return lane == kLanes - 1 ? T(0) : after;
}

// The sum over a channel's lanes, in each of them.
template <typename T>
__device__ inline T sum_lanes(T v) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) v += __shfl_xor_sync(kAll, v, d);
  return v;
}

}  // namespace avsmamba
