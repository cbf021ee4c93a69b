"""Calls of tools with random nested schemas, forced and unforced, streamed and not: every call that
is complete has the right name and id, and arguments that an independent validator accepts.
Arguments: the base URL, and how many calls. SEED=n makes one workload again."""

import asyncio
import json
import os
import random
import sys

import jsonschema
import openai

CLIENTS = 32
KINDS = ["string", "enum", "integer", "number", "boolean", "null", "array", "object", "any_of"]
WORDS = ["city", "name", "max-items", "unit", "größe", "a b", "x", "value_2", "tags", "from"]


def schema(rng, depth):
    kind = rng.choice(KINDS if depth > 0 else KINDS[:6])
    if kind == "string":
        bounded = {"type": "string", "maxLength": rng.randint(1, 12)}
        return rng.choice([bounded, bounded, {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]{1,4}$"},
                           {"type": "string", "format": "date"}])
    if kind == "enum":
        values = ["red", "dark blue", "größer \"so\"", 7, None, True, 1.5]
        return {"enum": rng.sample(values, rng.randint(1, 4))}
    if kind == "integer":
        low = rng.randint(-1000, 1000)
        return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)}
    if kind == "number":
        return {"type": "number", "minimum": -5, "exclusiveMaximum": rng.choice([0.5, 17, 1000])}
    if kind == "array":
        low = rng.randint(0, 2)
        bounds = {"minItems": low, "maxItems": low + rng.randint(0, 2)}
        return {"type": "array", "items": schema(rng, depth - 1)} | bounds
    if kind == "object":
        return object_schema(rng, depth - 1)
    if kind == "any_of":
        return {"anyOf": [schema(rng, depth - 1), {"type": "null"}]}
    return {"type": kind}


def object_schema(rng, depth):
    names = rng.sample(WORDS, rng.randint(1, 4))
    found = {"type": "object", "properties": {name: schema(rng, depth) for name in names}}
    found["required"] = [name for name in names if rng.random() < 0.7]
    found["additionalProperties"] = False
    return found


def tool(rng, name):
    parameters = object_schema(rng, 2)
    if rng.random() < 0.2:
        parameters["$defs"] = {"d": schema(rng, 1)}
        parameters["properties"]["ref"] = {"$ref": "#/$defs/d"}
        parameters["required"].append("ref")
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


async def collected(stream):
    """A stream's calls, as a whole answer has them, and its end."""
    calls, reason = [], None
    async for chunk in stream:
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        for delta in choice.delta.tool_calls or []:
            if delta.id:
                assert delta.index == len(calls), delta
                calls.append([delta.id, delta.function.name, ""])
            calls[delta.index][2] += delta.function.arguments or ""
    return calls, reason


async def ask(client, number, seed):
    rng = random.Random(f"{seed} {number}")
    names = rng.sample(["get_weather", "set-alarm", "db.query_2", "f"], rng.randint(1, 2))
    tools = [tool(rng, name) for name in names]
    forced = {"type": "function", "function": {"name": rng.choice(names)}}
    choice = rng.choice(["required", "required", forced, "auto"])
    options = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Call {names[0]} now, number {number}."}],
        "tools": tools,
        "tool_choice": choice,
        "temperature": rng.choice([0, 0.7, 1.0]),
        "seed": number,
        "max_tokens": 200,
        "parallel_tool_calls": rng.random() < 0.2,
        "extra_body": {"chat_template_kwargs": {"thinking": rng.random() < 0.15}},
    }
    if rng.random() < 0.5:
        calls, reason = await collected(
            await client.chat.completions.create(**options, stream=True))
    else:
        answer = (await client.chat.completions.create(**options)).choices[0]
        reason = answer.finish_reason
        calls = [[call.id, call.function.name, call.function.arguments]
                 for call in answer.message.tool_calls or []]
    complete = calls[:-1] if reason == "length" else calls
    for index, (name_id, name, arguments) in enumerate(complete):
        assert name_id == f"functions.{name}:{index}", (name_id, name)
        assert choice in ("required", "auto") or choice["function"]["name"] == name, (choice, name)
        parameters = next(t for t in tools if t["function"]["name"] == name)["function"]["parameters"]
        try:
            jsonschema.validate(json.loads(arguments), parameters,
                                format_checker=jsonschema.FormatChecker())
        except ValueError as error:
            raise AssertionError(f"{arguments!r} is not JSON") from error
    if reason != "length":
        assert choice == "auto" or calls, (number, reason)
        assert options["parallel_tool_calls"] or len(calls) <= 1, calls
    return len(complete), reason == "length"


async def main():
    client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="none", timeout=300, max_retries=0)
    wanted = int(sys.argv[2])
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print(f"again: SEED={seed}")
    checked = cut = asked = 0
    while checked < wanted:
        batch = (ask(client, number, seed) for number in range(asked, asked + CLIENTS))
        for complete, was_cut in await asyncio.gather(*batch):
            checked, cut = checked + complete, cut + was_cut
        asked += CLIENTS
        assert asked < 4 * wanted + 100, f"{checked} calls in {asked} answers"
    print(f"{checked} calls valid in {asked} answers, of which {cut} were cut by max_tokens")


asyncio.run(main())
