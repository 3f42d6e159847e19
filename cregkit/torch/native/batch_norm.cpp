/* aten::native_batch_norm and its backward; instance norm calls them too. */
#include "bridge.h"
#include "ops.h"

#include <ATen/ops/native_batch_norm_backward_cpu_dispatch.h>
#include <ATen/ops/native_batch_norm_cpu_dispatch.h>

namespace cregkit
{
namespace
{

bool is_defined(const Optional &tensor) { return tensor && tensor->defined(); }

/* Whether the kernel supports a call; at inference, with running statistics. */
bool fits(const Tensor &x, const Optional &weight, const Optional &bias, const Optional &running_mean,
          const Optional &running_var, bool training)
{
    const bool shaped = x.dim() >= 2 && x.is_contiguous(x.suggest_memory_format());
    if (!shaped) return count(BATCH_NORM, LAYOUT);
    const int64_t c = x.size(1);
    if (x.size(0) == 1 && !positions_fit(BATCH_NORM, x.numel() / c)) return false; /* an instance norm */
    if (!parameters_fit({weight, bias, running_mean, running_var}, {c}, x)) return count(BATCH_NORM, DTYPE);
    const bool statistics = training ? x.numel() >= 2 * c : is_defined(running_mean) && is_defined(running_var);
    return statistics || count(BATCH_NORM, LAYOUT);
}

/* x as (n, c, s), with the channels first or last in memory. */
creg_shape shape_of(const Tensor &x)
{
    const int64_t c = x.size(1), positions = x.numel() / c;
    if (x.suggest_memory_format() != at::MemoryFormat::Contiguous) return {positions, c, 1};
    return {x.size(0), c, positions / x.size(0)};
}

creg_batch_norm call_of(const Tensor &x, double eps)
{
    creg_batch_norm call{};
    call.shape = shape_of(x);
    call.stored = stored_of(x);
    call.x = x.const_data_ptr();
    call.eps = eps;
    return call;
}

/* The statistics of a batch. */
struct Statistics {
    std::vector<double> mean, var, rstd;

    Statistics(creg_batch_norm &call) : mean(call.shape.c), var(call.shape.c), rstd(call.shape.c)
    {
        call.channels.mean = mean.data();
        call.var = var.data();
        call.rstd = rstd.data();
    }
};

/* A running statistic that is updated in place. */
struct Running {
    Tensor whole, narrow; /* float32; the tensor of another dtype or layout that it is copied from */

    Running(const Optional &tensor) : whole(as_floats(tensor))
    {
        if (whole.defined() && !whole.is_alias_of(*tensor)) narrow = *tensor;
    }

    float *data() { return whole.defined() ? whole.mutable_data_ptr<float>() : nullptr; }

    void store()
    {
        if (narrow.defined()) narrow.copy_(whole);
    }
};

} // namespace

Three batch_norm(const Tensor &x, const Optional &weight, const Optional &bias, const Optional &running_mean,
                 const Optional &running_var, bool training, double momentum, double eps)
{
    if (!is_on(BATCH_NORM) || !size_and_dtype_fit(BATCH_NORM, x) ||
        !fits(x, weight, bias, running_mean, running_var, training))
        return at::cpu::native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps);
    count(BATCH_NORM, TAKEN);
    const Tensor gamma = as_floats(weight), beta = as_floats(bias);
    const Tensor y = new_like(x, x.suggest_memory_format());
    creg_batch_norm call = call_of(x, eps);
    call.out = y.mutable_data_ptr();
    call.gamma = floats(gamma);
    call.beta = floats(beta);
    Running mean(running_mean), var(running_var);
    const auto dtype = parameter_dtype(x, {weight, bias, running_mean, running_var});
    if (!training) {
        call.given_mean = mean.data();
        call.given_var = var.data();
        check(entries->batch_norm(&call, threads()));
        return {y, rounded({}, {0}, dtype), rounded({}, {0}, dtype)};
    }
    Statistics found(call);
    call.momentum = momentum;
    call.unbiased = 1;
    call.running_mean = mean.data();
    call.running_var = var.data();
    check(entries->batch_norm(&call, threads()));
    mean.store();
    var.store();
    return {y, rounded(found.mean, {x.size(1)}, dtype), rounded(found.rstd, {x.size(1)}, dtype)};
}

/* Where the saved float32 mean is too coarse, the statistics are computed again. */
Three batch_norm_backward(const Tensor &dy, const Tensor &x, const Optional &weight, const Optional &running_mean,
                          const Optional &running_var, const Optional &save_mean, const Optional &save_rstd,
                          bool training, double eps, Mask mask)
{
    const bool gain = is_defined(weight);
    const bool on = is_on(BATCH_NORM) || (is_defined(save_mean) && are_of_kernel(*save_mean));
    if (!on || !size_and_dtype_fit(BATCH_NORM, x) || !fits(x, weight, {}, running_mean, running_var, training) ||
        !(gradients_fit(dy, x, weight, mask) || count(BATCH_NORM, DTYPE)))
        return at::cpu::native_batch_norm_backward(dy, x, weight, running_mean, running_var, save_mean, save_rstd,
                                                   training, eps, mask);
    count(BATCH_NORM, TAKEN);
    const auto format = x.suggest_memory_format();
    const Tensor g = dy.contiguous(format), dx = new_like(x, format), gamma = as_floats(weight);
    const Tensor mean = as_floats(running_mean), var = as_floats(running_var);
    creg_batch_norm call = call_of(x, eps);
    Statistics found(call);
    const bool saved = is_defined(save_mean) && is_defined(save_rstd) && are_precise(*save_mean, *save_rstd);
    if (training && saved) {
        found.mean = widened(*save_mean);
        found.rstd = widened(*save_rstd);
    } else if (training)
        check(entries->batch_norm(&call, threads()));
    else {
        call.given_mean = floats(mean);
        call.given_var = floats(var);
    }
    Tensor dgamma, dbeta;
    if (gain) {
        dgamma = new_floats(call.shape.c);
        dbeta = new_floats(call.shape.c);
    }
    creg_batch_norm backward = call_of(x, eps);
    backward.given_mean = call.given_mean;
    backward.given_var = call.given_var;
    backward.channels.mean = found.mean.data();
    backward.rstd = found.rstd.data();
    backward.dy = g.const_data_ptr();
    backward.out = dx.mutable_data_ptr();
    backward.gamma = floats(gamma);
    backward.dgamma = gain ? dgamma.mutable_data_ptr<float>() : nullptr;
    backward.dbeta = gain ? dbeta.mutable_data_ptr<float>() : nullptr;
    check(entries->batch_norm(&backward, threads()));
    return {dx, gradient_like(dgamma, weight, mask[1]), gradient_like(dbeta, weight, mask[2])};
}

} // namespace cregkit
