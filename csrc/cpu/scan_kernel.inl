// The scan over the compiler's own vector types, without intrinsics: included once for each instruction set, with
//   NS     namespace of this build          REAL   float or double
//   LANES  values in a vector               INT    integer of the same size as REAL
//
// Forward, for a job (channels of one batch entry) and each of its directions: pack kTile tokens' x, B, C and the
// delta that softplus(dt W + b) gives into L1, then run the recurrence
//   h = exp(delta A) h + delta x B,   y = C h + D x
// with up to eight states in registers. Backward first repeats the recurrence and keeps the states at the tiles'
// borders, then walks the tiles from the last to the first: it recomputes a tile's states and runs
//   g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1}
// from which all gradients follow. Nothing of size K x L x E exists.
#include <cmath>
#include <cstring>
#include <vector>

#include "scan.h"

namespace avsmamba {
namespace NS {

typedef REAL V __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));
typedef INT I __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));
#define AI static inline __attribute__((always_inline))

AI V load(const REAL* p) { return *(const V*)p; }
AI void store(REAL* p, V v) { *(V*)p = v; }
AI V splat(REAL x) { return x - V{}; }
// Sum of a vector's values, halving it.
AI REAL sum(V v) {
  typedef REAL V4 __attribute__((vector_size(4 * sizeof(REAL))));
#if LANES == 16
  typedef REAL V8 __attribute__((vector_size(8 * sizeof(REAL))));
  const V8 e = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif LANES == 8
  const V e = v;
#endif
#if LANES >= 8
  const V4 q = __builtin_shufflevector(e, e, 0, 1, 2, 3) + __builtin_shufflevector(e, e, 4, 5, 6, 7);
#else
  const V4 q = v;
#endif
  return (q[0] + q[1]) + (q[2] + q[3]);
}

#if REAL_IS_FLOAT
constexpr REAL kLog2e = 1.44269504f, kLn2 = 0.69314718f;
// 2^x: round to an integer part, then a polynomial of degree 6 on [-1/2, 1/2] (minimax, error 2e-9 before rounding).
AI V exp2v(V x) {
  x = x < -126.f ? splat(-126.f) : x;
  x = x > 127.f ? splat(127.f) : x;
  V m = x + 12582912.f;
  V f = x - (m - 12582912.f);
  V p = f * 1.535336206e-4f + 1.339887459e-3f;
  p = p * f + 9.618437358e-3f;
  p = p * f + 5.550332471e-2f;
  p = p * f + 2.402264791e-1f;
  p = p * f + 6.931472029e-1f;
  p = p * f + 1.f;
  return (V)((I)p + ((I)m << 23));
}
// log(1 + e) for e in (0, 1] as 2 atanh(e / (2 + e)).
AI V log1pv(V e) {
  V z = e / (2.f + e), q = z * z;
  V p = q * 0.0588235f + 0.0666667f;
  p = p * q + 0.0769231f;
  p = p * q + 0.0909091f;
  p = p * q + 0.1111111f;
  p = p * q + 0.14285714f;
  p = p * q + 0.2f;
  p = p * q + 0.33333333f;
  p = p * q + 1.f;
  return 2.f * z * p;
}
#else
constexpr REAL kLog2e = 1.4426950408889634074, kLn2 = 0.69314718055994530942;
AI V exp2v(V x) {
  for (int i = 0; i < LANES; ++i) x[i] = std::exp2(x[i]);
  return x;
}
AI V log1pv(V e) {
  for (int i = 0; i < LANES; ++i) e[i] = std::log1p(e[i]);
  return e;
}
#endif

// softplus(x) and its derivative, both from e = exp(-|x|).
AI V softplus(V x, V* sigmoid) {
  V e = exp2v((x < 0 ? x : -x) * kLog2e);
  V s = 1 / (1 + e);
  *sigmoid = x < 0 ? e * s : s;
  return (x < 0 ? V{} : x) + log1pv(e);
}

// The packed tokens of a tile and the running states of a job; WIDTH channels, those past `lanes` are zero.
template <int WIDTH>
struct Workspace {
  static constexpr int NV = WIDTH / LANES;
  std::vector<REAL> memory;
  REAL *A2, *h, *W, *bias, *D, *delta, *x, *y, *B, *C;                                          // forward
  REAL *borders, *sigmoid, *dy, *d_delta, *d_xb, *g, *gA, *gW, *gbias, *gD, *H, *decay;         // backward

  Workspace(int64_t N, int64_t R, int64_t border_states) {
    int64_t total = 0;
    auto count = [&](int64_t n) { total += (n + 15) / 16 * 16; };
    layout(N, R, border_states, count);
    memory.resize(total + 16);
    REAL* p = (REAL*)(((uintptr_t)memory.data() + 63) / 64 * 64);
    auto place = [&](int64_t n) {
      REAL* q = p;
      p += (n + 15) / 16 * 16;
      return q;
    };
    A2 = place(N * WIDTH), h = place(N * WIDTH), W = place(R * WIDTH), bias = place(WIDTH), D = place(WIDTH);
    delta = place(kTile * WIDTH), x = place(kTile * WIDTH), y = place(kTile * WIDTH);
    B = place(kTile * N), C = place(kTile * N);
    if (!border_states) return;
    borders = place(border_states * N * WIDTH), sigmoid = place(kTile * WIDTH), dy = place(kTile * WIDTH);
    d_delta = place(kTile * WIDTH), d_xb = place(kTile * WIDTH), g = place(N * WIDTH), gA = place(N * WIDTH);
    gW = place(R * WIDTH), gbias = place(WIDTH), gD = place(WIDTH);
    H = place((kTile + 1) * 2 * WIDTH), decay = place(kTile * 2 * WIDTH);
  }

  template <typename F>
  static void layout(int64_t N, int64_t R, int64_t border_states, F count) {
    count(N * WIDTH), count(N * WIDTH), count(R * WIDTH), count(WIDTH), count(WIDTH);
    count(kTile * WIDTH), count(kTile * WIDTH), count(kTile * WIDTH), count(kTile * N), count(kTile * N);
    if (!border_states) return;
    count(border_states * N * WIDTH), count(kTile * WIDTH), count(kTile * WIDTH), count(kTile * WIDTH);
    count(kTile * WIDTH), count(N * WIDTH), count(N * WIDTH), count(R * WIDTH), count(WIDTH), count(WIDTH);
    count((kTile + 1) * 2 * WIDTH), count(kTile * 2 * WIDTH);
  }
};

template <int WIDTH>
AI void copy_row(REAL* to, const REAL* from, int lanes) {
  if (lanes == WIDTH) {
    for (int v = 0; v < WIDTH; v += LANES) store(to + v, load(from + v));
  } else {
    for (int c = 0; c < lanes; ++c) to[c] = from[c];
    for (int c = lanes; c < WIDTH; ++c) to[c] = 0;
  }
}

template <int WIDTH>
AI void add_row(REAL* to, const REAL* from, int lanes) {
  if (lanes == WIDTH) {
    for (int v = 0; v < WIDTH; v += LANES) store(to + v, load(to + v) + load(from + v));
  } else {
    for (int c = 0; c < lanes; ++c) to[c] += from[c];
  }
}

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

// Pack T tokens and make their delta; with SIGMOID also the derivative of softplus.
template <int WIDTH, bool SIGMOID>
AI void pack_tile(const ScanArgs<REAL>& a, const ScanJob& j, int64_t k, const int32_t* tokens, int T, int ahead,
                  Workspace<WIDTH>& w) {
  constexpr int NV = WIDTH / LANES;
  const int64_t N = a.states, R = a.rank;
  for (int t = 0; t < T; ++t) {
    const int64_t i = tokens[t];
    if (t < ahead) {
      const char* next = (const char*)(a.x + j.b * a.x_stride[0] + tokens[t + kTile] * a.x_stride[1] + j.e0);
      for (int c = 0; c < WIDTH * (int)sizeof(REAL); c += 64) __builtin_prefetch(next + c);
      __builtin_prefetch(a.dt + j.b * a.dt_stride[0] + tokens[t + kTile] * a.dt_stride[1] + k * a.dt_stride[2]);
    }
    const REAL* low = a.dt + j.b * a.dt_stride[0] + i * a.dt_stride[1] + k * a.dt_stride[2];
    copy_row<WIDTH>(w.x + t * WIDTH, a.x + j.b * a.x_stride[0] + i * a.x_stride[1] + j.e0, j.lanes);
    V acc[NV];
    for (int v = 0; v < NV; ++v) acc[v] = load(w.bias + v * LANES);
    for (int64_t r = 0; r < R; ++r) {
      const REAL l = low[r];
      for (int v = 0; v < NV; ++v) acc[v] = acc[v] + l * load(w.W + r * WIDTH + v * LANES);
    }
    for (int v = 0; v < NV; ++v) {
      V s;
      store(w.delta + t * WIDTH + v * LANES, softplus(acc[v], &s));
      if (SIGMOID) store(w.sigmoid + t * WIDTH + v * LANES, s);
    }
    const REAL* b = a.B + j.b * a.B_stride[0] + i * a.B_stride[1] + k * a.B_stride[2];
    const REAL* c = a.C + j.b * a.C_stride[0] + i * a.C_stride[1] + k * a.C_stride[2];
    for (int64_t n = 0; n < N; ++n) w.B[t * N + n] = b[n], w.C[t * N + n] = c[n];
  }
}

// S states from n0 on through T packed tokens; with OUT also y, to which the first block adds D x.
template <int WIDTH, int S, bool OUT>
AI void advance(Workspace<WIDTH>& w, int64_t N, int64_t n0, int T) {
  for (int v = 0; v < WIDTH; v += LANES) {
    V h[S], a[S];
    for (int s = 0; s < S; ++s) h[s] = load(w.h + (n0 + s) * WIDTH + v), a[s] = load(w.A2 + (n0 + s) * WIDTH + v);
    const V skip = load(w.D + v);
    for (int t = 0; t < T; ++t) {
      const V d = load(w.delta + t * WIDTH + v), x = load(w.x + t * WIDTH + v), u = d * x;
      const REAL *b = w.B + t * N + n0, *c = w.C + t * N + n0;
      V y0 = V{}, y1 = V{};
      if (OUT) y0 = n0 ? load(w.y + t * WIDTH + v) : skip * x;
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

template <int WIDTH>
void forward_width(const ScanArgs<REAL>& a, const ScanJob& j, REAL* y) {
  const int64_t N = a.states;
  Workspace<WIDTH> w(N, a.rank, 0);
  for (int64_t k = j.k0; k < j.k1; ++k) {
    pack_direction(a, j, k, w);
    const int32_t* order = a.order + k * a.length;
    for (int64_t start = 0; start < a.steps[k]; start += kTile) {
      const int T = (int)(a.steps[k] - start < kTile ? a.steps[k] - start : kTile);
      const int64_t left = a.length - start - kTile;
      pack_tile<WIDTH, false>(a, j, k, order + start, T, (int)(left < 0 ? 0 : left), w);
      if (!any_wanted(a, order + start, T)) {
        advance_all<WIDTH, false>(w, N, T);
        continue;
      }
      advance_all<WIDTH, true>(w, N, T);
      for (int t = 0; t < T; ++t) {
        const int64_t i = order[start + t];
        if (!wanted(a, i)) continue;
        add_row<WIDTH>(y + (j.b * a.out_length + i - a.out_start) * a.channels + j.e0, w.y + t * WIDTH, j.lanes);
      }
    }
  }
}

// Gradients of S states from n0 on over T packed tokens, from `border`, the states before the first of them.
template <int WIDTH, int S>
AI void retreat(Workspace<WIDTH>& w, const ScanArgs<REAL>& a, const ScanGrads<REAL>& out, int64_t row, int64_t k,
                const int32_t* tokens, const REAL* border, int64_t n0, int T) {
  constexpr int NV = WIDTH / LANES;
  const int64_t N = a.states, K = a.directions;
  for (int v = 0; v < WIDTH; v += LANES) {
    V h[S], a2[S];
    for (int s = 0; s < S; ++s) {
      h[s] = load(border + (n0 + s) * WIDTH + v), a2[s] = load(w.A2 + (n0 + s) * WIDTH + v);
      store(w.H + s * WIDTH + v, h[s]);
    }
    for (int t = 0; t < T; ++t) {
      const V d = load(w.delta + t * WIDTH + v), u = d * load(w.x + t * WIDTH + v);
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) {
        const V e = exp2v(d * a2[s]);
        h[s] = e * h[s] + u * w.B[t * N + n0 + s];
        store(w.decay + (t * S + s) * WIDTH + v, e);
        store(w.H + ((t + 1) * S + s) * WIDTH + v, h[s]);
      }
    }
  }
  V g[S][NV], gA[S][NV];
  for (int s = 0; s < S; ++s)
    for (int v = 0; v < NV; ++v) {
      g[s][v] = load(w.g + (n0 + s) * WIDTH + v * LANES);
      gA[s][v] = load(w.gA + (n0 + s) * WIDTH + v * LANES);
    }
  for (int t = T - 1; t >= 0; --t) {
    const REAL *b = w.B + t * N + n0, *c = w.C + t * N + n0;
    V dB[S], dC[S];
    for (int s = 0; s < S; ++s) dB[s] = dC[s] = V{};
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int o = t * WIDTH + v * LANES;
      const V d = load(w.delta + o), u = d * load(w.x + o), dy = load(w.dy + o);
      V d_delta = load(w.d_delta + o), d_xb = load(w.d_xb + o);
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) {
        const V grad = dy * c[s] + g[s][v];
        const V carried = load(w.decay + (t * S + s) * WIDTH + v * LANES) * grad;
        const V q = carried * load(w.H + (t * S + s) * WIDTH + v * LANES);
        d_delta = load(w.A2 + (n0 + s) * WIDTH + v * LANES) * q + d_delta;
        gA[s][v] = d * q + gA[s][v];
        d_xb = grad * b[s] + d_xb;
        dB[s] = grad * u + dB[s];
        dC[s] = dy * load(w.H + ((t + 1) * S + s) * WIDTH + v * LANES) + dC[s];
        g[s][v] = carried;
      }
      store(w.d_delta + o, d_delta);
      store(w.d_xb + o, d_xb);
    }
    const int64_t at = ((row + tokens[t]) * K + k) * N + n0;
    for (int s = 0; s < S; ++s) out.dB[at + s] += sum(dB[s]), out.dC[at + s] += sum(dC[s]);
  }
  for (int s = 0; s < S; ++s)
    for (int v = 0; v < NV; ++v) {
      store(w.g + (n0 + s) * WIDTH + v * LANES, g[s][v]);
      store(w.gA + (n0 + s) * WIDTH + v * LANES, gA[s][v]);
    }
}

// From the gradients of delta and of delta x B to those of x, dt and delta's weights.
template <int WIDTH>
AI void finish_tile(Workspace<WIDTH>& w, const ScanArgs<REAL>& a, const ScanJob& j, const ScanGrads<REAL>& out,
                    int64_t k, const int32_t* tokens, int T) {
  constexpr int NV = WIDTH / LANES;
  const int64_t R = a.rank, row = j.b * a.length;
  for (int t = 0; t < T; ++t) {
    const int64_t i = tokens[t];
    V raw[NV];
    REAL dx[WIDTH];
    for (int v = 0; v < NV; ++v) {
      const int o = t * WIDTH + v * LANES;
      const V x = load(w.x + o), d_xb = load(w.d_xb + o);
      raw[v] = (load(w.d_delta + o) * kLn2 + x * d_xb) * load(w.sigmoid + o);
      store(dx + v * LANES, load(w.delta + o) * d_xb + load(w.D + v * LANES) * load(w.dy + o));
      store(w.gbias + v * LANES, load(w.gbias + v * LANES) + raw[v]);
    }
    add_row<WIDTH>(out.dx + (row + i) * a.channels + j.e0, dx, j.lanes);
    const REAL* low = a.dt + j.b * a.dt_stride[0] + i * a.dt_stride[1] + k * a.dt_stride[2];
    REAL* d_low = out.ddt + ((row + i) * a.directions + k) * R;
    for (int64_t r = 0; r < R; ++r) {
      V acc = V{};
      const REAL l = low[r];
      for (int v = 0; v < NV; ++v) {
        REAL* gW = w.gW + r * WIDTH + v * LANES;
        acc = acc + raw[v] * load(w.W + r * WIDTH + v * LANES);
        store(gW, load(gW) + l * raw[v]);
      }
      d_low[r] += sum(acc);
    }
  }
}

template <int WIDTH>
void backward_width(const ScanArgs<REAL>& a, const ScanJob& j, const REAL* dy, const ScanGrads<REAL>& out) {
  const int64_t N = a.states, R = a.rank, tiles = (a.length + kTile - 1) / kTile, row = j.b * a.length;
  Workspace<WIDTH> w(N, R, tiles + 1);
  for (int64_t k = j.k0; k < j.k1; ++k) {
    pack_direction(a, j, k, w);
    const int32_t* order = a.order + k * a.length;
    const int64_t steps = a.steps[k];
    for (int64_t start = 0, c = 0; start < steps; start += kTile, ++c) {
      std::memcpy(w.borders + c * N * WIDTH, w.h, sizeof(REAL) * N * WIDTH);
      if (start + kTile >= steps) break;
      const int64_t left = a.length - start - kTile;
      pack_tile<WIDTH, false>(a, j, k, order + start, kTile, (int)(left > kTile ? kTile : left), w);
      advance_all<WIDTH, false>(w, N, kTile);
    }
    for (REAL* p : {w.g, w.gA}) std::memset(p, 0, sizeof(REAL) * N * WIDTH);
    std::memset(w.gW, 0, sizeof(REAL) * R * WIDTH);
    for (REAL* p : {w.gbias, w.gD}) std::memset(p, 0, sizeof(REAL) * WIDTH);
    for (int64_t c = (steps + kTile - 1) / kTile - 1; c >= 0; --c) {
      const int32_t* tokens = order + c * kTile;
      const int T = (int)(steps - c * kTile < kTile ? steps - c * kTile : kTile);
      pack_tile<WIDTH, true>(a, j, k, tokens, T, 0, w);
      for (int t = 0; t < T; ++t) {
        const int64_t i = tokens[t];
        REAL* packed = w.dy + t * WIDTH;
        if (wanted(a, i)) copy_row<WIDTH>(packed, dy + (j.b * a.out_length + i - a.out_start) * a.channels + j.e0, j.lanes);
        else std::memset(packed, 0, sizeof(REAL) * WIDTH);
        for (int v = 0; v < WIDTH; v += LANES)
          store(w.gD + v, load(w.gD + v) + load(packed + v) * load(w.x + t * WIDTH + v));
      }
      std::memset(w.d_delta, 0, sizeof(REAL) * kTile * WIDTH);
      std::memset(w.d_xb, 0, sizeof(REAL) * kTile * WIDTH);
      const REAL* border = w.borders + c * N * WIDTH;
      int64_t n = 0;
      for (; n + 2 <= N; n += 2) retreat<WIDTH, 2>(w, a, out, row, k, tokens, border, n, T);
      for (; n < N; ++n) retreat<WIDTH, 1>(w, a, out, row, k, tokens, border, n, T);
      finish_tile(w, a, j, out, k, tokens, T);
    }
    for (int c = 0; c < j.lanes; ++c) {
      const int64_t e = k * a.channels + j.e0 + c;
      for (int64_t n = 0; n < N; ++n) out.dA[e * N + n] += w.gA[n * WIDTH + c];
      for (int64_t r = 0; r < R; ++r) out.ddt_weight[e * R + r] += w.gW[r * WIDTH + c];
      out.ddt_bias[e] += w.gbias[c];
      out.dD[e] += w.gD[c];
    }
  }
}

static void forward(const ScanArgs<REAL>& a, const ScanJob& j, REAL* y) {
  if (j.width == 16) forward_width<16>(a, j, y);
  else if (j.width == 32) forward_width<32>(a, j, y);
  else forward_width<64>(a, j, y);
}

static void backward(const ScanArgs<REAL>& a, const ScanJob& j, const REAL* dy, const ScanGrads<REAL>& out) {
  if (j.width == 16) backward_width<16>(a, j, dy, out);
  else if (j.width == 32) backward_width<32>(a, j, dy, out);
  else backward_width<64>(a, j, dy, out);
}

#undef AI
}  // namespace NS
}  // namespace avsmamba
