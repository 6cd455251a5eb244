// The float kernels of the scan and of the convolution for avx2. The standard headers come before the target, so that
// none of their functions is compiled for it.
#include "conv.h"
#include "scan.h"
#ifdef AVSMAMBA_X86
#include <cmath>
#include <cstring>
#include <initializer_list>

#pragma GCC target("avx2,fma")
#define NS avx2
#define REAL float
#define INT int32_t
#define LANES 8
#define REAL_IS_FLOAT 1
#include "scan_kernel.inl"
#include "conv_kernel.inl"

avsmamba::Kernels<float> avsmamba::kernels_avx2() {
  return {avx2::forward, avx2::backward, avx2::scratch, avx2::peak};
}
avsmamba::ConvKernels<float> avsmamba::conv_kernels_avx2() {
  return {avx2::conv_forward, avx2::conv_backward, avx2::conv_scratch};
}
#endif
