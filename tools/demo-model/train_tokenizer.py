"""Train the demo model's byte-pair tokenizer on its own synthetic text.

Pieces come from Kimi's pattern; pieces with digits are left out, so digits stay single tokens.
Writes tiktoken.model (base64 token, space, rank), tokenizer_config.json and generation_config.json.
"""

import argparse
import base64
import json
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import regex

from kimi_format import NUM_SPECIAL, PATTERN, SPECIAL_OFFSETS, render_prompt
from mixture import draw
from samples import RawText, completion_text

SURVIVE_SKIPPING = ("<think>", "</think>")
VOCABULARY = 2048


def corpus_pieces(samples, seed):
    """Count the pattern's pieces in random samples, markup and digits left out."""
    rng = random.Random(seed)
    pieces = Counter()
    for _ in range(samples):
        sample = draw(rng)
        if isinstance(sample, RawText):
            text = "".join(text for text, _ in sample.pieces)
        else:
            text = render_prompt(sample.messages, sample.tools, sample.thinking) + completion_text(
                sample
            )
        for segment in regex.split("|".join(map(regex.escape, SPECIAL_OFFSETS)), text):
            pieces.update(regex.findall(PATTERN, segment))
    return Counter(
        {p: n for p, n in pieces.items() if len(p) > 1 and not regex.search(r"\p{N}", p)}
    )


def train(pieces, vocabulary):
    """Byte-pair merges in order of frequency; returns the tokens by rank."""
    tokens = [bytes([byte]) for byte in range(256)]
    sequences = [([bytes([b]) for b in piece.encode()], count) for piece, count in pieces.items()]
    counts, places = Counter(), defaultdict(set)
    for index, (sequence, count) in enumerate(sequences):
        for pair in zip(sequence, sequence[1:]):
            counts[pair] += count
            places[pair].add(index)
    while len(tokens) < vocabulary:
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merged = best[0] + best[1]
        tokens.append(merged)
        for index in list(places[best]):
            sequence, count = sequences[index]
            for pair in zip(sequence, sequence[1:]):
                counts[pair] -= count
                places[pair].discard(index)
            sequence[:] = merge(sequence, best, merged)
            for pair in zip(sequence, sequence[1:]):
                counts[pair] += count
                places[pair].add(index)
        del counts[best]
    return tokens


def merge(sequence, pair, merged):
    """The sequence with every occurrence of a pair replaced, left to right."""
    out, index = [], 0
    while index < len(sequence):
        if tuple(sequence[index : index + 2]) == pair:
            out.append(merged)
            index += 2
        else:
            out.append(sequence[index])
            index += 1
    return out


def tokenizer_config(base):
    """Kimi's tokenizer_config.json with the special ids moved right behind this vocabulary."""
    entries = {}
    for name, offset in SPECIAL_OFFSETS.items():
        special = "tool_call" not in name and name not in SURVIVE_SKIPPING
        entries[str(base + offset)] = {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": special,
        }
    additional = [
        name
        for name in SPECIAL_OFFSETS
        if entries[str(base + SPECIAL_OFFSETS[name])]["special"]
        and name not in ("[BOS]", "[EOS]", "[UNK]", "[PAD]")
    ]
    return {
        "added_tokens_decoder": entries,
        "additional_special_tokens": additional,
        "bos_token": "[BOS]",
        "clean_up_tokenization_spaces": False,
        "eos_token": "[EOS]",
        "extra_special_tokens": {},
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "[PAD]",
        "tokenizer_class": "TikTokenTokenizer",
        "unk_token": "[UNK]",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    }


def main():
    """Train and write the tokenizer files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--template", type=Path, help="Kimi's chat_template.jinja, copied as it is")
    parser.add_argument("--samples", type=int, default=60000)
    arguments = parser.parse_args()
    arguments.model_dir.mkdir(parents=True, exist_ok=True)
    tokens = train(corpus_pieces(arguments.samples, seed=7), VOCABULARY)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (arguments.model_dir / "tiktoken.model").write_text("".join(lines))
    config = tokenizer_config(len(tokens))
    (arguments.model_dir / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"max_length": 8192, "eos_token_id": len(tokens) + SPECIAL_OFFSETS["<|im_end|>"]}
    (arguments.model_dir / "generation_config.json").write_text(
        json.dumps(generation, indent=2) + "\n"
    )
    if arguments.template:
        shutil.copyfile(arguments.template, arguments.model_dir / "chat_template.jinja")
    print(f"{len(tokens)} tokens and {NUM_SPECIAL} special ids")


if __name__ == "__main__":
    main()
