// The backward of a job; part of scan_kernel.inl.

// Gradients of S states from n0 on over T packed tokens, from `border`, the states before the first of them. Each
// token's gradients of B and C go to its row of `rows`, whose rows are `pitch` apart. The decayed state, decay h, is used
// three times: in the recurrence, as grad decay h for delta and A, and, as h = decay h + u B, for C; sum(dy u) over
// channels does not depend on the state and is computed once.
// Without OUT no output of these tokens is requested, and dy is zero.
template <int WIDTH, int S, bool OUT>
AI void retreat(Workspace<WIDTH>& w, REAL* rows, int64_t pitch, const REAL* border, int64_t N, int64_t n0, int T) {
  constexpr int NV = WIDTH / LANES;
  for (int v = 0; v < WIDTH; v += LANES) {
    V h[S], a2[S];
    for (int s = 0; s < S; ++s) h[s] = load(border + (n0 + s) * WIDTH + v), a2[s] = load(w.A2 + (n0 + s) * WIDTH + v);
    for (int t = 0; t < T; ++t) {
      const V d = load(w.delta + t * WIDTH + v), u = load(w.u + t * WIDTH + v);
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) {
        const V e = exp2v(d * a2[s]), left = e * h[s];
        h[s] = u * w.B[t * N + n0 + s] + left;
        store(w.decay + (t * S + s) * WIDTH + v, e);
        store(w.left + (t * S + s) * WIDTH + v, left);
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
    V dB[2], dC[2], bs[S], cs[S];
    for (int s = 0; s < 2; ++s) dB[s] = dC[s] = V{};
    for (int s = 0; s < S; ++s) {
      bs[s] = splat(b[s]), cs[s] = splat(c[s]);
      KEEP(bs[s]);
      KEEP(cs[s]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int o = t * WIDTH + v * LANES;
      V d = load(w.delta + o), u = load(w.u + o), dy = OUT ? load(w.dy + o) : V{};
      KEEP(d);
      KEEP(u);
      KEEP(dy);
      V d_delta = load(w.d_delta + o), d_xb = load(w.d_xb + o);
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) {
        const int i = (t * S + s) * WIDTH + v * LANES;
        V left = load(w.left + i);
        KEEP(left);
        const V grad = OUT ? dy * cs[s] + g[s][v] : g[s][v], q = grad * left;
        g[s][v] = load(w.decay + i) * grad;
        d_delta = load(w.A2 + (n0 + s) * WIDTH + v * LANES) * q + d_delta;
        gA[s][v] = d * q + gA[s][v];
        d_xb = grad * bs[s] + d_xb;
        dB[s] = grad * u + dB[s];
        if (OUT) dC[s] = dy * left + dC[s];
      }
      store(w.d_delta + o, d_delta);
      store(w.d_xb + o, d_xb);
    }
    const V4 sums = sum4(dB[0], dB[1], dC[0], dC[1]);
    REAL* row = rows + t * pitch + n0;
    for (int s = 0; s < S; ++s) row[s] += sums[s], row[N + s] += sums[2 + s] + b[s] * w.dy_u[t];
  }
  for (int s = 0; s < S; ++s)
    for (int v = 0; v < NV; ++v) {
      store(w.g + (n0 + s) * WIDTH + v * LANES, g[s][v]);
      store(w.gA + (n0 + s) * WIDTH + v * LANES, gA[s][v]);
    }
}

template <int WIDTH, bool OUT>
AI void retreat_all(Workspace<WIDTH>& w, REAL* rows, int64_t pitch, const REAL* border, int64_t N, int T) {
  int64_t n = 0;
  for (; n + 2 <= N; n += 2) retreat<WIDTH, 2, OUT>(w, rows, pitch, border, N, n, T);
  for (; n < N; ++n) retreat<WIDTH, 1, OUT>(w, rows, pitch, border, N, n, T);
}

// The gradient of delta before its softplus, in place of d_delta, and what it adds to BLOCK columns of the weights.
template <int WIDTH, int BLOCK>
AI void add_weights(Workspace<WIDTH>& w, int64_t R, int64_t r, int T) {
  constexpr int NB = WIDTH / LANES < 2 ? 1 : 2;
  for (int v = 0; v < WIDTH; v += NB * LANES) {
    V acc[BLOCK][NB];
    for (int q = 0; q < BLOCK; ++q)
      for (int u = 0; u < NB; ++u) acc[q][u] = load(w.gW + (r + q) * WIDTH + v + u * LANES);
    for (int t = 0; t < T; ++t)
      for (int u = 0; u < NB; ++u) {
        const V raw = load(w.d_delta + t * WIDTH + v + u * LANES);
        for (int q = 0; q < BLOCK; ++q) acc[q][u] = w.low[t * R + r + q] * raw + acc[q][u];
      }
    for (int q = 0; q < BLOCK; ++q)
      for (int u = 0; u < NB; ++u) store(w.gW + (r + q) * WIDTH + v + u * LANES, acc[q][u]);
  }
}

// The gradient of dt, raw W, of one token: sums over channels, four at a time.
template <int WIDTH>
AI void add_low_sums(const Workspace<WIDTH>& w, const V* raw, int64_t R, REAL* row) {
  for (int64_t r = 0; r < R; r += 4) {
    V acc[4];
    for (int64_t q = 0; q < 4; ++q) {
      acc[q] = V{};
      if (r + q >= R) continue;
      for (int v = 0; v < WIDTH / LANES; ++v) acc[q] = raw[v] * load(w.W + (r + q) * WIDTH + v * LANES) + acc[q];
    }
    const V4 sums = sum4(acc[0], acc[1], acc[2], acc[3]);
    if (r + 4 <= R) *(V4*)(row + r) = *(V4*)(row + r) + sums;
    else
      for (int q = 0; r + q < R; ++q) row[r + q] += sums[q];
  }
}

// The same of several tokens where R is a multiple of the lanes: vectors over R, so that nothing is summed across one.
template <int WIDTH, int TOKENS>
AI void add_low(Workspace<WIDTH>& w, const REAL* weight, REAL* rows, int64_t pitch, int64_t R, int lanes, int t) {
  for (int64_t r = 0; r < R; r += LANES) {
    V acc[TOKENS];
    for (int u = 0; u < TOKENS; ++u) acc[u] = load(rows + (t + u) * pitch + r);
    for (int c = 0; c < lanes; ++c) {
      const V column = load(weight + c * R + r);
      for (int u = 0; u < TOKENS; ++u) acc[u] = w.d_delta[(t + u) * WIDTH + c] * column + acc[u];
    }
    for (int u = 0; u < TOKENS; ++u) store(rows + (t + u) * pitch + r, acc[u]);
  }
}

// From the gradients of delta and of delta x B to those of x, dt and delta's weights.
template <int WIDTH>
AI void finish_tile(Workspace<WIDTH>& w, const ScanArgs<REAL>& a, const ScanJob& j, int64_t k, REAL* dx, bool fresh,
                    REAL* rows, int64_t pitch, const int32_t* tokens, int T) {
  constexpr int NV = WIDTH / LANES;
  const int64_t R = a.rank;
  for (int t = 0; t < T; ++t) {
    V raw[NV];
    REAL row[WIDTH];
    for (int v = 0; v < NV; ++v) {
      const int o = t * WIDTH + v * LANES;
      const V x = load(w.x + o), d_xb = load(w.d_xb + o);
      raw[v] = (load(w.d_delta + o) * kLn2 + x * d_xb) * load(w.sigmoid + o);
      store(w.d_delta + o, raw[v]);
      store(row + v * LANES, load(w.delta + o) * d_xb + load(w.D + v * LANES) * load(w.dy + o));
      store(w.gbias + v * LANES, load(w.gbias + v * LANES) + raw[v]);
    }
    put_channels<WIDTH>(dx + tokens[t] * a.channels, row, j.lanes, fresh);
    if (R % LANES) add_low_sums(w, raw, R, rows + t * pitch);
  }
  if (R % LANES == 0) {
    const REAL* weight = a.dt_weight + (k * a.channels + j.e0) * R;
    int t = 0;
    for (; t + 8 <= T; t += 8) add_low<WIDTH, 8>(w, weight, rows, pitch, R, j.lanes, t);
    for (; t < T; ++t) add_low<WIDTH, 1>(w, weight, rows, pitch, R, j.lanes, t);
  }
  int64_t r = 0;
  for (; r + 4 <= R; r += 4) add_weights<WIDTH, 4>(w, R, r, T);
  for (; r < R; ++r) add_weights<WIDTH, 1>(w, R, r, T);
}

// dy of T tokens, zero where no output is requested, with sum(dy u) over channels and the gradient of D.
template <int WIDTH>
AI void pack_gradients(const ScanArgs<REAL>& a, const ScanJob& j, const int32_t* tokens, int T, const int32_t* next,
                       int next_count, const void* dy, const REAL* dx, Workspace<WIDTH>& w) {
  const int64_t first = (j.b * a.out_length - a.out_start) * a.channels + j.e0;
  const int bytes = a.input == Input::same ? sizeof(REAL) : 2;
  for (int t = 0; t < T; ++t) {
    const int64_t i = tokens[t];
    REAL* packed = w.dy + t * WIDTH;
    prefetch(dx + (j.b * a.length + i) * a.channels + j.e0, WIDTH * sizeof(REAL));
    if (t < next_count && wanted(a, next[t]))
      prefetch((const char*)dy + (first + next[t] * a.channels) * bytes, WIDTH * bytes);
    if (wanted(a, i)) {
      const int64_t at = first + i * a.channels;
      read_channels<WIDTH>(packed, dy, at, j.lanes, a.input);
    } else {
      std::memset(packed, 0, sizeof(REAL) * WIDTH);
    }
  }
  V gD[WIDTH / LANES];
  for (int v = 0; v < WIDTH; v += LANES) gD[v / LANES] = load(w.gD + v);
  for (int t = 0; t < T; ++t) {
    V sum = V{};
    for (int v = 0; v < WIDTH; v += LANES) {
      const V g = load(w.dy + t * WIDTH + v);
      gD[v / LANES] = g * load(w.x + t * WIDTH + v) + gD[v / LANES];
      sum = g * load(w.u + t * WIDTH + v) + sum;
    }
    w.dy_u[t] = sum4(sum, V{}, V{}, V{})[0];
  }
  for (int v = 0; v < WIDTH; v += LANES) store(w.gD + v, gD[v / LANES]);
}

template <int WIDTH>
void backward_width(const ScanArgs<REAL>& a, const ScanJob& j, const void* dy, const REAL* states,
                    const ScanGrads<REAL>& out) {
  const int64_t N = a.states, R = a.rank, pitch = R + 2 * N;
  Workspace<WIDTH> w((REAL*)j.scratch, N, R, true);
  for (int64_t k = j.k0; k < j.k1; ++k) {
    pack_direction(a, j, k, w);
    const int32_t* order = a.order + k * a.length;
    const int64_t steps = a.steps[k];
    REAL* const dx = out.dx + j.b * a.length * a.channels + j.e0;
    for (int64_t t = steps; t < a.length && out.fresh && k == j.k0; ++t)
      std::memset(dx + order[t] * a.channels, 0, sizeof(REAL) * j.lanes);
    for (REAL* p : {w.g, w.gA}) std::memset(p, 0, sizeof(REAL) * N * WIDTH);
    std::memset(w.gW, 0, sizeof(REAL) * R * WIDTH);
    for (REAL* p : {w.gbias, w.gD}) std::memset(p, 0, sizeof(REAL) * WIDTH);
    for (int64_t c = tiles(steps) - 1; c >= 0; --c) {
      const int32_t* tokens = order + c * kTile;
      const int T = shorter(steps - c * kTile, kTile);
      pack_tile<WIDTH, true>(a, j, k, tokens, T, c ? tokens - kTile : tokens, c ? kTile : 0, w);
      pack_gradients(a, j, tokens, T, c ? tokens - kTile : tokens, c ? kTile : 0, dy, out.dx, w);
      copy_states<WIDTH>(w.h, WIDTH, state_row(states, a, j, k, c), a.channels, N, j.lanes);
      std::memset(w.d_delta, 0, sizeof(REAL) * T * WIDTH);
      std::memset(w.d_xb, 0, sizeof(REAL) * T * WIDTH);
      REAL* rows = out.rows + (k - j.k0) * out.row_stride + c * kTile * pitch;
      if (any_wanted(a, tokens, T)) retreat_all<WIDTH, true>(w, rows + R, pitch, w.h, N, T);
      else retreat_all<WIDTH, false>(w, rows + R, pitch, w.h, N, T);
      finish_tile(w, a, j, k, dx, out.fresh && k == j.k0, rows, pitch, tokens, T);
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
