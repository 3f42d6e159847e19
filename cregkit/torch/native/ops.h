/* The kernels, with the signatures of ATen's ops. */
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <array>
#include <optional>
#include <tuple>

namespace cregkit
{

using at::Tensor;
using Optional = std::optional<Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Mask = std::array<bool, 3>;

/* ---- key CPU ---- */

Three layer_norm(const Tensor &input, at::IntArrayRef shape, const Optional &weight, const Optional &bias, double eps);
Three layer_norm_backward(const Tensor &dy, const Tensor &input, at::IntArrayRef shape, const Tensor &mean,
                          const Tensor &rstd, const Optional &weight, const Optional &bias, Mask mask);
Three batch_norm(const Tensor &input, const Optional &weight, const Optional &bias, const Optional &running_mean,
                 const Optional &running_var, bool training, double momentum, double eps);
Three batch_norm_backward(const Tensor &dy, const Tensor &input, const Optional &weight, const Optional &running_mean,
                          const Optional &running_var, const Optional &mean, const Optional &rstd, bool training,
                          double eps, Mask mask);
Three group_norm(const Tensor &input, const Optional &weight, const Optional &bias, int64_t n, int64_t c, int64_t s,
                 int64_t groups, double eps);
Three group_norm_backward(const Tensor &dy, const Tensor &input, const Tensor &mean, const Tensor &rstd,
                          const Optional &weight, int64_t n, int64_t c, int64_t s, int64_t groups, Mask mask);
Tensor &bernoulli(Tensor &self, double p, std::optional<at::Generator> generator);

/* ---- keys AutogradCPU and, for inference mode, CPU: with autograd nodes of their own, because PyTorch has no backward
 * for these ops ---- */

Tensor rms_norm(const Tensor &input, c10::SymIntArrayRef shape, const Optional &weight, std::optional<double> eps);
Tensor dropout(const Tensor &input, double p, bool training);

/* ---- the op cregkit::dropout_kernel: see cregkit/torch/compiled.py ---- */

Tensor dropout_kernel(const Tensor &x, double p, const Tensor &seed);

} // namespace cregkit
