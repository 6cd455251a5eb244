// What the CPU kernels of the scan and of the convolution share.
#pragma once
#include <cstdint>

// Defined where the kernels of x86-64 are built: on such a CPU, unless AVSMAMBA_PORTABLE_ONLY leaves them out.
#if defined(__x86_64__) && !defined(AVSMAMBA_PORTABLE_ONLY)
#define AVSMAMBA_X86 1
#endif

namespace avsmamba {

// Gradients of a smaller magnitude (7.9e-31) become zero, so that torch's next operations meet no subnormal number (below
// 1.2e-38) either: a product with a weight of 1e-7 is still a normal one. A power of two, which bfloat16 can represent.
// In float64 no gradient comes near a subnormal number.
template <typename T>
constexpr T kNegligible = sizeof(T) == 4 ? T(0x1p-100) : T(0);

// Type of the values of x, dt, B, C and dy: that of the state, or 16 bits that are widened when a tile is packed.
enum class Input { same, bfloat16, float16 };

}  // namespace avsmamba
