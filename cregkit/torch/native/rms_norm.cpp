/* aten::rms_norm, which PyTorch composes of differentiable ops on the CPU. */
#include "autograd.h"
#include "bridge.h"
#include "ops.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rms_norm_compositeimplicitautograd_dispatch.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <limits>

namespace cregkit
{
namespace
{

creg_norm call_of(const Tensor &x, int64_t cols, double *rstd)
{
    creg_norm call{};
    call.kind = CREG_RMS_NORM;
    call.stored = stored_of(x);
    call.cols = cols;
    call.rows = x.numel() / cols;
    call.across = 1;
    call.x = x.const_data_ptr();
    call.rstd = rstd;
    return call;
}

struct RmsNormBackward : torch::autograd::Node {
    torch::autograd::SavedVariable input, weight;
    Tensor rstd; /* float64, of each row */
    std::vector<int64_t> shape;
    double eps;

    void release_variables() override
    {
        input.reset_data();
        weight.reset_data();
        rstd.reset();
    }

    std::string name() const override { return "CregkitRmsNormBackward"; }

    torch::autograd::variable_list apply(torch::autograd::variable_list &&gradients) override;

    torch::autograd::variable_list by_kernel(const Tensor &dy, const Tensor &x, const Tensor &gain) const;
    torch::autograd::variable_list by_formula(const Tensor &dy, const Tensor &x, const Tensor &gain) const;
};

torch::autograd::variable_list RmsNormBackward::apply(torch::autograd::variable_list &&gradients)
{
    const Tensor &dy = gradients[0];
    if (!dy.defined()) return {Tensor(), Tensor()};
    const Tensor x = input.unpack(), gain = weight.unpack();
    TORCH_CHECK(rstd.defined(), torch::autograd::ERR_BACKWARD_TWICE);
    const bool plain = !at::GradMode::is_enabled() && !is_transformed(dy) && !is_transformed(x) &&
                       dy.scalar_type() == x.scalar_type() && stored_of(x) == stored_of(dy);
    return plain ? by_kernel(dy, x, gain) : by_formula(dy, x, gain);
}

torch::autograd::variable_list RmsNormBackward::by_kernel(const Tensor &dy, const Tensor &input,
                                                          const Tensor &gain) const
{
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor x = input.contiguous(), g = dy.contiguous(), gamma = as_floats(gain);
    const Tensor dx = new_like(x, at::MemoryFormat::Contiguous);
    creg_norm call = call_of(x, c10::multiply_integers(shape), const_cast<double *>(rstd.const_data_ptr<double>()));
    Tensor dgamma;
    if (gain.defined()) {
        dgamma = new_floats(call.cols);
        call.dgamma = dgamma.mutable_data_ptr<float>();
    }
    call.gamma = floats(gamma);
    call.dy = g.const_data_ptr();
    call.dx = dx.mutable_data_ptr();
    check(entries->norm_backward(&call, threads()));
    return {dx, gradient_like(dgamma, gain, gain.defined() && task_should_compute_output(1))};
}

/* With ops that autograd differentiates. */
torch::autograd::variable_list RmsNormBackward::by_formula(const Tensor &dy, const Tensor &input,
                                                           const Tensor &gain) const
{
    const int64_t outer = input.dim() - static_cast<int64_t>(shape.size());
    std::vector<int64_t> row, others;
    for (int64_t i = 0; i < input.dim(); i++) (i < outer ? others : row).push_back(i);
    const Tensor x = input.to(at::kFloat), d = dy.to(at::kFloat);
    const Tensor scale = x.square().mean(row, true).add(eps).rsqrt(), x_hat = x.mul(scale);
    const Tensor g = gain.defined() ? d.mul(gain.to(at::kFloat)) : d;
    const Tensor dx = scale.mul(g.sub(x_hat.mul(g.mul(x_hat).mean(row, true))));
    Tensor dgamma;
    if (gain.defined() && task_should_compute_output(1)) {
        dgamma = d.mul(x_hat);
        if (!others.empty()) dgamma = dgamma.sum(others);
        dgamma = dgamma.to(gain.scalar_type());
    }
    return {dx.to(input.scalar_type()), dgamma};
}

bool fits(const Tensor &x, at::IntArrayRef shape, const Optional &weight)
{
    const int64_t outer = x.dim() - static_cast<int64_t>(shape.size());
    if (shape.empty() || outer < 0 || x.sizes().slice(outer) != shape) return count(RMS_NORM, LAYOUT);
    if (!weight || !weight->defined()) return true;
    if (is_transformed(*weight)) return count(RMS_NORM, TRANSFORMED);
    return (weight->sizes() == shape && weight->is_cpu() && weight->scalar_type() == x.scalar_type()) ||
           count(RMS_NORM, DTYPE);
}

/* y, and rstd as a float64 tensor of one element for each row. */
std::pair<Tensor, Tensor> forward(const Tensor &input, int64_t cols, const Tensor &weight, double eps)
{
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor x = input.contiguous(), gamma = as_floats(weight);
    const Tensor y = new_like(x, at::MemoryFormat::Contiguous), rstd = at::empty({x.numel() / cols}, at::kDouble);
    creg_norm call = call_of(x, cols, rstd.mutable_data_ptr<double>());
    call.eps = eps;
    call.gamma = floats(gamma);
    call.y = y.mutable_data_ptr();
    check(entries->norm_forward(&call, threads()));
    return {y, rstd};
}

} // namespace

Tensor rms_norm(const Tensor &input, c10::SymIntArrayRef symbolic, const Optional &weight, std::optional<double> eps)
{
    const auto shape = c10::asIntArrayRefSlowOpt(symbolic);
    if (!is_on(RMS_NORM) || ((is_transformed(input) || !shape) && !count(RMS_NORM, TRANSFORMED)) ||
        !size_and_dtype_fit(RMS_NORM, input) || !fits(input, *shape, weight))
        return at::compositeimplicitautograd::rms_norm_symint(input, symbolic, weight, eps);
    count(RMS_NORM, TAKEN);
    const Tensor gain = weight ? *weight : Tensor();
    /* PyTorch's default: the epsilon of the type that it computes in, float32 for 16-bit tensors too. */
    const double added = eps.value_or(std::numeric_limits<float>::epsilon());
    auto [y, rstd] = forward(input, c10::multiply_integers(*shape), gain, added);
    if (torch::autograd::compute_requires_grad(input, gain)) {
        auto node = new_node<RmsNormBackward>();
        node->set_next_edges(torch::autograd::collect_next_edges(input, gain));
        node->input = torch::autograd::SavedVariable(input, false);
        node->weight = torch::autograd::SavedVariable(gain, false);
        node->rstd = rstd;
        node->shape = shape->vec();
        node->eps = added;
        torch::autograd::set_history(y, node);
    }
    return y;
}

} // namespace cregkit
