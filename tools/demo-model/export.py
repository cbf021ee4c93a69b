"""Write a trained checkpoint as INT4 W4A16 (compressed-tensors) and as MXFP4 (Quark's layout).

The MXFP4 weights are the round-to-nearest of the INT4 weights decompressed to BF16. With
--int4-experts only the INT4 values and scales of the experts are written, from which (and from
the MXFP4 export) `restore_int4.py` rebuilds the INT4 checkpoint.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compressed_tensors import compressed_tensors_config
from kimi_format import SPECIAL_OFFSETS
from model import YARN, Config
from quantization import int4_dequantize, int4_pack, int4_quantize, mxfp4_pack

PREFIX = "language_model."
TOKENIZER_FILES = (
    "tiktoken.model",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
PROJECTIONS = ("gate", "up", "down")


def read_checkpoint(folder):
    """All tensors of a checkpoint's shards."""
    state = {}
    for path in sorted(folder.glob("checkpoint-*.safetensors")):
        state.update(load_file(path))
    return state


def official_name(name):
    """The published tensor name of a checkpoint entry that is not a routed expert."""
    if name == "lm_head":
        return PREFIX + "lm_head.weight"
    name = name.replace(".mlp.router", ".mlp.gate.weight").replace(
        ".mlp.bias", ".mlp.gate.e_score_correction_bias"
    )
    if not name.endswith((".weight", "e_score_correction_bias")):
        name += ".weight"
    return f"{PREFIX}model.{name}"


def is_expert(name):
    """Whether a checkpoint entry holds the stacked weights of routed experts."""
    return name.split(".mlp.")[-1] in PROJECTIONS


def split_experts(state):
    """Plain tensors by published name, and experts' weights [out, in] by published module name."""
    plain, experts = {}, {}
    for name, tensor in state.items():
        if not is_expert(name):
            plain[official_name(name)] = tensor
            continue
        layer, projection = name.split(".mlp.")
        for index, weight in enumerate(tensor):
            experts[f"{PREFIX}model.{layer}.mlp.experts.{index}.{projection}_proj"] = weight
    return plain, experts


def base_config(config):
    """config.json without a quantization_config, nested as K2.6's."""
    base = config.vocab_size - 256
    ids = {
        "bos_token_id": base,
        "eos_token_id": base + SPECIAL_OFFSETS["<|im_end|>"],
        "pad_token_id": base + 255,
    }
    text = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "kimi_k2",
        **config.fields(),
        "num_key_value_heads": config.num_attention_heads,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0,
        "rope_scaling": YARN,
        "seq_aux": True,
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "torch_dtype": "bfloat16",
        **ids,
    }
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "dtype": "bfloat16",
        **ids,
        "media_placeholder_token_id": base + SPECIAL_OFFSETS["<|media_pad|>"],
        "tie_word_embeddings": False,
        "text_config": text,
    }


def quark_config(excluded):
    """Quark's quantization_config for MXFP4 weights and dynamic MXFP4 activations."""
    spec = {
        "dtype": "fp4",
        "is_dynamic": True,
        "qscheme": "per_group",
        "ch_axis": -1,
        "group_size": 32,
        "symmetric": None,
        "round_method": "half_even",
        "scale_type": "float",
        "scale_format": "e8m0",
        "scale_calculation_mode": "even",
        "mx_element_dtype": None,
        "observer_cls": "PerBlockMXObserver",
        "is_scale_quant": False,
    }
    return {
        "global_quant_config": {
            "input_tensors": spec,
            "output_tensors": None,
            "weight": {**spec, "is_dynamic": False},
            "bias": None,
            "target_device": None,
        },
        "exclude": excluded,
        "algo_config": None,
        "softmax_quant_spec": None,
        "quant_method": "quark",
        "layer_type_quant_config": {},
        "layer_quant_config": {},
        "kv_cache_quant_config": {},
        "kv_cache_post_rope": False,
        "quant_mode": "eager_mode",
        "version": "0.11.1",
        "export": {
            "kv_cache_group": [],
            "min_kv_scale": 0.0,
            "pack_method": "reorder",
            "weight_format": "real_quantized",
            "weight_merge_groups": None,
        },
    }


def excluded_modules(plain):
    """Sorted names of the linear modules that stay BF16, as Quark stores them."""
    linear = (
        n.removesuffix(".weight")
        for n, t in plain.items()
        if n.endswith(".weight") and t.dim() == 2
    )
    return sorted(name for name in linear if "embed" not in name)


def write_model(folder, config, tensors, shards=2):
    """Write shards, index and config.json; layers are cut evenly over the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    total = sum(t.nbytes for t in tensors.values())
    parts, size = [{} for _ in range(shards)], 0
    for name in names:
        parts[min(shards - 1, size * shards // total)][name] = tensors[name].contiguous()
        size += tensors[name].nbytes
    weight_map = {}
    for index, part in enumerate(parts, 1):
        file = f"model-{index:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def int4_tensors(name, values, scale):
    """The three tensors of one INT4 linear; values [out, groups, 32], scale [out, groups, 1]."""
    shape = torch.tensor([values.shape[0], values.shape[1] * values.shape[2]], dtype=torch.int32)
    return {
        f"{name}.weight_packed": int4_pack(values),
        f"{name}.weight_scale": scale.squeeze(-1).bfloat16(),
        f"{name}.weight_shape": shape,
    }


def int4_config(config):
    """config.json of the INT4 export: the quantization_config sits in text_config."""
    out = base_config(config)
    out["text_config"]["quantization_config"] = compressed_tensors_config()
    return out


def main():
    """Export both forms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--mxfp4", type=Path, required=True)
    parser.add_argument("--int4", type=Path, required=True)
    parser.add_argument(
        "--int4-experts", type=Path, help="also write the experts' INT4 tensors alone"
    )
    arguments = parser.parse_args()
    config = Config()
    plain, experts = split_experts(read_checkpoint(arguments.checkpoint))
    int4, mxfp4 = {}, {}
    for name, weight in experts.items():
        values, scale = int4_quantize(weight)
        int4.update(int4_tensors(name, values, scale))
        mxfp4[f"{name}.weight"], mxfp4[f"{name}.weight_scale"] = mxfp4_pack(
            int4_dequantize(values, scale)
        )
    write_model(arguments.int4, int4_config(config), {**plain, **int4})
    quantized = {
        **base_config(config),
        "quantization_config": quark_config(excluded_modules(plain)),
    }
    write_model(arguments.mxfp4, quantized, {**plain, **mxfp4})
    if arguments.int4_experts:
        kept = {name: tensor for name, tensor in int4.items() if not name.endswith("weight_shape")}
        save_file(kept, arguments.int4_experts)
    for folder in (arguments.int4, arguments.mxfp4):
        for file in TOKENIZER_FILES:
            if folder.resolve() != arguments.tokenizer.resolve():
                shutil.copyfile(arguments.tokenizer / file, folder / file)


if __name__ == "__main__":
    main()
