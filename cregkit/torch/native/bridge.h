/* What the kernels for PyTorch's ops share: which calls they take, and how tensors reach the kernels of cregkit.
 *
 * A kernel replaces the one that PyTorch has for an op of ATen and a dispatch key. It is registered once, and takes a
 * call if its op is on and the kernels of cregkit support the call; PyTorch's kernel computes all others.
 */
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "entries.h"

namespace cregkit
{

/* The ops, in the order of the names in module.cpp. */
enum Op { LAYER_NORM, RMS_NORM, BATCH_NORM, GROUP_NORM, DROPOUT, BERNOULLI, N_OPS };

/* What happened to a call of an op that is on: the kernel took it, or why PyTorch's kernel did. */
enum Fate { TAKEN, SMALL, DTYPE, LAYOUT, TRANSFORMED, N_FATES };

struct Switch {
    std::atomic<bool> on{false};
    std::atomic<int64_t> smallest{0}, positions{0}; /* the fewest elements of a call, and positions of its images */
    std::atomic<int64_t> calls[N_FATES]{};
};

extern Switch switches[N_OPS];
extern const creg_entries *entries;

/* Counts a call; returns whether the kernel took it. */
bool count(Op op, Fate fate);

/* Whether this thread is within a call of a converted module, which uses the kernels of all ops. */
extern thread_local bool is_converted;

/* The fate of a call on x, as far as its size and dtype decide it; counts all but TAKEN. `is_on` comes first: a call of
 * an op that is off is not counted. */
inline bool is_on(Op op) { return is_converted || switches[op].on.load(std::memory_order_relaxed); }
bool size_and_dtype_fit(Op op, const at::Tensor &x);
bool positions_fit(Op op, int64_t positions);

/* Whether PyTorch transforms, traces or intercepts ops, or x is no plain tensor: for kernels above autograd. */
bool is_transformed(const at::Tensor &x);

/* Whether the kernels compute tensors of this dtype, and CREG_FLOAT32 ... of such a tensor. */
bool is_supported(at::ScalarType dtype);
int stored_of(const at::Tensor &x);

/* Whether parameters, as far as they are present, have this shape and one dtype: float32 or that of x. */
bool parameters_fit(std::initializer_list<std::optional<at::Tensor>> parameters, at::IntArrayRef shape,
                    const at::Tensor &x);

/* Whether dy has the dtype of x, and the gradients of the parameters need no gain that is absent. */
bool gradients_fit(const at::Tensor &dy, const at::Tensor &x, const std::optional<at::Tensor> &weight,
                   const std::array<bool, 3> &mask);

/* A parameter as float32, undefined if it is absent; the pointer of a tensor, NULL if it is undefined. */
at::Tensor as_floats(const std::optional<at::Tensor> &parameter);
const float *floats(const at::Tensor &x);

/* float32 if a parameter of a 16-bit x is, else the dtype of x. */
at::ScalarType parameter_dtype(const at::Tensor &x, std::initializer_list<std::optional<at::Tensor>> parameters);

/* Statistics in the dtype in which PyTorch's kernels save and expect them: of 16 bits, if all parameters are. */
at::Tensor as_saved(const at::Tensor &statistics, const at::Tensor &x,
                    std::initializer_list<std::optional<at::Tensor>> parameters);

/* float64 statistics as a tensor, and the reverse; whether statistics were made so: if the forward pass of a call went
 * to a kernel, the backward pass does, whatever is on by then. */
bool are_of_kernel(const at::Tensor &statistics);
at::Tensor rounded(const std::vector<double> &numbers, at::IntArrayRef shape, at::ScalarType dtype);
std::vector<double> widened(const at::Tensor &numbers);

/* Whether float32 statistics that PyTorch saved are precise enough for backward: the rounding of a mean far above the
 * standard deviation would be an error of x_hat. */
bool are_precise(const at::Tensor &mean, const at::Tensor &rstd);

/* New tensors: large ones take their memory from cregkit's pool. */
at::Tensor new_like(const at::Tensor &x, at::MemoryFormat format);
at::Tensor new_strided(const at::Tensor &x, at::IntArrayRef strides);

/* A new float32 vector, for the gradient of a parameter; the same as a tensor like the parameter. */
at::Tensor new_floats(int64_t n);
at::Tensor gradient_like(const at::Tensor &gradient, const std::optional<at::Tensor> &parameter, bool wanted);

/* PyTorch's number of threads; 1 within a parallel region. */
int threads();

/* Raises an error if a call of `entries` failed. */
void check(int result);

} // namespace cregkit
