/* aten::native_group_norm and its backward. The statistics are float32, also where PyTorch rounds them to 16 bits. */
#include "bridge.h"
#include "ops.h"

#include <ATen/ops/native_group_norm_backward_cpu_dispatch.h>
#include <ATen/ops/native_group_norm_cpu_dispatch.h>

namespace cregkit
{
namespace
{

bool fits(const Tensor &x, const Optional &weight, const Optional &bias, int64_t n, int64_t c, int64_t s,
          int64_t groups)
{
    const bool shaped = x.dim() >= 2 && x.size(0) == n && x.size(1) == c && x.numel() == n * c * s && groups > 0 &&
                        c % groups == 0 && x.is_contiguous(x.suggest_memory_format());
    if (!shaped) return count(GROUP_NORM, LAYOUT);
    if (!positions_fit(GROUP_NORM, s)) return false;
    return parameters_fit({weight, bias}, {c}, x) || count(GROUP_NORM, DTYPE);
}

/* A call, and the statistics of its groups. */
struct Call {
    creg_group_norm record{};
    std::vector<double> mean, var, rstd;

    Call(const Tensor &x, int64_t n, int64_t c, int64_t s, int64_t groups) : mean(n * groups), var(mean), rstd(mean)
    {
        const bool last = x.suggest_memory_format() != at::MemoryFormat::Contiguous;
        const ptrdiff_t rows = last ? s : 1, plane = last ? 1 : s;
        record.samples = n;
        record.channels.shape = {rows, c, plane};
        record.groups.shape = {rows, groups, c / groups * plane};
        record.channels.stored = record.groups.stored = stored_of(x);
        record.channels.x = record.groups.x = x.const_data_ptr();
        record.groups.channels.mean = mean.data();
        record.groups.var = var.data();
        record.groups.rstd = rstd.data();
    }
};

} // namespace

Three group_norm(const Tensor &x, const Optional &weight, const Optional &bias, int64_t n, int64_t c, int64_t s,
                 int64_t groups, double eps)
{
    if (!is_on(GROUP_NORM) || !size_and_dtype_fit(GROUP_NORM, x) || !fits(x, weight, bias, n, c, s, groups))
        return at::cpu::native_group_norm(x, weight, bias, n, c, s, groups, eps);
    count(GROUP_NORM, TAKEN);
    const Tensor gamma = as_floats(weight), beta = as_floats(bias);
    const Tensor y = new_like(x, x.suggest_memory_format());
    Call call(x, n, c, s, groups);
    call.record.groups.eps = eps;
    call.record.channels.out = y.mutable_data_ptr();
    call.record.channels.gamma = floats(gamma);
    call.record.channels.beta = floats(beta);
    check(entries->group_norm(&call.record, threads()));
    return {y, rounded(call.mean, {n, groups}, at::kFloat), rounded(call.rstd, {n, groups}, at::kFloat)};
}

/* Where the saved float32 mean is too coarse, it is computed again. */
Three group_norm_backward(const Tensor &dy, const Tensor &x, const Tensor &mean32, const Tensor &rstd32,
                          const Optional &weight, int64_t n, int64_t c, int64_t s, int64_t groups, Mask mask)
{
    const bool gain = weight && weight->defined();
    const bool exact = rstd32.scalar_type() == at::kFloat && gradients_fit(dy, x, weight, mask);
    if (!(is_on(GROUP_NORM) || are_of_kernel(mean32)) || !size_and_dtype_fit(GROUP_NORM, x) ||
        !fits(x, weight, {}, n, c, s, groups) || !(exact || count(GROUP_NORM, DTYPE)))
        return at::cpu::native_group_norm_backward(dy, x, as_saved(mean32, x, {weight}), as_saved(rstd32, x, {weight}),
                                                   weight, n, c, s, groups, mask);
    count(GROUP_NORM, TAKEN);
    const auto format = x.suggest_memory_format();
    const Tensor g = dy.contiguous(format), dx = new_like(x, format), gamma = as_floats(weight);
    Call call(x, n, c, s, groups);
    if (are_precise(mean32, rstd32))
        call.mean = widened(mean32);
    else {
        Call found(x, n, c, s, groups);
        check(entries->group_norm(&found.record, threads()));
        call.mean = found.mean;
    }
    call.rstd = widened(rstd32);
    creg_group_norm &record = call.record;
    record.groups.channels.mean = call.mean.data();
    record.groups.rstd = call.rstd.data();
    record.channels.dy = g.const_data_ptr();
    record.channels.out = dx.mutable_data_ptr();
    record.channels.gamma = floats(gamma);
    Tensor dgamma, dbeta;
    std::vector<double> sums(gain ? 2 * n * c : 0);
    if (gain) {
        dgamma = new_floats(c);
        dbeta = new_floats(c);
        record.dgamma = dgamma.mutable_data_ptr<float>();
        record.dbeta = dbeta.mutable_data_ptr<float>();
        record.sums_dy = sums.data();
        record.sums_dy_x_hat = sums.data() + n * c;
    }
    check(entries->group_norm(&record, threads()));
    return {dx, gradient_like(dgamma, weight, mask[1]), gradient_like(dbeta, weight, mask[2])};
}

} // namespace cregkit
