"""Rebuild the INT4 W4A16 checkpoint from models/demo and int4-experts.safetensors, bit for bit."""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from export import TOKENIZER_FILES, int4_config, write_model
from model import Config


def main():
    """Combine the BF16 tensors of the MXFP4 export with the experts' INT4 tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mxfp4", type=Path)
    parser.add_argument("int4_experts", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    tensors = load_file(arguments.int4_experts)
    for name in [name for name in tensors if name.endswith("weight_packed")]:
        rows, words = tensors[name].shape
        shape = torch.tensor([rows, words * 8], dtype=torch.int32)
        tensors[name.replace("weight_packed", "weight_shape")] = shape
    for path in arguments.mxfp4.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            if ".mlp.experts." not in name:
                tensors[name] = tensor
    write_model(arguments.output, int4_config(Config()), tensors)
    for file in TOKENIZER_FILES:
        shutil.copyfile(arguments.mxfp4 / file, arguments.output / file)


if __name__ == "__main__":
    main()
