"""Norms as other libraries write them, and modules that only look like norms; to be imported where torch is there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CALLS: list[str] = []


class Weighted(nn.Module):
    """A module with weight, eps and perhaps bias, whose values differ from those at the start of training."""

    def __init__(self, features: int, eps: float = 1e-6, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, features))
        if bias:
            self.bias = nn.Parameter(torch.linspace(-1.0, 1.0, features))
        self.eps = eps


class LlamaRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class WeightBeforeCast(LlamaRMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))).to(
            x.dtype
        )


class GemmaRMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(dim))

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return (self._norm(x.float()) * (1.0 + self.weight.float())).type_as(x)


class T5LayerNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        if self.weight.dtype in [torch.float16, torch.bfloat16]:
            hidden_states = hidden_states.to(self.weight.dtype)
        return self.weight * hidden_states


class HandLayerNorm(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        var = (x - mean).pow(2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


class GatedRMSNorm(Weighted):
    """With a gate that a call may leave out."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        if gate is not None:
            x = x * F.silu(gate)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class HiddenEps(nn.Module):
    """No attribute has its eps."""

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 2.34567e-4).sqrt() * self.weight


class TimmLayerNorm(nn.LayerNorm):
    def __init__(self, features: int, eps: float = 1e-6):
        super().__init__(features, eps=eps)
        self._fast_norm = False

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Float32LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).type_as(x)


class TimmLayerNorm2d(TimmLayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNextLayerNorm(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


# What convert must not take.


class RMS(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Unbiased(HandLayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + self.eps) * self.weight + self.bias


class EpsOutside(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight


class Clamped(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True).clamp(min=self.eps)) * self.weight


class ClampedInput(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-65504.0, 65504.0))


class ClampedOutput(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-4.0, 4.0)


class WithoutNaN(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.nan_to_num(x, nan=0.0, posinf=torch.inf, neginf=-torch.inf))


class ScaleNorm(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(features) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.weight


class L2Normalise(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=self.eps) * self.weight


class WithoutEps(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True)) * self.weight


class RightInTwoDimensions(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(tuple(range(1, x.dim())), keepdim=True) + self.eps) * self.weight


class OtherInTraining(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.001 if self.training else 1.0)


class OtherInEvaluation(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if self.training else 1.001)


class OtherWithoutGradients(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if torch.is_grad_enabled() else 1.001)


class CountsCalls(RMS):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Noisy(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.randn_like(x))


class DrawsAndIgnores(RMS):
    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        return super().forward(x)


class Raises(RMS):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no")


class OnlyThreeDimensions(RMS):
    def forward(self, x: Tensor) -> Tensor:
        _batch, _tokens, _features = x.shape
        return super().forward(x)


class ChangesItsInput(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return x.data.mul_(torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)) * self.weight


class ChangesItsInputAfterwards(RMS):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not torch.is_grad_enabled():
            x.zero_()
        return y


class ChangesItsWeight(RMS):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.weight.data.mul_(0.5)
        return y


class DetachedRoot(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps).detach() * self.weight


class DetachedWeight(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return normed * self.weight.detach() + 0.0 * self.weight


class Detached(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class WithBuffer(RMS):
    def __init__(self, features: int):
        super().__init__(features)
        self.register_buffer("steps", torch.zeros(()))


class WithConfiguration(RMS):
    """Its eps is in a dict, whose changes no one sees."""

    def __init__(self, features: int):
        super().__init__(features)
        self.config = {"eps": 1e-6}


class Nothing(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0 * self.weight


class NotANumber(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.nan * self.weight


class Scaled(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Doubled(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class ReturnsTuple(RMS):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return super().forward(x), None


class ReturnsFloat64(RMS):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class ReturnsTransposed(RMS):
    """Right values in another memory order, which view() would not accept."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(0, -1).contiguous().transpose(0, -1)


class Registers(RMS):
    """A class that notes its subclasses."""

    subclasses: list[type] = []  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        cls.subclasses.append(cls)


class NotesCalls(RMS):
    """A hook of its class, ``__call__``, notes the calls."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        CALLS.append("call")
        return super().__call__(*inputs)


class QuietDropout(nn.Dropout):
    """Inherits its forward."""


class QuietLayerNorm(nn.LayerNorm):
    """Inherits its forward."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.normal_(self.bias)


class QuietInstanceNorm(nn.InstanceNorm1d):
    """Inherits its forward."""


class ScaledInstanceNorm(nn.InstanceNorm1d):
    """Inherits its forward, which calls what it overrides."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return 2.0 * super()._apply_instance_norm(input)


class BatchNormAct(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))
