// The float kernels of the scan and the convolution, built for avx512. The standard headers stand before the target, so that no code of theirs is built for it.
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
#define ROUND(x) (V) _mm512_maskz_roundscale_ps(0xffff, (__m512)(x), 8)
#define SCALE(p, n) (V) _mm512_maskz_scalef_ps(0xffff, (__m512)(p), (__m512)(n))
#include "scan_kernel.inl"
#include "conv_kernel.inl"

avsmamba::Kernels<float> avsmamba::kernels_avx512() { return {avx512::forward, avx512::backward, avx512::scratch}; }
avsmamba::ConvKernels<float> avsmamba::conv_kernels_avx512() {
  return {avx512::conv_forward, avx512::conv_backward, avx512::conv_scratch};
}
#endif
