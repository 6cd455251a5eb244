// The kernels of the scan and of the convolution in double precision, for gradient checks and higher accuracy.
#define NS real64
#define REAL double
#define INT int64_t
#define LANES 4
#define REAL_IS_FLOAT 0
#include "scan_kernel.inl"
#include "conv_kernel.inl"

avsmamba::Kernels<double> avsmamba::kernels_double() {
  return {real64::forward, real64::backward, real64::scratch, real64::peak};
}
avsmamba::ConvKernels<double> avsmamba::conv_kernels_double() {
  return {real64::conv_forward, real64::conv_backward, real64::conv_scratch};
}
