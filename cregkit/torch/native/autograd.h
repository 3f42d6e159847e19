/* What the ops with autograd nodes of their own share. */
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/headeronly/version.h>

namespace cregkit
{

/* A new node, in the pointer with which this version of PyTorch counts its references. */
template <typename Node> auto new_node()
{
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 13
    return std::shared_ptr<Node>(new Node, torch::autograd::deleteNode);
#else
    return c10::make_intrusive<Node>();
#endif
}

} // namespace cregkit
