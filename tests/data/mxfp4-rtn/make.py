"""Golden vectors of MXFP4 round-to-nearest, from exact rational arithmetic (standard library only).

blocks.txt: a line a block: 32 float32 (8 hex digits each), then for the rules even, floor and ceil
the E8M0 byte and 16 packed bytes. sources.json: one small weight in each input format with the
bytes it must become under the rule even. `python3 make.py` writes both again, identically.

The rules, for a block whose largest magnitude is m * 2^k with 1 <= m < 2: the scale is 2^e with
even: e = k-2, or k-1 from m = 1.75 on; floor: e = k-2; ceil: e = k-2 if m = 1, else k-1; e is held
within -127..127, and is -127 for a block of zeros. An element is the E2M1 value nearest to x / 2^e,
of two equally near ones the one with the even code; magnitudes beyond 6 become 6; zero has no sign.
"""

import json
import random
import struct
from fractions import Fraction
from pathlib import Path

HERE = Path(__file__).parent
VALUES = [Fraction(v) for v in ("0", "1/2", "1", "3/2", "2", "3", "4", "6")]
FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def float32(value):
    """The nearest finite float32, as a Python float."""
    held = max(-FLOAT32_MAX, min(FLOAT32_MAX, value))
    return struct.unpack("<f", struct.pack("<f", held))[0]


def from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def to_bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def bfloat16(value):
    """A float32 rounded to bfloat16, ties to even, by looking at both neighbours."""
    low = from_bits(to_bits(value) & 0xFFFF0000)
    high_bits = (to_bits(value) & 0xFFFF0000) + 0x10000
    if low == value:
        return low
    high = from_bits(high_bits)
    below, above = abs(Fraction(value) - Fraction(low)), abs(Fraction(high) - Fraction(value))
    if below != above:
        return low if below < above else high
    return low if (to_bits(low) >> 16) % 2 == 0 else high


def power(exponent):
    return Fraction(2) ** exponent


def scale_exponent(largest, rule):
    """The exponent e of the block's scale."""
    if largest == 0:
        return -127
    k = largest.numerator.bit_length() - largest.denominator.bit_length()
    k = k if power(k) <= largest else k - 1
    mantissa = largest / power(k)
    assert 1 <= mantissa < 2
    up = {"even": mantissa >= Fraction(7, 4), "floor": False, "ceil": mantissa > 1}[rule]
    return max(-127, min(127, k - 1 if up else k - 2))


def code(value, scale):
    """The E2M1 code of value / scale."""
    magnitude = min(abs(value) / scale, VALUES[-1])
    best = min(range(8), key=lambda c: (abs(VALUES[c] - magnitude), c % 2))
    return best | 8 if value < 0 and best else best


def quantize(block, rule):
    """The E8M0 byte and the 16 packed bytes of 32 floats."""
    exact = [Fraction(x) for x in block]
    exponent = scale_exponent(max(abs(x) for x in exact), rule)
    codes = [code(x, power(exponent)) for x in exact]
    return exponent + 127, bytes(codes[i] | codes[i + 1] << 4 for i in range(0, 32, 2))


def blocks(rng):
    """Blocks of every kind that goes wrong somewhere."""
    yield [0.0] * 32
    yield [-0.0] * 32
    for exponent in (-149, -140, -130, -127, -126, -125, -60, -6, 0, 3, 100, 120, 126, 127):
        unit = 2.0**exponent
        for _ in range(3):
            yield [float32(rng.gauss(0, 1) * unit) for _ in range(32)]
        yield [bfloat16(float32(rng.uniform(-1, 1) * unit)) for _ in range(32)]
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    for exponent in (-126, -20, 0, 1, 100):
        for top in (4.0, 6.0, 6.5, 7.0, 7.5, 4.5):
            points = [s * t * 2.0**exponent for t in ties for s in (1, -1)]
            near = [from_bits(to_bits(p) + d) for p in points[:9] for d in (1, -1)]
            block = [top * 2.0**exponent] + points + near
            yield (block + [0.0] * 32)[:32]
    for mantissa in (1.0, 1.5, 1.75, 1.25, 1.0 + 2**-23, 2 - 2**-23):
        for exponent in (-127, -126, -125, -124, 0, 7, 126, 127):
            bits = to_bits(mantissa * 2.0**exponent)
            for neighbour in (bits - 1, bits, bits + 1):
                top = from_bits(neighbour)
                if 0 < top <= FLOAT32_MAX:
                    yield [-top] + [float32(top * rng.random()) for _ in range(31)]
    yield [FLOAT32_MAX, -FLOAT32_MAX] * 16
    yield [from_bits(1), -from_bits(1)] * 16
    yield [from_bits(0x7FFFFF)] * 32
    yield [3.0e38, 1e-45] + [0.0] * 30


def sources(rng):
    """One weight [4, 64] in each input format, and its bytes under the rule even."""
    rows, columns = 4, 64
    plain = [bfloat16(float32(rng.gauss(0, 0.02))) for _ in range(rows * columns)]
    single = [float32(rng.gauss(0, 0.02)) for _ in range(rows * columns)]
    nibbles = [rng.randrange(16) for _ in range(rows * columns)]
    scales = [bfloat16(float32(rng.uniform(0.001, 0.01))) for _ in range(rows * columns // 32)]
    int4 = [bfloat16(float32((n - 8) * scales[i // 32])) for i, n in enumerate(nibbles)]
    float8 = [rng.choice([c for c in range(256) if c & 0x7F != 0x7F]) for _ in range(rows * columns)]
    inverse = float32(rng.uniform(0.0001, 0.001))
    block = [bfloat16(float32(float8_value(c) * inverse)) for c in float8]
    packed = bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, len(nibbles), 2))
    return {
        "rows": rows,
        "columns": columns,
        "bf16": {"weight": bf16_bytes(plain), **weight(plain)},
        "f32": {"weight": struct.pack(f"<{len(single)}f", *single).hex(), **weight(single)},
        "int4": {"weight_packed": packed.hex(), "weight_scale": bf16_bytes(scales), **weight(int4)},
        "fp8": {
            "weight": bytes(float8).hex(),
            "weight_scale_inv": struct.pack("<f", inverse).hex(),
            **weight(block),
        },
    }


def float8_value(bits):
    """The value of an E4M3 code."""
    exponent, mantissa = bits >> 3 & 15, bits & 7
    magnitude = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -magnitude if bits & 128 else magnitude


def bf16_bytes(values):
    return b"".join(struct.pack("<H", to_bits(v) >> 16) for v in values).hex()


def weight(values):
    """The packed codes and scales that a weight's values must become, and the values in BF16."""
    parts = [quantize(values[i : i + 32], "even") for i in range(0, len(values), 32)]
    return {
        "codes": b"".join(packed for _, packed in parts).hex(),
        "scales": bytes(scale for scale, _ in parts).hex(),
        "decompressed": bf16_bytes([bfloat16(v) for v in values]),
    }


def main():
    lines = []
    for block in blocks(random.Random(7)):
        cells = ["".join(f"{to_bits(x):08x}" for x in block)]
        for rule in ("even", "floor", "ceil"):
            scale, packed = quantize(block, rule)
            cells.append(f"{scale:02x}{packed.hex()}")
        lines.append(" ".join(cells))
    (HERE / "blocks.txt").write_text("\n".join(lines) + "\n")
    (HERE / "sources.json").write_text(json.dumps(sources(random.Random(8)), indent=1) + "\n")


if __name__ == "__main__":
    main()
