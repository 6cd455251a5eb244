// Vectors of LANES values, their sums, exponentials and softplus; part of scan_kernel.inl, with the same macros.
typedef REAL V __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));
typedef INT I __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));
typedef REAL V4 __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL))));
#ifndef KEEP
#define KEEP(x)
#endif
#define AI static inline __attribute__((always_inline))

AI V load(const REAL* p) { return *(const V*)p; }
AI void store(REAL* p, V v) { *(V*)p = v; }
AI V splat(REAL x) { return x - V{}; }

// GCC before 12 has no __builtin_shufflevector, Clang has no __builtin_shuffle.
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif

// The sums of four vectors' values, computed together: a transposition within each quarter, then the sum of the
// quarters.
AI V4 sum4(V a, V b, V c, V d) {
#if LANES == 16
#define LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define FIRST 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define SECOND 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 4, 12, 5, 13
#define HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define FIRST 0, 1, 8, 9, 4, 5, 12, 13
#define SECOND 2, 3, 10, 11, 6, 7, 14, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define FIRST 0, 1, 4, 5
#define SECOND 2, 3, 6, 7
#endif
  const V ab = SHUFFLE(a, b, LOW) + SHUFFLE(a, b, HIGH), cd = SHUFFLE(c, d, LOW) + SHUFFLE(c, d, HIGH);
  V s = SHUFFLE(ab, cd, FIRST) + SHUFFLE(ab, cd, SECOND);
#undef LOW
#undef HIGH
#undef FIRST
#undef SECOND
#if LANES == 16
  s = s + SHUFFLE(s, s, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  s = s + SHUFFLE(s, s, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
#elif LANES == 8
  s = s + SHUFFLE(s, s, 4, 5, 6, 7, 0, 1, 2, 3);
#endif
  V4 r;
  std::memcpy(&r, &s, sizeof r);
  return r;
}

#if REAL_IS_FLOAT
constexpr REAL kLog2e = 1.44269504f, kLn2 = 0.69314718f;
#ifdef LOOKUP
// x = n + i / 32 + f for a whole n and |f| <= 1 / 64. Adding `kThirtySeconds` rounds x to n + i / 32 and leaves i in the
// last bits of t; 2^(i / 32) comes from a table, 2^f from a polynomial of degree 2 (minimax). SCALE(p, n) is p 2^n for
// n of any size, rounded down, so that n needs no bounds.
constexpr REAL kThirtySeconds = 393216.f;
AI V exp2_of(V t, V f) {
  const V table = LOOKUP(kExp2, t), r = f * (f * 2.402265070e-1f + 6.931573442e-1f);
  return SCALE(table * r + table, t - kThirtySeconds);
}
AI V exp2v(V x) {
  KEEP(x);
  const V t = x + kThirtySeconds;
  return exp2_of(t, x - (t - kThirtySeconds));
}
// e^x for x <= 0. Not 2^(x log2 e): that product's rounding alone would cost |x| half ulps. Here log2 e has two parts,
// and x times the first is not rounded before n is taken from it.
AI V expv(V x) {
  const V t = FMA(x, splat(1.44269504f), splat(kThirtySeconds)), n = t - kThirtySeconds;
  return exp2_of(t, FMA(x, splat(1.92596299e-8f), FMA(x, splat(1.44269504f), -n)));
}
// 1 + e = (1 + r) c for c = 1 + i / 31 and a small r.
struct Split { V t, inverse, r; };
AI Split split(V e) {
  const V t = e * 31.f + 12582912.f, inverse = LOOKUP(kInverse, t);
  return {t, inverse, e * inverse + (inverse - 1.f)};
}
AI V log1pv(V e) {
  const Split m = split(e);
  const V p = (m.r * -2.500432507e-1f + 3.333737900e-1f) * m.r - 5e-1f;
  return LOOKUP(kLog, m.t) + (p * (m.r * m.r) + m.r);
}
// 1 / (1 + e)
AI V reciprocal(V e) {
  const Split m = split(e);
  return (m.inverse - m.inverse * m.r) * (m.r * m.r + 1.f);
}
#else
AI V rounded(V x) { return (x + 12582912.f) - 12582912.f; }
AI V scale(V p, V n) { return (V)((I)p + ((I)(n + 12582912.f) << 23)); }
AI V bounded(V x, REAL low, REAL high) {
  x = x < low ? splat(low) : x;
  return x > high ? splat(high) : x;
}
// 2^x: round to an integer part, then a polynomial of degree 6 on [-1/2, 1/2] (minimax, error 2e-9 before rounding).
AI V exp2v(V x) {
  x = bounded(x, -126.f, 127.f);
  V n = rounded(x);
  V f = x - n;
  V p = f * 1.535336206e-4f + 1.339887459e-3f;
  p = p * f + 9.618437358e-3f;
  p = p * f + 5.550332471e-2f;
  p = p * f + 2.402264791e-1f;
  p = p * f + 6.931472029e-1f;
  p = p * f + 1.f;
  return scale(p, n);
}
// e^x for x <= 0. Not 2^(x log2 e): that product's rounding alone would cost |x| half ulps. Here ln 2 is subtracted in
// two parts, the first of which has so few bits that its product is exact.
AI V expv(V x) {
  x = bounded(x, -87.f, 87.f);
  V n = rounded(x * 1.44269504f);
  V f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.f;
  return scale(p, n);
}
// log(1 + e) for e in [0, 1]: e plus e^2 times a polynomial (minimax, error 3e-8), without a division.
AI V log1pv(V e) {
  V p = e * 5.364824552e-3f - 3.006579168e-2f;
  p = p * e + 7.920453697e-2f;
  p = p * e - 1.375380307e-1f;
  p = p * e + 1.915365458e-1f;
  p = p * e - 2.485716343e-1f;
  p = p * e + 3.332132399e-1f;
  p = p * e - 4.999964833e-1f;
  return p * (e * e) + e;
}
AI V reciprocal(V e) { return 1 / (1 + e); }
#endif
#else
constexpr REAL kLog2e = 1.4426950408889634074, kLn2 = 0.69314718055994530942;
AI V exp2v(V x) {
  for (int i = 0; i < LANES; ++i) x[i] = std::exp2(x[i]);
  return x;
}
AI V expv(V x) {
  for (int i = 0; i < LANES; ++i) x[i] = std::exp(x[i]);
  return x;
}
AI V log1pv(V e) {
  for (int i = 0; i < LANES; ++i) e[i] = std::log1p(e[i]);
  return e;
}
AI V reciprocal(V e) { return 1 / (1 + e); }
#endif

// softplus(x) and its derivative, both from e = exp(-|x|). The signs are handled on the bits, which costs less.
AI V softplus(V x, V* sigmoid) {
  const I sign = I{} + (INT(1) << (8 * sizeof(INT) - 1)), bits = (I)x;
  V e = expv((V)(bits | sign));
  V s = reciprocal(e);
  *sigmoid = bits < 0 ? e * s : s;
  return (V)(bits > 0 ? bits : I{}) + log1pv(e);
}
