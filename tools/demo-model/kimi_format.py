"""Kimi-K2.6's chat format: tool declarations as TypeScript, chat rendering, tokenization."""

import base64
import json
from pathlib import Path

PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*"
        r"(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+"
        r"(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
NUM_SPECIAL = 256
SPECIAL_OFFSETS = {
    "[BOS]": 0,
    "[EOS]": 1,
    "<|im_end|>": 2,
    "<|im_user|>": 3,
    "<|im_assistant|>": 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "[EOT]": 9,
    "<|im_system|>": 10,
    "<|tool_calls_section_begin|>": 11,
    "<|tool_calls_section_end|>": 12,
    "<|tool_call_begin|>": 13,
    "<|tool_call_argument_begin|>": 14,
    "<|tool_call_end|>": 15,
    "<|im_middle|>": 17,
    "<|media_begin|>": 18,
    "<|media_content|>": 19,
    "<|media_end|>": 20,
    "<|media_pad|>": 21,
    "<think>": 22,
    "</think>": 23,
    "[UNK]": 254,
    "[PAD]": 255,
}
CONSTRAINTS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}


def _comments(schema, kind, indent):
    """Comment lines above a parameter: description, constraints, default."""
    lines = [schema["description"]] if schema.get("description") else []
    lines = [line for text in lines for line in text.split("\n")]
    found = [f"{key}: {schema[key]}" for key in CONSTRAINTS.get(kind, ()) if key in schema]
    if found:
        lines.append(", ".join(found))
    default = schema.get("default")
    if default is not None:
        text = (
            str(default)
            if default is True or default is False
            else json.dumps(default, ensure_ascii=False)
        )
        lines.append(f"Default: {text}")
    return "".join(f"{indent}// {line}\n" for line in lines)


def _type_text(schema, indent):
    """The TypeScript type of a schema: enums, scalars, arrays and plain objects."""
    kind = schema.get("type")
    if "enum" in schema:
        return " | ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in schema["enum"])
    if kind == "object":
        return _object_text(schema, indent)
    if kind == "array":
        items = schema.get("items")
        if items is None:
            return "Array<any>"
        documented = {k: v for k, v in items.items() if k != "default"}
        notes = _comments(documented, _kind(items), indent + "  ")
        inner = _type_text(items, indent + "  " if notes else indent)
        return f"Array<\n{notes}{indent}  {inner}\n{indent}>" if notes else f"Array<{inner}>"
    if kind in ("string", "boolean", "null", "number", "integer"):
        return "number" if kind == "integer" else kind
    raise ValueError(f"schema outside this generator's subset: {schema}")


def _kind(schema):
    """The schema's type, with integers counted as numbers."""
    return "number" if schema.get("type") == "integer" else schema.get("type")


def _object_text(schema, indent):
    """An object type; required parameters first, each half sorted by name."""
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    extra = schema.get("additionalProperties")
    if not properties and extra is None:
        return "{}"
    inner = indent + "  "
    fields = []
    for name in sorted(properties, key=lambda key: (key not in required, key)):
        value = properties[name]
        mark = "" if name in required else "?"
        notes = _comments(value, _kind(value), inner)
        fields.append(f"{notes}{inner}{name}{mark}: {_type_text(value, inner)}")
    if extra is not None:
        fields.append(f"{inner}[k: string]: {'any' if extra else 'never'}")
    return "{\n" + ",\n".join(fields) + f"\n{indent}}}"


def declare_tools(tools):
    """Render OpenAI tool definitions as Kimi's TypeScript declaration."""
    functions = []
    for tool in tools:
        function = tool["function"]
        text = function.get("description") or ""
        notes = "".join(f"// {line}\n" for line in text.split("\n")) if text else ""
        parameters = _object_text(function.get("parameters") or {}, "")
        functions.append(f"{notes}type {function['name']} = (_: {parameters}) => any;\n")
    return "# Tools\n\n## functions\nnamespace functions {\n" + "".join(functions) + "}\n"


def tool_section(calls):
    """The tool-call section of an assistant message."""
    parts = [
        f"<|tool_call_begin|>{call['id']}<|tool_call_argument_begin|>"
        f"{call['function']['arguments']}<|tool_call_end|>"
        for call in calls
    ]
    return "<|tool_calls_section_begin|>" + "".join(parts) + "<|tool_calls_section_end|>"


def render_prompt(messages, tools, thinking):
    """What chat_template.jinja renders for string contents, with a generation prompt."""
    out = []
    if tools:
        out.append(f"<|im_system|>tool_declare<|im_middle|>{declare_tools(tools)}<|im_end|>")
    final = [
        i for i, m in enumerate(messages) if m["role"] == "assistant" and not m.get("tool_calls")
    ]
    last_answer = final[-1] if final else -1
    for index, message in enumerate(messages):
        role = message["role"]
        mark = role if role in ("user", "assistant") else "system"
        out.append(f"<|im_{mark}|>{message.get('name') or role}<|im_middle|>")
        content = message.get("content") or ""
        if role == "assistant":
            keep = thinking and index > last_answer
            out.append(
                f"<think>{message.get('reasoning_content', '') if keep else ''}</think>{content}"
            )
            if message.get("tool_calls"):
                out.append(tool_section(message["tool_calls"]))
        elif role == "tool":
            out.append(f"## Return of {message['tool_call_id']}\n{content}")
        else:
            out.append(content)
        out.append("<|im_end|>")
    out.append(
        "<|im_assistant|>assistant<|im_middle|>" + ("<think>" if thinking else "<think></think>")
    )
    return "".join(out)


def load_tokenizer(model_dir):
    """A tiktoken Encoding of `tiktoken.model` with Kimi's special tokens behind it."""
    import tiktoken

    ranks = {}
    for line in (Path(model_dir) / "tiktoken.model").read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    base = len(ranks)
    special = {name: base + offset for name, offset in SPECIAL_OFFSETS.items()}
    return tiktoken.Encoding("demo", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
