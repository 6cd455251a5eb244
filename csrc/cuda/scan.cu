// The CUDA operators: checks, launches on torch's current stream, and their registration over torch's stable ABI. They
// add to their outputs: avsmamba/ops/scan_cuda.py zeroes these, and explains their copies.
//
// The order table is on the GPU, and reading it here would stop the stream: multi_directional_scan in Python checks that
// it holds permutations.
#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../scan_inputs.h"
#include "scan_backward.cuh"

namespace avsmamba {
namespace {

// The launches of a call, on the stream that torch uses now on the tensors' device.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
  explicit Launch(const Tensor& x) : guard(x.get_device_index()) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
  template <typename... Parameters, typename... Args>
  void operator()(void (*kernel)(Parameters...), int x, int y, int threads, int bytes, const Args&... args) const {
    const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    STD_TORCH_CHECK(allowed == cudaSuccess, "N and R need ", bytes, " bytes of shared memory, more than this GPU has (",
                    cudaGetErrorString(allowed), ")");
    kernel<<<dim3(x, y), threads, bytes, stream>>>(args...);
    const cudaError_t launched = cudaGetLastError();
    STD_TORCH_CHECK(launched == cudaSuccess, "the scan was not launched: ", cudaGetErrorString(launched));
  }
};

template <typename T>
T* pointer(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <typename I, typename T>
ScanArgs<I, T> arguments(const ScanInputs& in, const Tensor& steps) {
  ScanArgs<I, T> a = checked_arguments<ScanArgs<I, T>, T>(in);
  check(steps, "steps", {a.directions}, ScalarType::Int, in.x);
  constexpr int64_t most = (1LL << 31) - 1;
  STD_TORCH_CHECK((int64_t)a.batch * channel_tiles(a.channels) <= most && a.length <= most - kTile &&
                  a.directions <= 65535, "too many entries for a launch");
  a.steps = pointer<int32_t>(steps);
  return a;
}

// Call f with a value of x's type and one of the state's.
template <typename F>
void for_type(const Tensor& x, const F& f) {
  const ScalarType type = x.scalar_type();
  if (type == ScalarType::Float) f(float(), float());
  else if (type == ScalarType::BFloat16) f(__nv_bfloat16(), float());
  else if (type == ScalarType::Half) f(__half(), float());
  else if (type == ScalarType::Double) f(double(), double());
  else STD_TORCH_CHECK(false, "x: expected float32, float64, bfloat16 or float16");
}

bool empty(const ScanInputs& in) { return in.x.numel() == 0 || in.order.numel() == 0; }

void forward(const Tensor x, const Tensor dt, const Tensor B, const Tensor C, const Tensor A, const Tensor D,
             const Tensor dt_weight, const Tensor dt_bias, const Tensor order, const Tensor steps, int64_t out_start,
             int64_t out_length, Tensor y) {
  const ScanInputs in{x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length};
  for_type(x, [&]<typename I, typename T>(I, T) {
    const ScanArgs<I, T> a = arguments<I, T>(in, steps);
    check(y, "y", {a.batch, a.out_length, a.channels}, state_type<T>(), x);
    if (!empty(in)) run_forward<I, T>(Launch(x), a, pointer<T>(y));
  });
}

void backward(const Tensor dy, const Tensor x, const Tensor dt, const Tensor B, const Tensor C, const Tensor A,
              const Tensor D, const Tensor dt_weight, const Tensor dt_bias, const Tensor order, const Tensor steps,
              int64_t out_start, int64_t out_length, Tensor borders, Tensor dx, Tensor ddt, Tensor dB, Tensor dC,
              Tensor dA, Tensor dD, Tensor ddt_weight, Tensor ddt_bias) {
  const ScanInputs in{x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length};
  for_type(x, [&]<typename I, typename T>(I, T) {
    const ScanArgs<I, T> a = arguments<I, T>(in, steps);
    constexpr ScalarType type = state_type<T>();
    const int64_t b = a.batch, L = a.length, E = a.channels, K = a.directions, N = a.states, R = a.rank;
    STD_TORCH_CHECK(ddt.dim() == 5 && dA.dim() == 4, "expected ddt (copies, b, L, K, R) and dA (copies, K, E, N)");
    const int64_t rows = ddt.size(0), entries = dA.size(0);
    STD_TORCH_CHECK(rows == 1 || rows == channel_tiles((int)E), "ddt: expected one copy, or one a channel tile");
    STD_TORCH_CHECK(entries == 1 || entries == b, "dA: expected one copy, or one a batch entry");
    check(dy, "dy", {b, a.out_length, E}, x.scalar_type(), x), check(dx, "dx", {b, L, E}, type, x);
    check(borders, "borders", {b, K, tiles_of((int)L), N, E}, type, x);
    check(ddt, "ddt", {rows, b, L, K, R}, type, x);
    check(dB, "dB", {rows, b, L, K, N}, type, x), check(dC, "dC", {rows, b, L, K, N}, type, x);
    check(dA, "dA", {entries, K, E, N}, type, x), check(dD, "dD", {entries, K, E}, type, x);
    check(ddt_weight, "ddt_weight", {entries, K, E, R}, type, x);
    check(ddt_bias, "ddt_bias", {entries, K, E}, type, x);
    const ScanGrads<T> out{pointer<T>(dx), pointer<T>(ddt), pointer<T>(dB), pointer<T>(dC), pointer<T>(dA),
                           pointer<T>(dD), pointer<T>(ddt_weight), pointer<T>(ddt_bias), (int)rows, (int)entries};
    if (!empty(in)) run_backward<I, T>(Launch(x), a, pointer<I>(dy), pointer<T>(borders), out);
  });
}

}  // namespace
}  // namespace avsmamba

STABLE_TORCH_LIBRARY(avsmamba_cuda, m) {
  m.def(
      "forward(Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, Tensor dt_weight, Tensor dt_bias, "
      "Tensor order, Tensor steps, int out_start, int out_length, Tensor(a!) y) -> ()");
  m.def(
      "backward(Tensor dy, Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, Tensor dt_weight, "
      "Tensor dt_bias, Tensor order, Tensor steps, int out_start, int out_length, Tensor(a!) borders, Tensor(b!) dx, "
      "Tensor(c!) ddt, Tensor(d!) dB, Tensor(e!) dC, Tensor(f!) dA, Tensor(g!) dD, Tensor(h!) ddt_weight, "
      "Tensor(i!) ddt_bias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(avsmamba_cuda, CUDA, m) {
  m.impl("forward", TORCH_BOX(&avsmamba::forward));
  m.impl("backward", TORCH_BOX(&avsmamba::backward));
}

// Importing the module registers the operators; it has no other contents.
extern "C" PyMODINIT_FUNC PyInit__cuda() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr,
                               nullptr};
  return PyModule_Create(&module);
}
