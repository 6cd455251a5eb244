// The float kernels of the scan and of the convolution for avx512. The standard headers come before the target, so that
// none of their functions is compiled for it.
#include "conv.h"
#include "scan.h"
#ifdef AVSMAMBA_X86
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <initializer_list>

#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#define NS avx512
#define REAL float
#define INT int32_t
#define LANES 16
#define REAL_IS_FLOAT 1
// 2^(i / 32), 31 / (31 + i) and its negative logarithm.
alignas(64) static const float kExp2[32] = {
    1.f, 1.0218972f, 1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f, 1.13878858f, 1.1637249f,
    1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f,
    1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.5759809f, 1.61049032f, 1.64575553f,
    1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.8340081f, 1.87416768f, 1.91520655f, 1.95714414f};
alignas(64) static const float kInverse[32] = {
    1.f, 0.96875f, 0.939393938f, 0.911764681f, 0.885714293f, 0.861111104f, 0.837837815f, 0.815789461f,
    0.794871807f, 0.774999976f, 0.756097555f, 0.738095224f, 0.720930219f, 0.704545438f, 0.688888907f, 0.673913062f,
    0.659574449f, 0.645833313f, 0.632653058f, 0.620000005f, 0.607843161f, 0.596153855f, 0.584905684f, 0.57407409f,
    0.563636363f, 0.553571403f, 0.543859661f, 0.534482777f, 0.525423706f, 0.516666651f, 0.508196712f, 0.5f};
alignas(64) static const float kLog[32] = {
    0.f, 0.0317486972f, 0.0625203624f, 0.0923733488f, 0.121360846f, 0.149531737f, 0.17693074f, 0.203598976f,
    0.229574427f, 0.25489229f, 0.279584885f, 0.303682446f, 0.32721293f, 0.350202441f, 0.37267527f, 0.394654155f,
    0.416160434f, 0.437213838f, 0.457833111f, 0.478035808f, 0.497838378f, 0.517256498f, 0.536304653f, 0.554996789f,
    0.573345959f, 0.591364503f, 0.609064043f, 0.626455784f, 0.643550277f, 0.660357416f, 0.676886678f, 0.693147182f};
// The entry that the last five bits of each lane of t name.
#define LOOKUP(table, t) (V) _mm512_permutex2var_ps(_mm512_load_ps(table), (__m512i)(t), _mm512_load_ps(table + 16))
#define FMA(a, b, c) (V) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define KEEP(x) asm("" : "+v"(x))
#define SCALE(p, n) (V) _mm512_maskz_scalef_ps(0xffff, (__m512)(p), (__m512)(n))
#include "scan_kernel.inl"
#include "conv_kernel.inl"

avsmamba::Kernels<float> avsmamba::kernels_avx512() {
  return {avx512::forward, avx512::backward, avx512::scratch, avx512::peak};
}
avsmamba::ConvKernels<float> avsmamba::conv_kernels_avx512() {
  return {avx512::conv_forward, avx512::conv_backward, avx512::conv_scratch};
}
#endif
