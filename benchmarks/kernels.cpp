// One build of the CPU kernels without torch, on one thread, KERNELS = portable, avx2, avx512 or double:
//   kernels scan_forward|scan_backward  TYPE  batch length channels directions states rank out_start out_length
//   kernels conv_forward|conv_backward  TYPE  batch frames rows columns channels  kernel[3] front[3]  silu
// Tokens are of TYPE: same (as the state), bfloat16 or float16. Tensors come on stdin and leave on stdout, contiguous,
// in the operators' order. For callgrind (benchmarks/instructions.py), and for CPUs that are emulated
// (tests/ops/test_portable.py).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conv.h"
#include "flush.h"
#include "scan.h"

using namespace avsmamba;

namespace {

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "kernels: %s\n", why.c_str());
  std::exit(2);
}

template <typename T>
std::vector<T> read(int64_t count) {
  std::vector<T> values(count);
  if ((int64_t)std::fread(values.data(), sizeof(T), count, stdin) != count) fail("stdin ends too early");
  return values;
}

template <typename T>
void write(const std::vector<T>& values) {
  if (std::fwrite(values.data(), sizeof(T), values.size(), stdout) != values.size()) fail("stdout cannot be written");
}

// Tokens in their own type, as bytes.
std::vector<char> read_tokens(int64_t count, Input input, int64_t size) {
  return read<char>(count * (input == Input::same ? size : 2));
}

// What callgrind counts is what runs in here.
__attribute__((noinline)) void measured(const std::function<void()>& f) { f(); }

template <typename T>
struct Scratch {
  std::unique_ptr<T[]> memory;
  void* aligned;
  explicit Scratch(int64_t size) : memory(new T[size + 64 / sizeof(T)]) {
    aligned = (void*)(((uintptr_t)memory.get() + 63) / 64 * 64);
  }
};

template <typename T>
void scan(const Kernels<T>& kernels, bool backward, Input input, const std::vector<int64_t>& sizes) {
  ScanArgs<T> a{};
  a.batch = sizes[0], a.length = sizes[1], a.channels = sizes[2], a.directions = sizes[3];
  a.states = sizes[4], a.rank = sizes[5], a.out_start = sizes[6], a.out_length = sizes[7], a.input = input;
  const int64_t b = a.batch, L = a.length, E = a.channels, K = a.directions, N = a.states, R = a.rank;
  const auto x = read_tokens(b * L * E, input, sizeof(T)), dt = read_tokens(b * L * K * R, input, sizeof(T));
  const auto B = read_tokens(b * L * K * N, input, sizeof(T)), C = read_tokens(b * L * K * N, input, sizeof(T));
  const auto A = read<T>(K * E * N), D = read<T>(K * E), W = read<T>(K * E * R), bias = read<T>(K * E);
  const auto order = read<int32_t>(K * L);
  a.x = x.data(), a.dt = dt.data(), a.B = B.data(), a.C = C.data();
  a.x_stride[0] = L * E, a.x_stride[1] = E;
  a.dt_stride[0] = L * K * R, a.dt_stride[1] = K * R, a.dt_stride[2] = R;
  for (int64_t* stride : {a.B_stride, a.C_stride}) stride[0] = L * K * N, stride[1] = K * N, stride[2] = N;
  a.A = A.data(), a.D = D.data(), a.dt_weight = W.data(), a.dt_bias = bias.data(), a.order = order.data();
  std::vector<int64_t> steps(K, 0);
  for (int64_t k = 0; k < K; ++k)
    for (int64_t i = 0; i < L; ++i)
      if (order[k * L + i] >= a.out_start && order[k * L + i] < a.out_start + a.out_length) steps[k] = i + 1;
  a.steps = steps.data();

  const int width = E > 32 ? 64 : E > 16 ? 32 : 16;
  const Scratch<T> scratch(kernels.scratch(a, width, backward));
  const auto each_job = [&](int64_t entry, const std::function<void(const ScanJob&)>& f) {
    for (int64_t e = 0; e < E; e += width) {
      ScanJob j{};
      j.b = entry, j.e0 = e, j.k0 = 0, j.k1 = K;
      j.lanes = (int)std::min<int64_t>(width, E - e), j.width = width, j.scratch = scratch.aligned;
      f(j);
    }
  };
  std::vector<T> y(b * a.out_length * E);
  const auto forward = [&](T* states) {
    for (int64_t i = 0; i < b; ++i) each_job(i, [&](const ScanJob& j) { kernels.forward(a, j, y.data(), states); });
  };
  if (!backward) {
    measured([&] { forward(nullptr); });
    return write(y);
  }
  std::vector<T> states(b * K * ((L + kTile - 1) / kTile) * N * E);
  forward(states.data());
  const auto dy = read_tokens(b * a.out_length * E, input, sizeof(T));
  const int64_t pitch = R + 2 * N;
  std::vector<T> dx(b * L * E), rows(b * K * L * pitch), dA(K * E * N), dD(K * E), dW(K * E * R), dbias(K * E);
  measured([&] {
    for (int64_t i = 0; i < b; ++i) {
      const ScanGrads<T> out{dx.data(), true, rows.data() + i * K * L * pitch, L * pitch, dA.data(), dD.data(), dW.data(),
                             dbias.data()};
      each_job(i, [&](const ScanJob& j) { kernels.backward(a, j, dy.data(), states.data(), out); });
    }
  });
  std::vector<T> ddt(b * L * K * R), dB(b * L * K * N), dC(b * L * K * N);
  for (int64_t i = 0; i < b; ++i)
    for (int64_t k = 0; k < K; ++k)
      for (int64_t t = 0; t < L; ++t) {
        const T* row = rows.data() + ((i * K + k) * L + t) * pitch;
        const int64_t to = (i * L + order[k * L + t]) * K + k;
        std::copy_n(row, R, ddt.data() + to * R);
        std::copy_n(row + R, N, dB.data() + to * N);
        std::copy_n(row + R + N, N, dC.data() + to * N);
      }
  for (const auto* grad : {&dx, &ddt, &dB, &dC, &dA, &dD, &dW, &dbias}) write(*grad);
}

template <typename T>
void conv(const ConvKernels<T>& kernels, bool backward, Input input, const std::vector<int64_t>& sizes) {
  ConvArgs<T> a{};
  a.batch = sizes[0], a.channels = sizes[4], a.silu = sizes[11], a.input = input, a.taps = 1;
  for (int d = 0; d < 3; ++d) {
    a.size[d] = sizes[1 + d], a.kernel[d] = sizes[5 + d], a.front[d] = sizes[8 + d];
    a.taps *= a.kernel[d];
  }
  a.frames = a.kernel[0] > 1 ? std::clamp<int64_t>(a.size[0], 1, 8) : 1;
  const int64_t count = a.batch * a.size[0] * a.size[1] * a.size[2] * a.channels;
  const auto x = read_tokens(count, input, sizeof(T));
  const auto weight = read<T>(a.channels * a.taps), bias = read<T>(a.channels);
  const auto dy = read_tokens(backward ? count : 0, input, sizeof(T));
  a.x = x.data(), a.dy = dy.data(), a.weight = weight.data(), a.bias = bias.data();
  const int64_t strides[4] = {a.size[0] * a.size[1] * a.size[2] * a.channels, a.size[1] * a.size[2] * a.channels,
                              a.size[2] * a.channels, a.channels};
  for (int d = 0; d < 4; ++d) a.x_stride[d] = a.dy_stride[d] = strides[d];

  const int width = a.channels > 32 ? 64 : a.channels > 16 ? 32 : 16;
  const Scratch<T> scratch(kernels.scratch(a, width, backward));
  std::vector<T> out(count), dweight(a.channels * a.taps), dbias(a.channels);
  measured([&] {
    const ConvGrads<T> grads{out.data(), dweight.data(), dbias.data()};
    for (int64_t e = 0; e < a.channels; e += width)
      for (int64_t i = 0; i < a.batch; ++i)
        for (int64_t t = 0; t < a.size[0]; t += a.frames) {
          ConvJob j{};
          j.b = i, j.t0 = t, j.t1 = std::min(t + a.frames, a.size[0]), j.h0 = 0, j.h1 = a.size[1], j.e0 = e;
          j.lanes = (int)std::min<int64_t>(width, a.channels - e), j.width = width;
          j.opens = i == 0 && t == 0, j.closes = i == a.batch - 1 && t + a.frames >= a.size[0];
          j.scratch = scratch.aligned;
          if (backward) kernels.backward(a, j, grads);
          else kernels.forward(a, j, out.data());
        }
  });
  write(out);
  if (backward) write(dweight), write(dbias);
}

#define PASTE(a, b) a##b
#define NAMED(a, b) PASTE(a, b)

}  // namespace

int main(int count, char** words) {
  const std::vector<std::string> args(words + 1, words + count);
  if (args.size() < 3) fail("see the first lines of kernels.cpp");
  const std::string &kernel = args[0], &type = args[1];
  std::vector<int64_t> sizes;
  for (size_t i = 2; i < args.size(); ++i) sizes.push_back(std::stoll(args[i]));
  const bool is_scan = kernel.starts_with("scan_"), backward = kernel.ends_with("_backward");
  if (sizes.size() != (is_scan ? 8 : 12)) fail("a wrong number of sizes");
  const FlushSubnormals flushed;  // as the operators do on each of their threads
  const Input input = type == "bfloat16" ? Input::bfloat16 : type == "float16" ? Input::float16 : Input::same;
  if (is_scan) scan(NAMED(kernels_, KERNELS)(), backward, input, sizes);
  else conv(NAMED(conv_kernels_, KERNELS)(), backward, input, sizes);
}
