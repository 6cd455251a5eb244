// The depthwise convolution; included after scan_kernel.inl, with its macros, vectors and readers of 16-bit values.
//
// A job walks down its rows, all of its frames at once, and keeps in a ring as many packed rows a frame as the kernel
// is high. A packed row is one plane a vector of channels, (columns, LANES), with zeros before and after; so each value
// of x is read from memory once, and the taps of neighbouring outputs are neighbouring loads. Backward keeps a second
// ring for g, the gradient before the activation, for which it repeats the convolution: when a row of g is complete, its
// part of the weights' gradient is added, and the row of dx whose last g it was is the convolution of g with the
// flipped kernel.
#include "conv.h"

namespace avsmamba {
namespace NS {

// The last rows of some frames.
struct Ring {
  REAL* data;
  int64_t slots, pitch, first_frame;
  REAL* at(int64_t t, int64_t h) const { return data + ((t - first_frame) * slots + h % slots) * pitch; }
};

// Inputs of a row of outputs: packed rows, and the offsets of their weights.
struct Taps {
  const REAL** rows;
  int64_t *offsets, count, columns, plane, tile;

  void find(const ConvArgs<REAL>& a, const Ring& ring, const int64_t front[2], int64_t t, int64_t h) {
    count = 0;
    for (int64_t i = 0; i < a.kernel[0]; ++i)
      for (int64_t q = 0; q < a.kernel[1]; ++q) {
        const int64_t frame = t + i - front[0], row = h + q - front[1];
        if (frame < 0 || frame >= a.size[0] || row < 0 || row >= a.size[1]) continue;
        rows[count] = ring.at(frame, row);
        offsets[count++] = (i * a.kernel[1] + q) * columns * LANES;
      }
  }
};

// Buffers of a thread, cut out of `memory`; with `memory` null only `size` is computed.
struct ConvWorkspace {
  int64_t size = 0;
  REAL *weight, *bias, *flipped, *d_weight, *d_bias;
  Ring x, g;
  Taps taps;

  ConvWorkspace(REAL* memory, const ConvArgs<REAL>& a, int width, bool backward) {
    auto take = [&](int64_t n) {
      REAL* p = memory ? memory + size : nullptr;
      size += (n + 15) / 16 * 16;
      return p;
    };
    taps.columns = a.kernel[2], taps.plane = (a.size[2] + a.kernel[2] - 1) * LANES, taps.tile = a.taps * LANES;
    const int64_t words = sizeof(int64_t) / sizeof(REAL) * a.kernel[0] * a.kernel[1];
    taps.rows = (const REAL**)take(words), taps.offsets = (int64_t*)take(words);
    weight = take(a.taps * width), bias = take(width);
    auto ring = [&](int64_t extra) {
      const int64_t most = a.frames + extra * (a.kernel[0] - 1), frames = most < a.size[0] ? most : a.size[0];
      const int64_t pitch = width / LANES * taps.plane;
      return Ring{take(frames * a.kernel[1] * pitch), a.kernel[1], pitch, 0};
    };
    if (backward) flipped = take(a.taps * width), d_weight = take(a.taps * width), d_bias = take(width), g = ring(1);
    x = ring(backward ? 2 : 1);
  }

  // Weights of the job's channels, zeros elsewhere.
  void open(const ConvArgs<REAL>& a, const ConvJob& j, bool backward) {
    std::memset(weight, 0, sizeof(REAL) * (size - (weight - (REAL*)j.scratch)));
    for (int64_t c = 0; c < j.lanes; ++c) {
      bias[c] = a.bias[j.e0 + c];
      for (int64_t k = 0; k < a.taps; ++k) {
        weight[place(a, c, k)] = a.weight[(j.e0 + c) * a.taps + k];
        if (backward) flipped[place(a, c, a.taps - 1 - k)] = weight[place(a, c, k)];
      }
    }
  }
  static int64_t place(const ConvArgs<REAL>& a, int64_t c, int64_t k) {
    return (c / LANES * a.taps + k) * LANES + c % LANES;
  }
};

AI V sigmoid(V x) {
  const V e = expv((V)((I)x | (INT(1) << (8 * sizeof(INT) - 1)))), s = 1 / (1 + e);
  return (I)x < 0 ? e * s : s;
}

AI V settled(V gradient) {
  const V magnitude = (V)((I)gradient & ~(INT(1) << (8 * sizeof(INT) - 1)));
  return magnitude < kNegligible<REAL> ? V{} : gradient;
}

// A row of the job's channels, from `offset` on, into the planes of a packed row.
AI void pack_row(REAL* to, int64_t plane, const void* from, int64_t offset, int64_t stride, int64_t columns,
                 const ConvJob& j, Input input) {
  const int bytes = input == Input::same ? sizeof(REAL) : 2;
  for (int64_t w = 0; w < columns; ++w, offset += stride, to += LANES) {
    REAL wide[64];
    const REAL* p = (const REAL*)from + offset;
    if (w + 8 < columns) prefetch((const char*)from + (offset + 8 * stride) * bytes, j.lanes * bytes);
    if (input != Input::same) read_row(wide, from, offset, j.lanes, input), p = wide;
    int c = 0;
    for (; c + LANES <= j.lanes; c += LANES) store(to + c / LANES * plane, load(p + c));
    for (int i = c; i < j.lanes; ++i) to[c / LANES * plane + i - c] = p[i];
  }
}

// f<P>(v, w) for the P outputs from column w on of each vector v of channels.
template <typename F>
AI void each_block(int64_t columns, const ConvJob& j, const F& f) {
  for (int64_t v = 0; v * LANES < j.lanes; ++v) {
    int64_t w = 0;
    for (; w + 8 <= columns; w += 8) f.template operator()<8>(v, w);
    for (; w + 4 <= columns; w += 4) f.template operator()<4>(v, w);
    for (; w + 2 <= columns; w += 2) f.template operator()<2>(v, w);
    for (; w < columns; ++w) f.template operator()<1>(v, w);
  }
}

template <int P>
AI void convolve(V* sums, const Taps& k, const REAL* weight, int64_t v, int64_t w) {
  for (int64_t n = 0; n < k.count; ++n) {
    const REAL *x = k.rows[n] + v * k.plane + w * LANES, *f = weight + k.offsets[n] + v * k.tile;
    for (int64_t c = 0; c < k.columns; ++c, x += LANES, f += LANES) {
      const V factor = load(f);
#pragma GCC unroll 8
      for (int u = 0; u < P; ++u) sums[u] = load(x + u * LANES) * factor + sums[u];
    }
  }
}

// Add the part of P values of g to the weights' gradient.
template <int P>
AI void correlate(const V* g, const Taps& k, REAL* d_weight, int64_t v, int64_t w) {
  for (int64_t n = 0; n < k.count; ++n) {
    const REAL* x = k.rows[n] + v * k.plane + w * LANES;
    REAL* d = d_weight + k.offsets[n] + v * k.tile;
    for (int64_t c = 0; c < k.columns; ++c, x += LANES, d += LANES) {
      V sums[2] = {load(d), V{}};
#pragma GCC unroll 8
      for (int u = 0; u < P; ++u) sums[u & 1] = load(x + u * LANES) * g[u] + sums[u & 1];
      store(d, sums[0] + sums[1]);
    }
  }
}

// P vectors to the channels of P neighbouring tokens of an output.
template <int P>
AI void write_tokens(REAL* to, const V* values, int64_t v, const ConvArgs<REAL>& a, const ConvJob& j) {
  const int64_t exist = j.lanes - v * LANES;
  to += j.e0 + v * LANES;
  for (int u = 0; u < P; ++u, to += a.channels) {
    if (exist >= LANES) store(to, values[u]);
    else
      for (int64_t c = 0; c < exist; ++c) to[c] = values[u][c];
  }
}

AI int64_t below(int64_t a, int64_t b) { return a < b ? a : b; }
AI int64_t not_negative(int64_t a) { return a > 0 ? a : 0; }

AI int64_t token(const ConvArgs<REAL>& a, const ConvJob& j, int64_t t, int64_t h) {
  return ((j.b * a.size[0] + t) * a.size[1] + h) * a.size[2];
}

// Row h of a frame of x or dy.
AI void pack_map_row(REAL* to, int64_t plane, const void* from, const int64_t stride[4], const ConvArgs<REAL>& a,
                     const ConvJob& j, int64_t t, int64_t h) {
  const int64_t offset = j.b * stride[0] + t * stride[1] + h * stride[2] + j.e0;
  pack_row(to, plane, from, offset, stride[3], a.size[2], j, a.input);
}

// Rows of x from *next to those that row h needs, of frames [t0, t1).
AI void pack_x(const ConvArgs<REAL>& a, const ConvJob& j, ConvWorkspace& w, int64_t t0, int64_t t1, int64_t h,
               int64_t* next) {
  for (; *next < below(a.size[1], h + a.kernel[1] - a.front[1]); ++*next)
    for (int64_t t = t0; t < t1; ++t)
      pack_map_row(w.x.at(t, *next) + a.front[2] * LANES, w.taps.plane, a.x, a.x_stride, a, j, t, *next);
}

#define INLINE __attribute__((always_inline))

static void conv_forward(const ConvArgs<REAL>& a, const ConvJob& j, REAL* y) {
  ConvWorkspace w((REAL*)j.scratch, a, j.width, false);
  if (j.opens) w.open(a, j, false);
  const int64_t first = not_negative(j.t0 - a.front[0]), last = below(a.size[0], j.t1 + a.kernel[0] - 1 - a.front[0]);
  w.x.first_frame = first;
  int64_t next = not_negative(j.h0 - a.front[1]);
  for (int64_t h = j.h0; h < j.h1; ++h) {
    pack_x(a, j, w, first, last, h, &next);
    for (int64_t t = j.t0; t < j.t1; ++t) {
      w.taps.find(a, w.x, a.front, t, h);
      each_block(a.size[2], j, [&]<int P>(int64_t v, int64_t column) INLINE {
        V p[P];
        for (int u = 0; u < P; ++u) p[u] = load(w.bias + v * LANES);
        convolve<P>(p, w.taps, w.weight, v, column);
        if (a.silu)
          for (int u = 0; u < P; ++u) p[u] = p[u] * sigmoid(p[u]);
        write_tokens<P>(y + (token(a, j, t, h) + column) * a.channels, p, v, a, j);
      });
    }
  }
}

static void conv_backward(const ConvArgs<REAL>& a, const ConvJob& j, const ConvGrads<REAL>& out) {
  ConvWorkspace w((REAL*)j.scratch, a, j.width, true);
  if (j.opens) w.open(a, j, true);
  int64_t back[3];  // zeros before the first g when dx is computed
  for (int d = 0; d < 3; ++d) back[d] = a.kernel[d] - 1 - a.front[d];
  const int64_t g0 = not_negative(j.t0 - back[0]), g1 = below(a.size[0], j.t1 + a.front[0]);
  const int64_t x0 = not_negative(g0 - a.front[0]), x1 = below(a.size[0], g1 + back[0]);
  w.g.first_frame = g0, w.x.first_frame = x0;
  int64_t h = not_negative(j.h0 - back[1]), next = not_negative(h - a.front[1]);
  for (; h < j.h1 + a.front[1]; ++h) {
    if (h < a.size[1]) pack_x(a, j, w, x0, x1, h, &next);
    for (int64_t t = g0; h < a.size[1] && t < g1; ++t) {
      const bool own = t >= j.t0 && t < j.t1 && h >= j.h0 && h < j.h1;  // else it serves its neighbours' dx only
      REAL* row = w.g.at(t, h) + back[2] * LANES;
      pack_map_row(row, w.taps.plane, a.dy, a.dy_stride, a, j, t, h);
      w.taps.find(a, w.x, a.front, t, h);
      each_block(a.size[2], j, [&]<int P>(int64_t v, int64_t column) INLINE {
        V g[P], p[P];
        REAL* packed = row + v * w.taps.plane + column * LANES;
        for (int u = 0; u < P; ++u) g[u] = load(packed + u * LANES), p[u] = load(w.bias + v * LANES);
        if (a.silu) {
          convolve<P>(p, w.taps, w.weight, v, column);
          for (int u = 0; u < P; ++u) {
            const V s = sigmoid(p[u]);
            g[u] = g[u] * (s * (1 + p[u] * (1 - s)));
            store(packed + u * LANES, g[u]);
          }
        }
        if (!own) return;
        correlate<P>(g, w.taps, w.d_weight, v, column);
        V sum = g[0];
        for (int u = 1; u < P; ++u) sum = sum + g[u];
        store(w.d_bias + v * LANES, load(w.d_bias + v * LANES) + sum);
      });
    }
    const int64_t done = h - a.front[1];
    for (int64_t t = j.t0; done >= j.h0 && t < j.t1; ++t) {
      w.taps.find(a, w.g, back, t, done);
      each_block(a.size[2], j, [&]<int P>(int64_t v, int64_t column) INLINE {
        V sums[P];
        for (int u = 0; u < P; ++u) sums[u] = V{};
        convolve<P>(sums, w.taps, w.flipped, v, column);
        for (int u = 0; u < P; ++u) sums[u] = settled(sums[u]);
        write_tokens<P>(out.dx + (token(a, j, t, done) + column) * a.channels, sums, v, a, j);
      });
    }
  }
  if (!j.closes) return;
  for (int64_t c = 0; c < j.lanes; ++c) {
    out.dbias[j.e0 + c] += w.d_bias[c];
    for (int64_t k = 0; k < a.taps; ++k)
      out.dweight[(j.e0 + c) * a.taps + k] += w.d_weight[ConvWorkspace::place(a, c, k)];
  }
}

static int64_t conv_scratch(const ConvArgs<REAL>& a, int width, bool backward) {
  return ConvWorkspace(nullptr, a, width, backward).size;
}

#undef INLINE
#undef AI
}  // namespace NS
}  // namespace avsmamba
