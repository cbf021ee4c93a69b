"""Rebuild the INT4 W4A16 checkpoint from models/demo and int4-experts.safetensors, bit for bit.

Standard library only: tensors are moved as bytes.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

from compressed_tensors import compressed_tensors_config

TOKENIZER_FILES = (
    "tiktoken.model",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)


def read_tensors(path):
    """Type, shape and bytes of each tensor of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    return {
        name: (info["dtype"], info["shape"], bytes(body[slice(*info["data_offsets"])]))
        for name, info in header.items()
    }


def write_tensors(path, tensors):
    """Write a safetensors file, the widest types first so that all are aligned."""
    width = {"I32": 4, "F32": 4, "BF16": 2}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    names = sorted(tensors, key=lambda name: (-width[tensors[name][0]], name))
    for name in names:
        dtype, shape, data = tensors[name]
        end = offset + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = [struct.pack("<Q", len(text)), text, *(tensors[name][2] for name in names)]
    path.write_bytes(b"".join(parts))


def main():
    """Combine the BF16 tensors of the MXFP4 export with the experts' INT4 tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mxfp4", type=Path)
    parser.add_argument("int4_experts", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    tensors = read_tensors(arguments.int4_experts)
    for name in [name for name in tensors if name.endswith("weight_packed")]:
        rows, words = tensors[name][1]
        shape = ("I32", [2], struct.pack("<2i", rows, words * 8))
        tensors[name.replace("weight_packed", "weight_shape")] = shape
    for path in arguments.mxfp4.glob("*.safetensors"):
        for name, tensor in read_tensors(path).items():
            if ".mlp.experts." not in name:
                tensors[name] = tensor
    config = json.loads((arguments.mxfp4 / "config.json").read_text())
    del config["quantization_config"]
    config["text_config"]["quantization_config"] = compressed_tensors_config()
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_tensors(arguments.output / "model.safetensors", tensors)
    (arguments.output / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for file in TOKENIZER_FILES:
        shutil.copyfile(arguments.mxfp4 / file, arguments.output / file)


if __name__ == "__main__":
    main()
