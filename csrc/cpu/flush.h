// Treat subnormal numbers as zeros, in one thread during an object's lifetime.
#pragma once
#include <cstdint>
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

namespace avsmamba {

// Sets flush-to-zero of results and of operands in this thread's control word; the destructor restores the
// word. Without such bits (neither x86-64 nor aarch64) it does nothing. No load or store moves across its start or end.
class FlushSubnormals {
 public:
  FlushSubnormals() : before(read()) { write(before | kBits); }
  ~FlushSubnormals() { write(before); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kBits = 1 << 15 | 1 << 6;  // FTZ and DAZ of MXCSR
  static uint64_t read() { return _mm_getcsr(); }
  static void set(uint64_t word) { _mm_setcsr((unsigned)word); }
#elif defined(__aarch64__)
  static constexpr uint64_t kBits = 1 << 24;  // FZ of FPCR: operands and results
  static uint64_t read() {
    uint64_t word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void set(uint64_t word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
#else
  static constexpr uint64_t kBits = 0;
  static uint64_t read() { return 0; }
  static void set(uint64_t) {}
#endif
  static void write(uint64_t word) {
    asm volatile("" : : : "memory");
    set(word);
    asm volatile("" : : : "memory");
  }

  const uint64_t before;
};

}  // namespace avsmamba
