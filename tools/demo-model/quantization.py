"""INT4 groups and MXFP4 blocks of 32, in torch, usable inside and outside of training."""

import torch

GROUP = 32
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _groups(tensor):
    """View the last dimension as groups of 32."""
    return tensor.unflatten(-1, (-1, GROUP))


def int4_quantize(weight):
    """Symmetric INT4: values in [-7, 7] as float, and the BF16 scale amax/7 of each group."""
    groups = _groups(weight.float())
    scale = (groups.abs().amax(-1, keepdim=True) / 7.0).bfloat16().float()
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.round(groups / scale).clamp(-7, 7), scale


def int4_dequantize(values, scale):
    """BF16(q * scale), flattened back to the weight's shape."""
    return (values * scale).bfloat16().flatten(-2)


def mxfp4_scale(amax):
    """The EVEN rule's power-of-two scale for an absolute maximum (float32, normal or zero)."""
    rounded = (amax.view(torch.int32) + 0x200000) & -0x800000
    scale = rounded.view(torch.float32) * 0.25
    return torch.where(amax == 0, torch.ones_like(scale), scale)


def mxfp4_round(scaled):
    """Round magnitudes to E2M1 values, ties to even codes, saturating at 6."""
    magnitude = scaled.abs().clamp(max=6.0)
    step = torch.where(magnitude < 2.0, 0.5, torch.where(magnitude < 4.0, 1.0, 2.0))
    return torch.copysign(torch.round(magnitude / step) * step, scaled)


def mxfp4_round_trip(tensor):
    """Quantize to MXFP4 along the last dimension and back; float32 in and out."""
    groups = _groups(tensor.float())
    scale = mxfp4_scale(groups.abs().amax(-1, keepdim=True))
    return (mxfp4_round(groups / scale) * scale).flatten(-2)


def mxfp4_pack(weight):
    """Quark's bytes of a weight: (U8 [.., in/2] codes, U8 [.., in/32] E8M0 scales)."""
    groups = _groups(weight.float())
    amax = groups.abs().amax(-1, keepdim=True)
    scale = mxfp4_scale(amax)
    rounded = mxfp4_round(groups / scale).flatten(-2)
    table = torch.tensor(E2M1_VALUES)
    codes = torch.searchsorted(table, rounded.abs().contiguous()).to(torch.uint8)
    codes |= ((rounded < 0).to(torch.uint8)) << 3
    exponents = (scale.squeeze(-1).view(torch.int32) >> 23).to(torch.uint8)
    exponents = torch.where(amax.squeeze(-1) == 0, torch.zeros_like(exponents), exponents)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), exponents


def mxfp4_unpack(codes, exponents):
    """The float32 weight of Quark's bytes."""
    nibbles = torch.stack((codes & 0xF, codes >> 4), -1).flatten(-2).long()
    table = torch.tensor(E2M1_VALUES + tuple(-v for v in E2M1_VALUES), device=codes.device)
    scale = torch.exp2(exponents.float() - 127.0).unsqueeze(-1)
    return (_groups(table[nibbles]) * scale).flatten(-2)


def int4_pack(values):
    """Compressed-tensors words: eight offset-binary nibbles (q + 8) an I32, lowest first."""
    nibbles = (values.flatten(-2).to(torch.int64) + 8).unflatten(-1, (-1, 8))
    shifts = torch.arange(8) * 4
    words = (nibbles << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def straight_through(exact, rounded):
    """The rounded value in the forward pass, the exact one's gradient in the backward pass."""
    return exact + (rounded.to(exact.dtype) - exact).detach()


def trained_weight(weight):
    """The weight a server computes with (INT4, then MXFP4), with a straight-through gradient."""
    with torch.no_grad():
        rounded = mxfp4_round_trip(int4_dequantize(*int4_quantize(weight.bfloat16())))
    return straight_through(weight, rounded)


def trained_activation(tensor):
    """MXFP4 activations with a straight-through gradient."""
    with torch.no_grad():
        rounded = mxfp4_round_trip(tensor)
    return straight_through(tensor, rounded)
