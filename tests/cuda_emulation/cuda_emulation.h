// Enough of CUDA to run the kernels of csrc/cuda on a CPU, harder on them than a GPU would be.
//
// Blocks run one after the other, the threads of a block as fibers: a warp runs until all of its threads wait at a
// barrier of the block, and only then the next warp starts, so what a missing barrier leaves to chance goes wrong here.
// Shared memory starts as NaN. Asynchronous copies happen as late as they may, or as early. Atomic adds go to a copy of
// the outputs, which is added at the end of the launch; two blocks that write one address otherwise are an error, as is
// an atomic add outside of the outputs.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define AVS_DYNAMIC_SHARED(name) unsigned char* name = emulation::state.shared

struct Dim3 {
  unsigned x = 0, y = 0, z = 0;
};
inline Dim3 threadIdx, blockIdx;

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 128 << 10, kSharedBytes = 227 << 10;

struct Fiber {
  ucontext_t start;
  jmp_buf here;
  std::vector<char> stack;
  bool started, done, at_barrier;
  int since;  // the block's generation when the fiber came to the barrier
  std::vector<std::function<void()>> copies;  // asynchronous ones that nobody has waited for
};

struct Warp {
  uint64_t values[2][kWarp];
  int arrived, generation;
};

struct Output {
  void* data;
  size_t count, size;
  std::vector<char> sums, before;
  std::vector<int> writer;  // the block that wrote an element other than by an atomic add, or -1
  std::vector<char> added;
};

struct State {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Output> outputs;
  std::function<void()> body;
  jmp_buf scheduler;
  unsigned char* shared = nullptr;
  int current = 0, threads = 0, arrived = 0, generation = 0, any = 0, result = 0;
  // Bit 0: blocks from the last to the first; bit 1: warps; bit 2: threads of a warp; bit 3: copies at once.
  unsigned seed = 0;
  std::string error;
};
inline State state;

inline void fail(const std::string& what) {
  if (state.error.empty()) state.error = what;
}

inline void give_way() {
  if (_setjmp(state.fibers[state.current].here) == 0) _longjmp(state.scheduler, 1);
}

inline void run_fiber() {
  state.body();
  state.fibers[state.current].done = true;
  _longjmp(state.scheduler, 1);
}

__attribute__((noinline)) inline void resume(int thread) {
  Fiber& f = state.fibers[thread];
  state.current = thread;
  threadIdx.x = thread;
  if (_setjmp(state.scheduler)) return;
  if (f.started) _longjmp(f.here, 1);
  f.started = true;
  setcontext(&f.start);
}

inline int nth(int i, int count, unsigned bit) { return state.seed & bit ? count - 1 - i : i; }

// One block, to its end.
inline void run_block() {
  static unsigned char* memory = static_cast<unsigned char*>(std::aligned_alloc(64, kSharedBytes / 64 * 64));
  std::memset(memory, 0xff, kSharedBytes / 64 * 64);
  state.shared = memory;
  const int warps = state.threads / kWarp;
  state.fibers.resize(std::max<size_t>(state.fibers.size(), state.threads));
  state.warps.assign(warps, Warp{});
  state.arrived = state.any = 0;
  for (int t = 0; t < state.threads; ++t) {
    Fiber& f = state.fibers[t];
    f.stack.resize(kStack);
    f.started = f.done = f.at_barrier = false;
    f.copies.clear();
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.data(), f.start.uc_stack.ss_size = kStack, f.start.uc_link = nullptr;
    makecontext(&f.start, run_fiber, 0);
  }
  for (int done = 0; done < state.threads;) {
    const int generation = state.generation, done_before = done;
    for (int i = 0; i < warps; ++i) {
      const int w = nth(i, warps, 2);
      for (bool runs = true; runs;) {
        const int shuffles = state.warps[w].generation;
        runs = false;
        for (int l = 0; l < kWarp; ++l) {
          const int t = w * kWarp + nth(l, kWarp, 4);
          Fiber& f = state.fibers[t];
          if (f.done || (f.at_barrier && state.generation == f.since)) continue;
          resume(t);
          done += f.done;
        }
        runs = state.warps[w].generation != shuffles;
      }
    }
    if (state.generation == generation && done == done_before) throw std::runtime_error("the threads wait for ever");
  }
}

inline void begin_outputs() {
  for (Output& o : state.outputs) {
    o.sums.assign(o.count * o.size, 0), o.added.assign(o.count, 0), o.writer.assign(o.count, -1);
    o.before.assign((char*)o.data, (char*)o.data + o.count * o.size);
  }
}

inline void watch_writes(int block) {
  for (Output& o : state.outputs) {
    char* now = (char*)o.data;
    if (!std::memcmp(now, o.before.data(), o.count * o.size)) continue;
    for (size_t i = 0; i < o.count; ++i) {
      if (!std::memcmp(now + i * o.size, o.before.data() + i * o.size, o.size)) continue;
      if (o.writer[i] >= 0) fail("two blocks write one address without an atomic operation");
      o.writer[i] = block;
    }
    std::memcpy(o.before.data(), now, o.count * o.size);
  }
}

template <typename T>
void add_sums(Output& o) {
  for (size_t i = 0; i < o.count; ++i) {
    if (!o.added[i]) continue;
    if (o.writer[i] >= 0) fail("an address is both written and added to");
    ((T*)o.data)[i] += ((T*)o.sums.data())[i];
  }
}

struct Launch {
  template <typename... Parameters, typename... Args>
  void operator()(void (*kernel)(Parameters...), int x, int y, int threads, int bytes, const Args&... args) const {
    if ((size_t)bytes > kSharedBytes) throw std::runtime_error("more shared memory than there is");
    begin_outputs();
    state.threads = threads;
    state.body = [&] { kernel(args...); };
    for (int i = 0; i < x * y; ++i) {
      const int block = nth(i, x * y, 1);
      blockIdx.x = block % x, blockIdx.y = block / x;
      run_block();
      watch_writes(block);
    }
    for (Output& o : state.outputs) o.size == 8 ? add_sums<double>(o) : add_sums<float>(o);
  }
};

template <typename T>
T shuffle(T value, int from) {
  const int lane = state.current % kWarp;
  Warp& w = state.warps[state.current / kWarp];
  const int generation = w.generation;
  uint64_t* values = w.values[generation & 1];
  std::memcpy(&values[lane], &value, sizeof value);
  if (++w.arrived == kWarp) w.arrived = 0, ++w.generation;
  while (w.generation == generation) give_way();
  std::memcpy(&value, &values[from], sizeof value);
  return value;
}

}  // namespace emulation

inline int __syncthreads_or(int any) {
  auto& s = emulation::state;
  auto& fiber = s.fibers[s.current];
  const int generation = s.generation;
  s.any |= any;
  fiber.at_barrier = true, fiber.since = generation;
  if (++s.arrived == s.threads) s.result = s.any, s.any = s.arrived = 0, ++s.generation;
  while (s.generation == generation) emulation::give_way();
  fiber.at_barrier = false;
  return s.result;
}
inline void __syncthreads() { __syncthreads_or(0); }

template <typename T>
T __shfl_up_sync(unsigned, T v, int d, int width = 32) {
  const int lane = emulation::state.current % 32;
  return emulation::shuffle(v, lane % width >= d ? lane - d : lane);
}
template <typename T>
T __shfl_down_sync(unsigned, T v, int d, int width = 32) {
  const int lane = emulation::state.current % 32;
  return emulation::shuffle(v, lane % width + d < width ? lane + d : lane);
}
template <typename T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return emulation::shuffle(v, (emulation::state.current % 32) ^ mask);
}

template <typename T>
void atomicAdd(T* p, T v) {
  for (auto& o : emulation::state.outputs) {
    if ((char*)p < (char*)o.data || (char*)p >= (char*)o.data + o.count * o.size) continue;
    const size_t i = p - (T*)o.data;
    ((T*)o.sums.data())[i] += v;
    o.added[i] = 1;
    return;
  }
  emulation::fail("an atomic add outside of the outputs");
}

namespace avsmamba {
template <typename T>
void async_copy(T* to, const T* from) {
  if (emulation::state.seed & 8) *to = *from;
  else emulation::state.fibers[emulation::state.current].copies.push_back([=] { *to = *from; });
}
inline void async_wait() {
  auto& copies = emulation::state.fibers[emulation::state.current].copies;
  for (auto& copy : copies) copy();
  copies.clear();
}
inline float exp2_(float v) { return std::exp2(v); }
}  // namespace avsmamba

inline int min(int a, int b) { return a < b ? a : b; }

inline float __bfloat162float(__nv_bfloat16 v) {
  const uint32_t bits = (uint32_t)v.bits << 16;
  float r;
  std::memcpy(&r, &bits, 4);
  return r;
}
inline float __half2float(__half v) {
  const int exponent = v.bits >> 10 & 31, fraction = v.bits & 1023;
  const float sign = v.bits >> 15 ? -1.f : 1.f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.f + fraction, exponent - 25) : std::ldexp((float)fraction, -24));
}
