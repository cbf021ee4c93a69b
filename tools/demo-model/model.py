"""The demo model for training: Kimi-K2's architecture over packed documents."""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from quantization import trained_activation, trained_weight


@dataclass(frozen=True)
class Config:
    """The fields of text_config that give shapes or enter a formula."""

    vocab_size: int = 2304
    hidden_size: int = 384
    intermediate_size: int = 768
    moe_intermediate_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    n_routed_experts: int = 24
    num_experts_per_tok: int = 6
    q_lora_rank: int = 256
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    routed_scaling_factor: float = 2.827
    rms_norm_eps: float = 1e-5
    rope_theta: float = 50000.0
    max_position_embeddings: int = 8192

    @property
    def qk_head_dim(self):
        """Size of a query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def fields(self):
        """The fields as a dict."""
        return asdict(self)


YARN = {
    "type": "yarn",
    "factor": 64.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}


def yarn_frequencies(config):
    """Inverse frequencies of the rotary pairs (float64)."""
    dim, base = config.qk_rope_head_dim, config.rope_theta
    original = YARN["original_max_position_embeddings"]

    def correction(rotations):
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(correction(YARN["beta_fast"])), 0)
    high = min(math.ceil(correction(YARN["beta_slow"])), dim - 1)
    index = torch.arange(dim // 2, dtype=torch.float64)
    plain = base ** (-2 * index / dim)
    ramp = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain * (1 - ramp) + plain / YARN["factor"] * ramp


def softmax_scale(config):
    """qk_head_dim^-0.5 times YaRN's m^2."""
    m = 0.1 * YARN["mscale_all_dim"] * math.log(YARN["factor"]) + 1
    return config.qk_head_dim**-0.5 * m * m


def rotary_table(config, length):
    """cos and sin, each [length, rope_dim / 2]."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * yarn_frequencies(config)
    return angles.cos().float(), angles.sin().float()


def rotate(x, cos, sin):
    """Rotate interleaved pairs of the last dimension."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    out = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1)
    return out.flatten(-2).to(x.dtype)


def linear(x, weight):
    """x W^T in x's dtype."""
    return F.linear(x, weight.to(x.dtype))


def packed_attention(q, k, v, documents, max_length, scale):
    """Causal attention inside each document; q, k [n, heads, 192], v [n, heads, 128]."""
    if q.is_cuda:
        padded = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
        out = torch.ops.aten._flash_attention_forward(
            q,
            k,
            padded,
            documents,
            documents,
            max_length,
            max_length,
            0.0,
            True,
            False,
            scale=scale,
        )[0]
        return out[..., : v.shape[-1]]
    number = torch.bucketize(torch.arange(len(q)), documents[1:].contiguous(), right=True)
    same = (number[:, None] == number[None, :]).tril()
    heads = (t.transpose(0, 1)[None] for t in (q, k, v))
    return F.scaled_dot_product_attention(*heads, attn_mask=same, scale=scale)[0].transpose(0, 1)


class RmsNorm(nn.Module):
    """RMS norm with float32 statistics."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x, dtype):
        """Normalize and cast to `dtype`."""
        x = x.float()
        normal = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return normal.to(dtype) * self.weight.to(dtype)


class Attention(nn.Module):
    """Multi-head latent attention."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        heads = config.num_attention_heads
        self.q_a_proj = matrix(config.q_lora_rank, config.hidden_size)
        self.q_a_layernorm = RmsNorm(config.q_lora_rank, 1e-6)
        self.q_b_proj = matrix(heads * config.qk_head_dim, config.q_lora_rank)
        self.kv_a_proj_with_mqa = matrix(
            config.kv_lora_rank + config.qk_rope_head_dim, config.hidden_size
        )
        self.kv_a_layernorm = RmsNorm(config.kv_lora_rank, 1e-6)
        self.kv_b_proj = matrix(
            heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank
        )
        self.o_proj = matrix(
            config.hidden_size, heads * config.v_head_dim, residual_layers=config.num_hidden_layers
        )

    def forward(self, x, cos, sin, documents, max_length):
        """x [n, hidden] to [n, hidden]."""
        c = self.config
        n, heads = len(x), c.num_attention_heads
        q = linear(self.q_a_layernorm(linear(x, self.q_a_proj), x.dtype), self.q_b_proj)
        q_nope, q_rope = q.view(n, heads, c.qk_head_dim).split(
            (c.qk_nope_head_dim, c.qk_rope_head_dim), -1
        )
        latent, k_rope = linear(x, self.kv_a_proj_with_mqa).split(
            (c.kv_lora_rank, c.qk_rope_head_dim), -1
        )
        kv = linear(self.kv_a_layernorm(latent, x.dtype), self.kv_b_proj)
        k_nope, v = kv.view(n, heads, -1).split((c.qk_nope_head_dim, c.v_head_dim), -1)
        k_rope = rotate(k_rope, cos, sin)[:, None].expand(n, heads, c.qk_rope_head_dim)
        q = torch.cat((q_nope, rotate(q_rope, cos[:, None], sin[:, None])), -1)
        k = torch.cat((k_nope, k_rope), -1)
        out = packed_attention(q, k, v.contiguous(), documents, max_length, softmax_scale(c))
        return linear(out.reshape(n, -1), self.o_proj)


class SwiGlu(nn.Module):
    """A dense feed-forward block."""

    def __init__(self, hidden, inner, layers):
        super().__init__()
        self.gate_proj = matrix(inner, hidden)
        self.up_proj = matrix(inner, hidden)
        self.down_proj = matrix(hidden, inner, residual_layers=layers)

    def forward(self, x):
        """x [n, hidden] to [n, hidden]."""
        return linear(F.silu(linear(x, self.gate_proj)) * linear(x, self.up_proj), self.down_proj)


class Moe(nn.Module):
    """Routed experts (all computed, unchosen ones weighted zero) plus the shared expert."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        experts, inner, hidden = (
            config.n_routed_experts,
            config.moe_intermediate_size,
            config.hidden_size,
        )
        self.router = nn.Parameter(torch.randn(experts, hidden) * hidden**-0.5)
        self.register_buffer("bias", torch.zeros(experts))
        self.gate = matrix(experts, inner, hidden)
        self.up = matrix(experts, inner, hidden)
        self.down = matrix(experts, hidden, inner, residual_layers=config.num_hidden_layers)
        self.shared_experts = SwiGlu(hidden, inner, config.num_hidden_layers)

    def route(self, x):
        """Weights [n, experts] with zeros for unchosen experts."""
        scores = torch.sigmoid(F.linear(x.float(), self.router))
        chosen = (scores + self.bias).topk(self.config.num_experts_per_tok, -1).indices
        mask = torch.zeros_like(scores).scatter_(-1, chosen, 1.0)
        weights = scores * mask
        return weights / (
            weights.sum(-1, keepdim=True) + 1e-20
        ) * self.config.routed_scaling_factor, mask

    def forward(self, x):
        """x [n, hidden] to ([n, hidden], tokens per expert)."""
        weights, mask = self.route(x)
        rounded = trained_activation(x)
        gate = linear(rounded, trained_weight(self.gate).flatten(0, 1))
        up = linear(rounded, trained_weight(self.up).flatten(0, 1))
        inner = trained_activation(F.silu(gate) * up)
        inner = (
            inner.unflatten(-1, (self.config.n_routed_experts, -1)) * weights.to(x.dtype)[..., None]
        )
        down = trained_weight(self.down).permute(1, 0, 2).flatten(1)
        return linear(inner.flatten(1), down) + self.shared_experts(x), mask.sum(0)


def matrix(*shape, residual_layers=0):
    """A weight [.., out, in] with variance 1 / in, smaller where it feeds the residual stream."""
    std = shape[-1] ** -0.5 * ((2 * residual_layers) ** -0.5 if residual_layers else 1.0)
    return nn.Parameter(torch.randn(*shape) * std)


class Layer(nn.Module):
    """Attention and feed-forward with pre-norms."""

    def __init__(self, config, dense):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.dense = dense
        self.mlp = (
            SwiGlu(config.hidden_size, config.intermediate_size, config.num_hidden_layers)
            if dense
            else Moe(config)
        )

    def forward(self, h, dtype, *attention_inputs):
        """Update the residual stream; also the load of the experts, or None."""
        h = h + self.self_attn(self.input_layernorm(h, dtype), *attention_inputs).float()
        x = self.post_attention_layernorm(h, dtype)
        if self.dense:
            return h + self.mlp(x).float(), None
        out, load = self.mlp(x)
        return h + out.float(), load


class DemoModel(nn.Module):
    """Embedding, layers, final norm and head."""

    def __init__(self, config, max_length):
        super().__init__()
        self.config, self.max_length = config, max_length
        self.embed_tokens = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.1)
        self.layers = nn.ModuleList(
            Layer(config, dense=i == 0) for i in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.01)
        cos, sin = rotary_table(config, max_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids, positions, documents, sources, targets, weights):
        """Mean loss of predicting `targets` after positions `sources`, and the experts' load."""
        dtype = torch.bfloat16 if ids.is_cuda else torch.float32
        h = F.embedding(ids, self.embed_tokens)
        cos, sin = self.cos[positions], self.sin[positions]
        loads = []
        for layer in self.layers:
            h, load = layer(h, dtype, cos, sin, documents, self.max_length)
            if load is not None:
                loads.append(load)
        x = self.norm(h[sources], dtype)
        losses = F.cross_entropy(linear(x, self.lm_head).float(), targets, reduction="none")
        return (losses * weights).sum() / weights.sum(), torch.stack(loads)
