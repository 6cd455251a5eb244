// The scan over the compiler's own vector types, without intrinsics: included once for each instruction set, with
//   NS     namespace of this build          REAL   float or double
//   LANES  values in a vector               INT    integer of the same size as REAL
// and, where an instruction set has them, LOOKUP(table, t) for the entries of a table in registers together with
// SCALE(p, n) for p 2^n and FMA(a, b, c) for a b + c rounded once; KEEP(x) keeps the compiler from recomputing x.
//
// Forward, for a job (channels of one batch entry) and each of its directions: pack kTile tokens' x, B, C and the
// delta = softplus(dt W + b) into L1, then run the recurrence
//   h = exp(delta A) h + delta x B,   y = C h + D x
// with up to eight states in registers. For training it also stores the states before each tile: N / kTile of a
// K x L x E tensor, which itself never exists. Backward visits the tiles from the last to the first: it recomputes a
// tile's states from those before it, and runs
//   g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1}
// from which all gradients follow.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "scan.h"

namespace avsmamba {
namespace NS {

#include "vector_math.inl"

#include "vector_io.inl"

// The packed tokens of a tile and the running states of a job, cut out of `memory`; with `memory` null only `size` is
// computed. Channels past a job's lanes are zero.
template <int WIDTH>
struct Workspace {
  static constexpr int NV = WIDTH / LANES;
  int64_t size = 0;
  REAL *A2, *h, *W, *bias, *D, *delta, *x, *u, *y, *low, *B, *C;                         // both; u = delta x
  REAL *sigmoid, *dy, *dy_u, *d_delta, *d_xb, *g, *gA, *gW, *gbias, *gD, *left, *decay;  // backward

  Workspace(REAL* memory, int64_t N, int64_t R, bool backward) {
    // The odd number of cache lines between two arrays keeps tokens of the same number out of one set of L1.
    auto take = [&](int64_t n) {
      REAL* p = memory ? memory + size : nullptr;
      size += (n + 15) / 16 * 16 + 144;
      return p;
    };
    A2 = take(N * WIDTH), h = take(N * WIDTH), W = take(R * WIDTH), bias = take(WIDTH), D = take(WIDTH);
    delta = take(kTile * WIDTH), x = take(kTile * WIDTH), u = take(kTile * WIDTH), y = take(kTile * WIDTH);
    low = take(kTile * R), B = take(kTile * N), C = take(kTile * N);
    if (!backward) return;
    sigmoid = take(kTile * WIDTH), dy = take(kTile * WIDTH), d_delta = take(kTile * WIDTH), d_xb = take(kTile * WIDTH);
    g = take(N * WIDTH), gA = take(N * WIDTH), gW = take(R * WIDTH), gbias = take(WIDTH), gD = take(WIDTH);
    left = take(kTile * 2 * WIDTH), decay = take(kTile * 2 * WIDTH), dy_u = take(kTile);
  }
};

template <int WIDTH>
void pack_direction(const ScanArgs<REAL>& a, const ScanJob& j, int64_t k, Workspace<WIDTH>& w) {
  const int64_t N = a.states, R = a.rank, row = k * a.channels + j.e0;
  for (int c = 0; c < WIDTH; ++c) {
    const bool real = c < j.lanes;
    for (int64_t n = 0; n < N; ++n) w.A2[n * WIDTH + c] = real ? a.A[(row + c) * N + n] * kLog2e : 0;
    for (int64_t r = 0; r < R; ++r) w.W[r * WIDTH + c] = real ? a.dt_weight[(row + c) * R + r] : 0;
    w.bias[c] = real ? a.dt_bias[row + c] : 0;
    w.D[c] = real ? a.D[row + c] : 0;
  }
  std::memset(w.h, 0, sizeof(REAL) * N * WIDTH);
}

// dt W + b of TOKENS packed tokens from t on; several at once, so that a vector of weights serves them all.
template <int WIDTH, int TOKENS>
AI void add_low_rank(Workspace<WIDTH>& w, int64_t R, int t) {
  constexpr int NV = WIDTH / LANES, NB = NV < 2 ? 1 : LANES == 16 ? (NV < 4 ? NV : 4) : 2;
  for (int v = 0; v < WIDTH; v += NB * LANES) {
    V acc[TOKENS][NB];
    for (int u = 0; u < TOKENS; ++u)
      for (int q = 0; q < NB; ++q) acc[u][q] = load(w.bias + v + q * LANES);
    for (int64_t r = 0; r < R; ++r) {
      V weight[NB];
      for (int q = 0; q < NB; ++q) weight[q] = load(w.W + r * WIDTH + v + q * LANES);
      for (int u = 0; u < TOKENS; ++u) {
        const REAL l = w.low[(t + u) * R + r];
        for (int q = 0; q < NB; ++q) acc[u][q] = l * weight[q] + acc[u][q];
      }
    }
    for (int u = 0; u < TOKENS; ++u)
      for (int q = 0; q < NB; ++q) store(w.delta + (t + u) * WIDTH + v + q * LANES, acc[u][q]);
  }
}

// Delta of T packed tokens and u = delta x; with SIGMOID also the derivative of softplus.
template <int WIDTH, bool SIGMOID>
AI void make_deltas(Workspace<WIDTH>& w, int64_t R, int T) {
  int t = 0;
  for (; t + 4 <= T; t += 4) add_low_rank<WIDTH, 4>(w, R, t);
  for (; t < T; ++t) add_low_rank<WIDTH, 1>(w, R, t);
#pragma GCC unroll 4
  for (int o = 0; o < T * WIDTH; o += LANES) {
    V s;
    const V d = softplus(load(w.delta + o), &s);
    store(w.delta + o, d);
    store(w.u + o, d * load(w.x + o));
    if (SIGMOID) store(w.sigmoid + o, s);
  }
}

// Pack T tokens and compute their delta, with SIGMOID also the derivative of softplus; fetch the rows of `next` tokens.
template <int WIDTH, bool SIGMOID>
AI void pack_tile(const ScanArgs<REAL>& a, const ScanJob& j, int64_t k, const int32_t* tokens, int T,
                  const int32_t* next, int next_count, Workspace<WIDTH>& w) {
  const int64_t N = a.states, R = a.rank;
  const int64_t x0 = j.b * a.x_stride[0] + j.e0, dt0 = j.b * a.dt_stride[0] + k * a.dt_stride[2];
  const int64_t B0 = j.b * a.B_stride[0] + k * a.B_stride[2], C0 = j.b * a.C_stride[0] + k * a.C_stride[2];
  const int bytes = a.input == Input::same ? sizeof(REAL) : 2;
  for (int t = 0; t < T; ++t) {
    const int64_t i = tokens[t];
    if (t < next_count) {
      prefetch((const char*)a.x + (x0 + next[t] * a.x_stride[1]) * bytes, WIDTH * bytes);
      prefetch((const char*)a.dt + (dt0 + next[t] * a.dt_stride[1]) * bytes, R * bytes);
      prefetch((const char*)a.B + (B0 + next[t] * a.B_stride[1]) * bytes, N * bytes);
      prefetch((const char*)a.C + (C0 + next[t] * a.C_stride[1]) * bytes, N * bytes);
    }
    read_channels<WIDTH>(w.x + t * WIDTH, a.x, x0 + i * a.x_stride[1], j.lanes, a.input);
    read_row(w.low + t * R, a.dt, dt0 + i * a.dt_stride[1], R, a.input);
    read_row(w.B + t * N, a.B, B0 + i * a.B_stride[1], N, a.input);
    read_row(w.C + t * N, a.C, C0 + i * a.C_stride[1], N, a.input);
  }
  make_deltas<WIDTH, SIGMOID>(w, R, T);
}

// S states from n0 on through T packed tokens; with OUT also y, to which the first block adds D x.
template <int WIDTH, int S, bool OUT>
AI void advance(Workspace<WIDTH>& w, int64_t N, int64_t n0, int T) {
  for (int v = 0; v < WIDTH; v += LANES) {
    V h[S], a[S];
    for (int s = 0; s < S; ++s) h[s] = load(w.h + (n0 + s) * WIDTH + v), a[s] = load(w.A2 + (n0 + s) * WIDTH + v);
    const V skip = load(w.D + v);
    for (int t = 0; t < T; ++t) {
      const V d = load(w.delta + t * WIDTH + v), u = load(w.u + t * WIDTH + v);
      const REAL *b = w.B + t * N + n0, *c = w.C + t * N + n0;
      V y0 = V{}, y1 = V{};
      if (OUT) y0 = n0 ? load(w.y + t * WIDTH + v) : skip * load(w.x + t * WIDTH + v);
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) {
        h[s] = exp2v(d * a[s]) * h[s] + u * b[s];
        if (OUT) {
          if (s & 1) y1 = h[s] * c[s] + y1;
          else y0 = h[s] * c[s] + y0;
        }
      }
      if (OUT) store(w.y + t * WIDTH + v, y0 + y1);
    }
    for (int s = 0; s < S; ++s) store(w.h + (n0 + s) * WIDTH + v, h[s]);
  }
}

template <int WIDTH, bool OUT>
AI void advance_all(Workspace<WIDTH>& w, int64_t N, int T) {
  int64_t n = 0;
  for (; n + 8 <= N; n += 8) advance<WIDTH, 8, OUT>(w, N, n, T);
  for (; n + 4 <= N; n += 4) advance<WIDTH, 4, OUT>(w, N, n, T);
  for (; n + 2 <= N; n += 2) advance<WIDTH, 2, OUT>(w, N, n, T);
  for (; n < N; ++n) advance<WIDTH, 1, OUT>(w, N, n, T);
}

AI bool wanted(const ScanArgs<REAL>& a, int64_t i) { return (uint64_t)(i - a.out_start) < (uint64_t)a.out_length; }

AI bool any_wanted(const ScanArgs<REAL>& a, const int32_t* tokens, int T) {
  for (int t = 0; t < T; ++t)
    if (wanted(a, tokens[t])) return true;
  return false;
}

AI int shorter(int64_t a, int b) { return a < b ? (int)a : b; }

AI int64_t tiles(int64_t steps) { return (steps + kTile - 1) / kTile; }

// The states before tile c of direction k, which `states` (b, K, tiles, N, E) holds.
template <typename T>
AI T* state_row(T* states, const ScanArgs<REAL>& a, const ScanJob& j, int64_t k, int64_t c) {
  return states + ((j.b * a.directions + k) * tiles(a.length) + c) * a.states * a.channels + j.e0;
}

template <int WIDTH>
AI void copy_states(REAL* to, int64_t to_pitch, const REAL* from, int64_t from_pitch, int64_t N, int lanes) {
  for (int64_t n = 0; n < N; ++n, to += to_pitch, from += from_pitch) {
    if (lanes == WIDTH)
      for (int v = 0; v < WIDTH; v += LANES) store(to + v, load(from + v));
    else
      for (int c = 0; c < lanes; ++c) to[c] = from[c];
  }
}

template <int WIDTH>
void forward_width(const ScanArgs<REAL>& a, const ScanJob& j, REAL* y, REAL* states) {
  const int64_t N = a.states;
  Workspace<WIDTH> w((REAL*)j.scratch, N, a.rank, false);
  for (int64_t k = j.k0; k < j.k1; ++k) {
    pack_direction(a, j, k, w);
    const int64_t steps = a.steps[k];
    for (int64_t start = 0; start < steps; start += kTile) {
      const int32_t* tokens = a.order + k * a.length + start;
      const int T = shorter(steps - start, kTile);
      if (states) copy_states<WIDTH>(state_row(states, a, j, k, start / kTile), a.channels, w.h, WIDTH, N, j.lanes);
      pack_tile<WIDTH, false>(a, j, k, tokens, T, tokens + kTile, shorter(steps - start - T, kTile), w);
      if (!any_wanted(a, tokens, T)) {
        advance_all<WIDTH, false>(w, N, T);
        continue;
      }
      REAL* const first = y + (j.b * a.out_length - a.out_start) * a.channels + j.e0;
      for (int t = 0; t < T; ++t)
        if (wanted(a, tokens[t])) prefetch(first + tokens[t] * a.channels, WIDTH * sizeof(REAL));
      advance_all<WIDTH, true>(w, N, T);
      for (int t = 0; t < T; ++t)
        if (wanted(a, tokens[t]))
          put_channels<WIDTH>(first + tokens[t] * a.channels, w.y + t * WIDTH, j.lanes, k == j.k0);
    }
    for (int64_t c = tiles(steps); states && c < tiles(a.length); ++c)
      for (int64_t n = 0; n < N; ++n)
        std::memset(state_row(states, a, j, k, c) + n * a.channels, 0, sizeof(REAL) * j.lanes);
  }
}

#include "scan_backward.inl"

// The arithmetic of a packed tile, `rounds` times, to measure it with all data in cache and no gathering.
// Without a rank delta is not recomputed, and only the recurrence (and its gradients) runs. `scratch` holds a workspace
// and a tile's gradients.
static void peak(int64_t N, int64_t R, int64_t rounds, bool backward, REAL* scratch) {
  Workspace<64> w(scratch, N, R, true);
  REAL *dx = scratch + w.size, *rows = dx + kTile * 64;
  for (REAL* p = scratch; p < rows + kTile * (R + 2 * N); ++p) *p = REAL(0.01);
  for (int64_t i = 0; i < N * 64; ++i) w.A2[i] = -1;
  ScanArgs<REAL> a{};
  a.channels = 64, a.states = N, a.rank = R, a.dt_weight = w.W;
  ScanJob j{};
  j.lanes = 64;
  int32_t tokens[kTile];
  for (int t = 0; t < kTile; ++t) tokens[t] = t;
  for (int64_t r = 0; r < rounds; ++r) {
    if (R && backward) make_deltas<64, true>(w, R, kTile);
    else if (R) make_deltas<64, false>(w, R, kTile);
    if (backward) retreat_all<64, true>(w, rows + R, R + 2 * N, w.h, N, kTile);
    else advance_all<64, true>(w, N, kTile);
    if (R && backward) finish_tile(w, a, j, 0, dx, true, rows, R + 2 * N, tokens, kTile);
  }
}

static void forward(const ScanArgs<REAL>& a, const ScanJob& j, REAL* y, REAL* states) {
  if (j.width == 16) forward_width<16>(a, j, y, states);
  else if (j.width == 32) forward_width<32>(a, j, y, states);
  else forward_width<64>(a, j, y, states);
}

static void backward(const ScanArgs<REAL>& a, const ScanJob& j, const void* dy, const REAL* states,
                     const ScanGrads<REAL>& out) {
  if (j.width == 16) backward_width<16>(a, j, dy, states, out);
  else if (j.width == 32) backward_width<32>(a, j, dy, states, out);
  else backward_width<64>(a, j, dy, states, out);
}

static int64_t scratch(const ScanArgs<REAL>& a, int width, bool backward) {
  if (width == 16) return Workspace<16>(nullptr, a.states, a.rank, backward).size;
  if (width == 32) return Workspace<32>(nullptr, a.states, a.rank, backward).size;
  return Workspace<64>(nullptr, a.states, a.rank, backward).size;
}

#undef SHUFFLE
}  // namespace NS
}  // namespace avsmamba
