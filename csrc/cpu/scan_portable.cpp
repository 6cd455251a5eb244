// The float kernels, built for portable. The standard headers stand before the target, so that no code of theirs is built for it.
#include <cmath>
#include <cstring>

#include "scan.h"
#define NS portable
#define REAL float
#define INT int32_t
#define LANES 4
#define REAL_IS_FLOAT 1
#include "scan_kernel.inl"

avsmamba::Kernels<float> avsmamba::kernels_portable() { return {portable::forward, portable::backward, portable::scratch}; }
