// Units in the last place by which the functions of one build of the kernels, BUILD in SOURCE, miss the exact ones
// (double precision's): "FUNCTION ULP" a line.
#include <cmath>
#include <cstdio>

#include SOURCE

using namespace avsmamba::BUILD;

// Of `ours` against `exact`, in units of the float32 grid where `exact` lies.
static double ulp(float ours, double exact) {
  int exponent;
  std::frexp(exact, &exponent);
  return std::fabs(ours - exact) / std::ldexp(1.0, exponent - 24);
}

#define WORST(NAME, LOW, HIGH, OURS, EXACT)                                                    \
  {                                                                                           \
    double worst = 0;                                                                         \
    constexpr int steps = 1 << 21, lanes = sizeof(V) / sizeof(float);                         \
    for (int i = 0; i < steps; i += lanes) {                                                  \
      V v;                                                                                    \
      for (int l = 0; l < lanes; ++l) v[l] = float(LOW + (HIGH - (LOW)) * (i + l) / steps);   \
      const V y = OURS;                                                                       \
      for (int l = 0; l < lanes; ++l) {                                                       \
        const double x = v[l];                                                                \
        const double off = ulp(y[l], EXACT);                                                  \
        if (!(off <= worst)) worst = off;                                                     \
      }                                                                                       \
    }                                                                                         \
    std::printf("%s %.3f\n", NAME, worst);                                                     \
  }

int main() {
  WORST("exp2", -125.0, 20.0, exp2v(v), std::exp2(x))
  WORST("exp2_near_zero", -0.02, 0.02, exp2v(v), std::exp2(x))
  WORST("exp", -86.0, 0.0, expv(v), std::exp(x))
  WORST("exp_near_zero", -0.02, 0.0, expv(v), std::exp(x))
  WORST("log1p", 1e-6, 1.0, log1pv(v), std::log1p(x))
  WORST("log1p_near_zero", 1e-9, 0.03, log1pv(v), std::log1p(x))
  WORST("reciprocal", 0.0, 1.0, reciprocal(v), 1 / (1 + x))
}
