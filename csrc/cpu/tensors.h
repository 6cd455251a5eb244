// What the CPU operators share on the torch side: the choice of instruction set, access to tensors, threads.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "flush.h"
#include "common.h"

namespace avsmamba {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum class Isa { portable, avx2, avx512 };

// The widest that this CPU has, or the one in AVSMAMBA_CPU_ISA.
inline Isa instruction_set() {
  const char* forced = std::getenv("AVSMAMBA_CPU_ISA");
  const std::string isa = forced ? forced : "";
#ifdef AVSMAMBA_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  STD_TORCH_CHECK(isa.empty() || isa == "portable" || isa == "avx2" || isa == "avx512",
                  "AVSMAMBA_CPU_ISA: expected portable, avx2 or avx512, got ", isa);
  STD_TORCH_CHECK((isa != "avx2" || avx2) && (isa != "avx512" || avx512), "AVSMAMBA_CPU_ISA: this CPU has no ", isa);
  if (isa == "avx512" || (isa.empty() && avx512)) return Isa::avx512;
  if (isa == "avx2" || (isa.empty() && avx2)) return Isa::avx2;
#else
  STD_TORCH_CHECK(isa.empty() || isa == "portable", "AVSMAMBA_CPU_ISA: this build has portable only, got ", isa);
#endif
  return Isa::portable;
}

template <typename T>
const T* pointer(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* writable(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline Input input_type(ScalarType type) {
  return type == ScalarType::BFloat16 ? Input::bfloat16 : type == ScalarType::Half ? Input::float16 : Input::same;
}

inline bool is_double(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Double || type == ScalarType::Float || input_type(type) != Input::same,
                  "x: expected float32, float64, bfloat16 or float16");
  return type == ScalarType::Double;
}

// Call f(begin, end) for parts of 0 … count on the threads; it treats subnormal numbers as zeros.
template <typename F>
void parallel(int64_t count, int64_t grain, const F& f) {
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const FlushSubnormals flushed;
    f(begin, end);
  });
}

// Zero for a negligible gradient.
template <typename T>
T settled(T gradient) {
  return std::abs(gradient) < kNegligible<T> ? T(0) : gradient;
}

// Call f(range, scratch) for each range, on one thread each; scratch holds `size` values of T on a 64-byte border.
template <typename T, typename F>
void run_ranges(int64_t ranges, int64_t size, const F& f) {
  parallel(ranges, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> memory(new T[size + 64 / sizeof(T)]);
    void* scratch = (void*)(((uintptr_t)memory.get() + 63) / 64 * 64);
    for (int64_t r = begin; r < end; ++r) f(r, scratch);
  });
}

// `copies` buffers of `size` values, the first of which is `own`, zeroed on demand; `gather` adds the others to it, and
// sets negligible gradients to zero.
template <typename T>
struct Shared {
  T* own;
  int64_t size, copies;
  std::unique_ptr<T[]> rest;

  Shared(const Tensor& t, int64_t copies, bool zero = true)
      : own(writable<T>(t)), size(t.numel()), copies(copies), rest(copies > 1 ? new T[(copies - 1) * size] : nullptr) {
    if (!zero) return;
    std::fill(own, own + size, T(0));
    std::fill(rest.get(), rest.get() + (copies - 1) * size, T(0));
  }
  T* copy(int64_t c) { return c % copies ? rest.get() + (c % copies - 1) * size : own; }
  void gather(bool gradient) {
    if (copies < 2 && !gradient) return;
    parallel(size, 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t c = 1; c < copies; ++c) {
        const T* from = copy(c);
        for (int64_t i = begin; i < end; ++i) own[i] += from[i];
      }
      for (int64_t i = begin; gradient && i < end; ++i) own[i] = settled(own[i]);
    });
  }
};

}  // namespace avsmamba
