// Checks of the scan's tensors, which the CPU and the CUDA operators share, and what both kernels read from them.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>

namespace avsmamba {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {  // Tensor is hidden outside of torch

struct ScanInputs {
  const Tensor &x, &dt, &B, &C, &A, &D, &dt_weight, &dt_bias, &order;
  int64_t out_start, out_length;
};

template <typename T>
constexpr ScalarType state_type() {
  return sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
}

// Check shape, dtype, device and layout; tensors that are not contiguous have rows of stride 1.
inline void check(const Tensor& t, const char* name, std::initializer_list<int64_t> sizes, ScalarType type,
                  const Tensor& x, bool contiguous = true) {
  bool same = t.dim() == (int64_t)sizes.size();
  for (int64_t d = 0; same && d < t.dim(); ++d) same = t.size(d) == sizes.begin()[d];
  STD_TORCH_CHECK(same, name, ": its shape does not fit those of x, dt, B and order");
  STD_TORCH_CHECK(t.scalar_type() == type, name, ": its dtype differs from the one expected");
  STD_TORCH_CHECK(t.is_cuda() == x.is_cuda() && t.get_device_index() == x.get_device_index(), name,
                  ": expected on the device of x");
  STD_TORCH_CHECK(!contiguous || t.is_contiguous(), name, ": expected contiguous");
  STD_TORCH_CHECK(t.dim() == 0 || t.size(t.dim() - 1) <= 1 || t.stride(t.dim() - 1) == 1,
                  name, ": its last axis must have stride 1");
}

// Check the inputs, and return sizes, range and strides as ScanArgs of csrc/cpu or csrc/cuda; T is the state's type.
template <typename Args, typename T>
Args checked_arguments(const ScanInputs& in) {
  STD_TORCH_CHECK(in.x.dim() == 3 && in.dt.dim() == 4 && in.B.dim() == 4 && in.order.dim() == 2,
                  "expected x (b, L, E), dt (b, L, K, R), B (b, L, K, N) and order (K, L)");
  const ScalarType type = in.x.scalar_type(), state = state_type<T>();
  const int64_t b = in.x.size(0), L = in.x.size(1), E = in.x.size(2);
  const int64_t K = in.order.size(0), R = in.dt.size(3), N = in.B.size(3);
  check(in.x, "x", {b, L, E}, type, in.x, false), check(in.dt, "dt", {b, L, K, R}, type, in.x, false);
  check(in.B, "B", {b, L, K, N}, type, in.x, false), check(in.C, "C", {b, L, K, N}, type, in.x, false);
  check(in.A, "A", {K, E, N}, state, in.x), check(in.D, "D", {K, E}, state, in.x);
  check(in.dt_weight, "dt_weight", {K, E, R}, state, in.x), check(in.dt_bias, "dt_bias", {K, E}, state, in.x);
  check(in.order, "order", {K, L}, ScalarType::Int, in.x);
  STD_TORCH_CHECK(in.out_start >= 0 && in.out_length >= 0 && in.out_start + in.out_length <= L,
                  "out: expected (start, length) inside 0 … ", L, ", got (", in.out_start, ", ", in.out_length, ")");
  constexpr int64_t most = (1LL << 31) - 1;
  STD_TORCH_CHECK(b <= most && L <= most && E <= most && K <= most && R <= most && N <= most, "too many entries");
  Args a{};
  a.batch = b, a.length = L, a.channels = E, a.directions = K, a.states = N, a.rank = R;
  for (int d = 0; d < 2; ++d) a.x_stride[d] = in.x.stride(d);
  for (int d = 0; d < 3; ++d)
    a.dt_stride[d] = in.dt.stride(d), a.B_stride[d] = in.B.stride(d), a.C_stride[d] = in.C.stride(d);
  a.x = static_cast<decltype(a.x)>(in.x.const_data_ptr()), a.dt = static_cast<decltype(a.dt)>(in.dt.const_data_ptr());
  a.B = static_cast<decltype(a.B)>(in.B.const_data_ptr()), a.C = static_cast<decltype(a.C)>(in.C.const_data_ptr());
  a.A = static_cast<const T*>(in.A.const_data_ptr()), a.D = static_cast<const T*>(in.D.const_data_ptr());
  a.dt_weight = static_cast<const T*>(in.dt_weight.const_data_ptr());
  a.dt_bias = static_cast<const T*>(in.dt_bias.const_data_ptr());
  a.order = static_cast<const int32_t*>(in.order.const_data_ptr());
  a.out_start = in.out_start, a.out_length = in.out_length;
  return a;
}

}  // namespace
}  // namespace avsmamba
