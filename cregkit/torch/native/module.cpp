/* The Python module: registers the kernels, and switches them. cregkit/torch/dispatch.py is its only user. */
#include <c10/util/Exception.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/library.h>

#include <algorithm>
#include <map>
#include <string>

#include "bridge.h"
#include "ops.h"

namespace py = pybind11;

namespace cregkit
{
namespace
{

const std::array<const char *, N_OPS> OP_NAMES = {"layer_norm", "rms_norm", "batch_norm",
                                                  "group_norm", "dropout",  "bernoulli"};
const std::array<const char *, N_FATES> FATE_NAMES = {"taken", "small", "dtype", "layout", "transformed"};

Switch &switch_of(const std::string &name)
{
    const auto found = std::find(OP_NAMES.begin(), OP_NAMES.end(), name);
    if (found == OP_NAMES.end()) throw py::value_error("no op is named " + name);
    return switches[found - OP_NAMES.begin()];
}

/* PyTorch warns whoever replaces its kernels. */
struct Silence : c10::WarningHandler {
    void process(const c10::Warning &) override {}
};

/* Registers the kernels for the rest of the process. They stay registered when an op is off, because a registration
 * while other threads call the op is not safe. */
void install(const py::capsule &table)
{
    entries = static_cast<const creg_entries *>(table.get_pointer());
    Silence silence;
    c10::WarningUtils::WarningHandlerGuard guard(&silence);
    static torch::Library cpu(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
    cpu.impl("native_layer_norm", layer_norm);
    cpu.impl("native_layer_norm_backward", layer_norm_backward);
    cpu.impl("native_batch_norm", batch_norm);
    cpu.impl("native_batch_norm_backward", batch_norm_backward);
    cpu.impl("native_group_norm", group_norm);
    cpu.impl("native_group_norm_backward", group_norm_backward);
    cpu.impl("bernoulli_.float", bernoulli);
    cpu.impl("rms_norm", rms_norm);
    cpu.impl("dropout", dropout);
    static torch::Library autograd(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradCPU, __FILE__, __LINE__);
    autograd.impl("rms_norm", rms_norm);
    autograd.impl("dropout", dropout);
    static torch::Library own(torch::Library::IMPL, "cregkit", c10::DispatchKey::CPU, __FILE__, __LINE__);
    own.impl("dropout_kernel", dropout_kernel);
}

/* A tensor of Python. Raises TypeError for anything else, and for tensors whose memory does not hold their values. */
at::Tensor tensor_of(const py::handle &object)
{
    if (!THPVariable_Check(object.ptr())) throw py::type_error("expected a tensor");
    const at::Tensor &x = THPVariable_Unpack(object.ptr());
    if (!x.is_cpu() || x.layout() != at::kStrided || !x.has_storage() || x.is_neg() || x._is_zerotensor() ||
        x.scalar_type() != at::kFloat)
        throw py::type_error("the memory of the tensor does not hold its values in float32");
    return x;
}

/* The memory of a float32 tensor as an array. After Tensor.numpy() its storage could no longer be resized. */
py::array memory(const py::handle &tensor)
{
    static const py::dtype &dtype = *new py::dtype(py::dtype::of<float>()); /* never freed: Python ends first */
    const at::Tensor x = tensor_of(tensor);
    std::vector<py::ssize_t> strides(x.strides().begin(), x.strides().end());
    for (py::ssize_t &stride : strides) stride *= static_cast<py::ssize_t>(sizeof(float));
    return py::array(dtype, x.sizes().vec(), std::move(strides), x.mutable_data_ptr(), tensor);
}

/* A contiguous tensor of the shape of a float32 tensor, resizable, in memory of the pool if it is large. */
py::object new_like(const py::handle &tensor)
{
    return py::reinterpret_steal<py::object>(
        THPVariable_Wrap(cregkit::new_like(tensor_of(tensor), at::MemoryFormat::Contiguous)));
}

/* Calls a function with the kernels of all ops. Not by pybind11: after a matrix product, little of what a call needs is
 * in the caches, and each cache line counts. */
PyObject *converted(PyObject *, PyObject *const *arguments, Py_ssize_t n)
{
    if (n < 1) {
        PyErr_SetString(PyExc_TypeError, "converted() needs a function");
        return nullptr;
    }
    const bool before = is_converted;
    is_converted = true;
    PyObject *result = PyObject_Vectorcall(arguments[0], arguments + 1, static_cast<size_t>(n - 1), nullptr);
    is_converted = before;
    return result;
}

/* Through void *, as METH_FASTCALL wants: the signature of PyCFunction is another. */
PyMethodDef methods[] = {
    {"converted", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(converted)), METH_FASTCALL,
     "Call a function, given first, with the kernels of all ops."},
    {nullptr, nullptr, 0, nullptr},
};

py::dict calls_of(const std::string &name)
{
    py::dict calls;
    for (int fate = 0; fate < N_FATES; fate++) calls[FATE_NAMES[fate]] = switch_of(name).calls[fate].load();
    return calls;
}

} // namespace
} // namespace cregkit

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module)
{
    using namespace cregkit;
    module.def("install", install);
    module.def("is_on", [](const std::string &name) { return switch_of(name).on.load(); });
    module.def("turn", [](const std::string &name, bool on) { switch_of(name).on.store(on); });
    module.def("smallest", [](const std::string &name) { return switch_of(name).smallest.load(); });
    module.def("set_smallest", [](const std::string &name, int64_t elements, int64_t positions) {
        switch_of(name).smallest.store(elements);
        switch_of(name).positions.store(positions);
    });
    module.def("calls", calls_of);
    if (PyModule_AddFunctions(module.ptr(), methods)) throw py::error_already_set();
    module.def("memory", memory);
    module.def("new_like", [](const py::handle &tensor) { return new_like(tensor); });
    py::list names;
    for (const char *name : OP_NAMES) names.append(name);
    module.attr("OPS") = names;
}
