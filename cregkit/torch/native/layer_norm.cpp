/* aten::native_layer_norm and its backward. The statistics are float32, also where PyTorch rounds them to 16 bits. */
#include "bridge.h"
#include "ops.h"

#include <ATen/ops/native_layer_norm_backward_cpu_dispatch.h>
#include <ATen/ops/native_layer_norm_cpu_dispatch.h>

namespace cregkit
{
namespace
{

bool fits(const Tensor &x, at::IntArrayRef shape, const Optional &weight, const Optional &bias)
{
    const int64_t outer = x.dim() - static_cast<int64_t>(shape.size());
    const bool rows = !shape.empty() && outer >= 0 && x.sizes().slice(outer) == shape;
    return (rows && parameters_fit({weight, bias}, shape, x)) || count(LAYER_NORM, LAYOUT);
}

creg_norm call_of(const Tensor &x, at::IntArrayRef shape, std::vector<double> &mean, std::vector<double> &rstd)
{
    creg_norm call{};
    call.kind = CREG_LAYER_NORM;
    call.stored = stored_of(x);
    call.cols = c10::multiply_integers(shape);
    call.rows = x.numel() / call.cols;
    call.across = 1;
    call.x = x.const_data_ptr();
    mean.resize(call.rows);
    rstd.resize(call.rows);
    call.mean = mean.data();
    call.rstd = rstd.data();
    return call;
}

std::vector<int64_t> statistics_shape(const Tensor &x, at::IntArrayRef shape)
{
    std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end() - shape.size());
    sizes.resize(x.dim(), 1);
    return sizes;
}

} // namespace

Three layer_norm(const Tensor &input, at::IntArrayRef shape, const Optional &weight, const Optional &bias, double eps)
{
    if (!is_on(LAYER_NORM) || !size_and_dtype_fit(LAYER_NORM, input) || !fits(input, shape, weight, bias))
        return at::cpu::native_layer_norm(input, shape, weight, bias, eps);
    count(LAYER_NORM, TAKEN);
    const Tensor x = input.contiguous(), gamma = as_floats(weight), beta = as_floats(bias);
    const Tensor y = new_like(x, at::MemoryFormat::Contiguous);
    std::vector<double> mean, rstd;
    creg_norm call = call_of(x, shape, mean, rstd);
    call.eps = eps;
    call.gamma = floats(gamma);
    call.beta = floats(beta);
    call.y = y.mutable_data_ptr();
    check(entries->norm_forward(&call, threads()));
    const auto sizes = statistics_shape(x, shape);
    return {y, rounded(mean, sizes, at::kFloat), rounded(rstd, sizes, at::kFloat)};
}

/* Where the saved float32 mean is too coarse, it is computed again. */
Three layer_norm_backward(const Tensor &dy, const Tensor &input, at::IntArrayRef shape, const Tensor &mean32,
                          const Tensor &rstd32, const Optional &weight, const Optional &bias, Mask mask)
{
    const bool gain = weight && weight->defined();
    const bool exact = rstd32.scalar_type() == at::kFloat && gradients_fit(dy, input, weight, mask);
    if (!(is_on(LAYER_NORM) || are_of_kernel(mean32)) || !size_and_dtype_fit(LAYER_NORM, input) ||
        !fits(input, shape, weight, bias) || !(exact || count(LAYER_NORM, DTYPE)))
        return at::cpu::native_layer_norm_backward(dy, input, shape, as_saved(mean32, input, {weight, bias}),
                                                   as_saved(rstd32, input, {weight, bias}), weight, bias, mask);
    count(LAYER_NORM, TAKEN);
    const Tensor x = input.contiguous(), g = dy.contiguous(), gamma = as_floats(weight);
    const Tensor dx = new_like(x, at::MemoryFormat::Contiguous);
    std::vector<double> mean, rstd;
    creg_norm call = call_of(x, shape, mean, rstd);
    if (are_precise(mean32, rstd32))
        mean = widened(mean32);
    else
        check(entries->norm_forward(&call, threads()));
    rstd = widened(rstd32);
    call = call_of(x, shape, mean, rstd);
    Tensor dgamma, dbeta;
    if (gain) {
        dgamma = new_floats(call.cols);
        dbeta = new_floats(call.cols);
        call.dgamma = dgamma.mutable_data_ptr<float>();
        call.dbeta = dbeta.mutable_data_ptr<float>();
    }
    call.gamma = floats(gamma);
    call.dy = g.const_data_ptr();
    call.dx = dx.mutable_data_ptr();
    check(entries->norm_backward(&call, threads()));
    return {dx, gradient_like(dgamma, weight, mask[1]), gradient_like(dbeta, bias, mask[2])};
}

} // namespace cregkit
