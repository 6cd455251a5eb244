// What the CPU kernels of the scan and of the convolution share.
#pragma once
#include <cstdint>

// Whether the kernels of x86-64 are built. AVSMAMBA_PORTABLE_ONLY leaves them out, as any other CPU does.
#if defined(__x86_64__) && !defined(AVSMAMBA_PORTABLE_ONLY)
#define AVSMAMBA_X86 1
#endif

namespace avsmamba {

// A gradient of a smaller magnitude (7.9e-31) is given out as zero, so that torch's next operations on it meet no
// subnormal number (below 1.2e-38) either: times a weight of 1e-7 it is none. A power of two, which bfloat16 has too.
// In float64 nothing comes near one.
template <typename T>
constexpr T kNegligible = sizeof(T) == 4 ? T(0x1p-100) : T(0);

// What x, dt, B, C and dy are made of: the type of the state, or 16 bits that are widened when a tile is packed.
enum class Input { same, bfloat16, float16 };

}  // namespace avsmamba
