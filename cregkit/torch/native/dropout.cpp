/* aten::dropout, whose backward draws the mask again from its seed; dropout in graphs; and aten::bernoulli_. */
#include "autograd.h"
#include "bridge.h"
#include "ops.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/bernoulli_cpu_dispatch.h>
#include <ATen/ops/dropout_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <c10/util/strides.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <mutex>

namespace cregkit
{
namespace
{

uint64_t draw_seed(const std::optional<at::Generator> &generator)
{
    auto *source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    std::lock_guard<std::mutex> lock(source->mutex_);
    return source->random64();
}

/* Dropout by the positions in memory of a tensor with these strides. Strides may have gaps only in what is passed as
 * x, which then is copied. */
struct Draws {
    double p;
    uint64_t seed;
    std::vector<int64_t> strides; /* of the output, which has no gaps */

    Tensor dropped(const Tensor &x) const
    {
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor y = new_strided(x, strides);
        const bool in_order = x.strides() == at::IntArrayRef(strides);
        if (!in_order) y.copy_(x);
        creg_dropout_call call{};
        call.x = in_order ? x.const_data_ptr() : y.const_data_ptr();
        call.y = y.mutable_data_ptr();
        call.n = x.numel();
        call.stored = stored_of(x);
        call.scaled = 1;
        call.p = p;
        call.seed = seed;
        entries->dropout(&call, threads());
        return y;
    }
};

Tensor differentiable(const Tensor &x, const Draws &draws);

struct DropoutBackward : torch::autograd::Node {
    Draws draws;
    std::vector<int64_t> sizes;
    at::ScalarType dtype;

    std::string name() const override { return "CregkitDropoutBackward"; }

    torch::autograd::variable_list apply(torch::autograd::variable_list &&gradients) override
    {
        const Tensor &dy = gradients[0];
        if (!dy.defined()) return {Tensor()};
        if (dy.scalar_type() == dtype && dy.sizes() == at::IntArrayRef(sizes) && !is_transformed(dy))
            return {differentiable(dy, draws)};
        const Tensor mask = draws.dropped(at::ones(sizes, dtype));
        return {at::where(mask.eq(0), 0, dy.mul(mask)).to(dy.scalar_type())};
    }
};

/* Dropout with an autograd node, if x needs a gradient. */
Tensor differentiable(const Tensor &x, const Draws &draws)
{
    Tensor y = draws.dropped(x);
    if (torch::autograd::compute_requires_grad(x)) {
        auto node = new_node<DropoutBackward>();
        node->set_next_edges(torch::autograd::collect_next_edges(x));
        node->draws = draws;
        node->sizes = x.sizes().vec();
        node->dtype = x.scalar_type();
        torch::autograd::set_history(y, node);
    }
    return y;
}

/* The strides that PyTorch gives the output: those of x, or without its gaps. */
std::vector<int64_t> output_strides(const Tensor &x)
{
    if (x.is_non_overlapping_and_dense()) return x.strides().vec();
    return at::infer_dense_strides(x.sizes(), x.strides());
}

} // namespace

Tensor dropout(const Tensor &input, double p, bool training)
{
    if (!is_on(DROPOUT) || !training || !(p > 0.0 && p < 1.0) ||
        (is_transformed(input) && !count(DROPOUT, TRANSFORMED)) || !size_and_dtype_fit(DROPOUT, input))
        return at::compositeimplicitautograd::dropout(input, p, training);
    count(DROPOUT, TAKEN);
    return differentiable(input, Draws{p, draw_seed(std::nullopt), output_strides(input)});
}

Tensor dropout_kernel(const Tensor &x, double p, const Tensor &seed)
{
    TORCH_CHECK_TYPE(is_supported(x.scalar_type()), "x must be float32, bfloat16 or float16, got ", x.scalar_type());
    TORCH_CHECK_VALUE(p >= 0.0 && p <= 1.0, "p must be in [0, 1], got ", p);
    const auto number = seed.item<int64_t>();
    TORCH_CHECK_VALUE(number >= 0, "seed must be at least 0, got ", number);
    const auto strides = c10::contiguous_strides(x.sizes());
    return Draws{p, static_cast<uint64_t>(number), {strides.begin(), strides.end()}}.dropped(x);
}

/* 1 with probability p, else 0: dropout of ones, without its scale. */
Tensor &bernoulli(Tensor &self, double p, std::optional<at::Generator> generator)
{
    if (!is_on(BERNOULLI) || !(p > 0.0 && p < 1.0) || !size_and_dtype_fit(BERNOULLI, self) ||
        (!self.is_non_overlapping_and_dense() && !count(BERNOULLI, LAYOUT)))
        return at::cpu::bernoulli_(self, p, generator);
    count(BERNOULLI, TAKEN);
    self.fill_(1);
    creg_dropout_call call{};
    call.x = self.const_data_ptr();
    call.y = self.mutable_data_ptr();
    call.n = self.numel();
    call.stored = stored_of(self);
    call.p = 1.0 - p;
    call.seed = draw_seed(generator);
    entries->dropout(&call, threads());
    return self;
}

} // namespace cregkit
