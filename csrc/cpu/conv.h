// Arguments of the CPU kernels of the depthwise convolution, for one type of sum.
#pragma once
#include "common.h"

namespace avsmamba {

// Axes are (frame, row, column). Strides are in elements; channels have stride 1. Outputs are contiguous.
template <typename T>
struct ConvArgs {
  int64_t batch, size[3], channels, kernel[3], taps;  // taps: the product of the kernel's sizes
  int64_t front[3];  // zeros before the first frame, row and column; outputs are as many as inputs
  int64_t frames;    // a job has no more than these
  bool silu;
  Input input;
  const void *x, *dy;                  // (batch, frames, rows, columns, channels)
  int64_t x_stride[4], dy_stride[4];
  const T *weight, *bias;              // (channels, kernel), (channels), contiguous
};

// One job: frames [t0, t1), rows [h0, h1) and channels [e0, e0 + lanes) of one batch entry.
struct ConvJob {
  int64_t b, t0, t1, h0, h1, e0;
  int lanes, width;    // channels that exist, and with those that fill the last vector
  bool opens, closes;  // the first, the last of a run of jobs with the same channels and the same scratch
  void* scratch;
};

// dx is complete after the jobs that cover x; the gradients of the parameters are added to.
template <typename T>
struct ConvGrads {
  T *dx, *dweight, *dbias;
};

template <typename T>
struct ConvKernels {
  void (*forward)(const ConvArgs<T>&, const ConvJob&, T* y);
  void (*backward)(const ConvArgs<T>&, const ConvJob&, const ConvGrads<T>&);
  int64_t (*scratch)(const ConvArgs<T>&, int width, bool backward);
};

ConvKernels<float> conv_kernels_portable();
ConvKernels<double> conv_kernels_double();
#ifdef AVSMAMBA_X86
ConvKernels<float> conv_kernels_avx2();
ConvKernels<float> conv_kernels_avx512();
#endif

}  // namespace avsmamba
