#include "bridge.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/TracerMode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <Python.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <algorithm>
#include <cstdlib>

namespace cregkit
{

Switch switches[N_OPS];
thread_local bool is_converted;
const creg_entries *entries;

bool count(Op op, Fate fate)
{
    switches[op].calls[fate].fetch_add(1, std::memory_order_relaxed);
    return fate == TAKEN;
}

bool is_supported(at::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16; }

bool size_and_dtype_fit(Op op, const at::Tensor &x)
{
    if (x.numel() < switches[op].smallest.load(std::memory_order_relaxed) || x.numel() == 0) return count(op, SMALL);
    return is_supported(x.scalar_type()) || count(op, DTYPE);
}

bool positions_fit(Op op, int64_t positions)
{
    return positions >= switches[op].positions.load(std::memory_order_relaxed) || count(op, SMALL);
}

bool is_transformed(const at::Tensor &x)
{
    static const c10::DispatchKeySet plain = c10::DispatchKeySet(c10::DispatchKey::CPU) |
                                             c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                             c10::autocast_dispatch_keyset;
    static const c10::DispatchKeySet modes(
        {c10::DispatchKey::Python, c10::DispatchKey::Functionalize, c10::DispatchKey::FuncTorchVmapMode,
         c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::FuncTorchDynamicLayerBackMode});
    const bool wrapped = (x.key_set() - plain).highestFunctionalityKey() != c10::DispatchKey::Undefined;
    return wrapped || c10::impl::tls_local_dispatch_key_set().included_.has_any(modes) ||
           c10::impl::dispatch_mode_enabled() || at::tracer::impl::is_dispatch_enabled() || x._fw_grad(0).defined();
}

int stored_of(const at::Tensor &x)
{
    return x.scalar_type() == at::kFloat ? CREG_FLOAT32 : x.scalar_type() == at::kHalf ? CREG_FLOAT16 : CREG_BFLOAT16;
}

static bool is_present(const std::optional<at::Tensor> &parameter) { return parameter && parameter->defined(); }

at::ScalarType parameter_dtype(const at::Tensor &x, std::initializer_list<std::optional<at::Tensor>> parameters)
{
    for (const auto &parameter : parameters)
        if (is_present(parameter) && parameter->scalar_type() == at::kFloat) return at::kFloat;
    return x.scalar_type();
}

bool parameters_fit(std::initializer_list<std::optional<at::Tensor>> parameters, at::IntArrayRef shape,
                    const at::Tensor &x)
{
    const at::ScalarType dtype = parameter_dtype(x, parameters);
    for (const auto &parameter : parameters)
        if (is_present(parameter) &&
            (parameter->sizes() != shape || !parameter->is_cpu() || parameter->scalar_type() != dtype))
            return false;
    return true;
}

bool gradients_fit(const at::Tensor &dy, const at::Tensor &x, const std::optional<at::Tensor> &weight,
                   const std::array<bool, 3> &mask)
{
    return dy.scalar_type() == x.scalar_type() && (is_present(weight) || (!mask[1] && !mask[2]));
}

at::Tensor as_floats(const std::optional<at::Tensor> &parameter)
{
    return is_present(parameter) ? parameter->to(at::kFloat).contiguous() : at::Tensor();
}

const float *floats(const at::Tensor &x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }

namespace
{

/* The deleter tells the statistics of kernels from others. */
void free_statistics(void *memory) { std::free(memory); }

struct StatisticsAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t size) override
    {
        void *memory = std::malloc(std::max<size_t>(size, 1));
        TORCH_CHECK_WITH(OutOfMemoryError, memory, "cregkit: unable to allocate ", size, " bytes");
        return {memory, memory, free_statistics, c10::Device(c10::DeviceType::CPU)};
    }

    void copy_data(void *to, const void *from, size_t size) const override { default_copy_data(to, from, size); }
};

StatisticsAllocator statistics_memory;

} // namespace

at::Tensor rounded(const std::vector<double> &numbers, at::IntArrayRef shape, at::ScalarType dtype)
{
    at::Tensor result = at::detail::empty_generic(shape, &statistics_memory, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                  dtype, std::nullopt);
    if (dtype == at::kFloat)
        std::copy(numbers.begin(), numbers.end(), result.mutable_data_ptr<float>());
    else
        result.copy_(at::from_blob(const_cast<double *>(numbers.data()), shape, at::kDouble));
    return result;
}

at::Tensor as_saved(const at::Tensor &statistics, const at::Tensor &x,
                    std::initializer_list<std::optional<at::Tensor>> parameters)
{
    return statistics.to(parameter_dtype(x, parameters));
}

bool are_of_kernel(const at::Tensor &statistics)
{
    return statistics.defined() && statistics.has_storage() &&
           statistics.storage().data_ptr().get_deleter() == free_statistics;
}

std::vector<double> widened(const at::Tensor &numbers)
{
    const at::Tensor source = numbers.to(at::kFloat).contiguous();
    const float *first = source.const_data_ptr<float>();
    return std::vector<double>(first, first + source.numel());
}

bool are_precise(const at::Tensor &mean, const at::Tensor &rstd)
{
    constexpr float FAR = 8.0f; /* standard deviations: an error of 8 * 2^-24 */
    if (mean.scalar_type() != at::kFloat || rstd.scalar_type() != at::kFloat || !mean.is_contiguous() ||
        !rstd.is_contiguous())
        return false;
    const float *m = mean.const_data_ptr<float>(), *r = rstd.const_data_ptr<float>();
    bool precise = true;
    for (int64_t i = 0; i < mean.numel(); i++) precise &= m[i] * r[i] <= FAR && m[i] * r[i] >= -FAR;
    return precise;
}

/* ---- memory ---- */

namespace
{

/* The sizes from which outputs lie in the pool. malloc recycles smaller blocks well enough. Without gradients, an
 * output is freed soon, and PyTorch's allocator gives its memory to the next op while it is in L2 (TUNING.md). */
constexpr size_t SMALLEST_POOLED = 256 * 1024, SMALLEST_POOLED_WITHOUT_GRADIENTS = 4 * 1024 * 1024;

struct PoolAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t size) override
    {
        const size_t smallest = c10::GradMode::is_enabled() ? SMALLEST_POOLED : SMALLEST_POOLED_WITHOUT_GRADIENTS;
        if (size < smallest) return c10::GetDefaultCPUAllocator()->allocate(size);
        void *memory = entries->allocate(size);
        TORCH_CHECK_WITH(OutOfMemoryError, memory, "cregkit: unable to allocate ", size, " bytes");
        return {memory, memory, entries->release, c10::Device(c10::DeviceType::CPU)};
    }

    void copy_data(void *to, const void *from, size_t size) const override { default_copy_data(to, from, size); }
};

PoolAllocator pool;

} // namespace

at::Tensor new_like(const at::Tensor &x, at::MemoryFormat format)
{
    return at::detail::empty_generic(x.sizes(), &pool, c10::DispatchKeySet(c10::DispatchKey::CPU), x.scalar_type(),
                                     format);
}

at::Tensor new_strided(const at::Tensor &x, at::IntArrayRef strides)
{
    return at::detail::empty_strided_generic(x.sizes(), strides, &pool, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                             x.scalar_type());
}

at::Tensor new_floats(int64_t n) { return at::empty({n}, at::kFloat); }

at::Tensor gradient_like(const at::Tensor &gradient, const std::optional<at::Tensor> &parameter, bool wanted)
{
    return wanted ? gradient.view(parameter->sizes()).to(parameter->scalar_type()) : at::Tensor();
}

/* ---- calls ---- */

int threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

void check(int result)
{
    if (result == 0) return;
    const PyGILState_STATE state = PyGILState_Ensure();
    PyErr_Clear();
    PyGILState_Release(state);
    TORCH_CHECK_WITH(OutOfMemoryError, false, "cregkit: unable to allocate temporary memory");
}

} // namespace cregkit
