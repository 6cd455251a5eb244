// The float kernels of the scan and of the convolution for any CPU.
#include <cmath>
#include <cstring>

#include "conv.h"
#include "scan.h"
#define NS portable
#define REAL float
#define INT int32_t
#define LANES 4
#define REAL_IS_FLOAT 1
#include "scan_kernel.inl"
#include "conv_kernel.inl"

avsmamba::Kernels<float> avsmamba::kernels_portable() {
  return {portable::forward, portable::backward, portable::scratch, portable::peak};
}
avsmamba::ConvKernels<float> avsmamba::conv_kernels_portable() {
  return {portable::conv_forward, portable::conv_backward, portable::conv_scratch};
}
