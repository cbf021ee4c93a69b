"""Talks to the demo model through the official Anthropic SDK: plain, streaming, tools, thinking,
errors. Argument: the base URL, with /v1."""

import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1].removesuffix("/v1"), api_key="none")
# The SDK has no argument for it.
GREEDY = {"temperature": 0}
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Name of the city"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def ask(text, **options):
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    options = {"model": "demo", "max_tokens": 400, "messages": messages} | options
    return client.messages.create(**options, extra_body=GREEDY)


def plain_and_streamed():
    question = "What is the capital of France?"
    answer = ask(question)
    assert "Paris" in answer.content[0].text and answer.stop_reason == "end_turn", answer
    with client.messages.stream(model="demo", max_tokens=400, extra_body=GREEDY,
                                messages=[{"role": "user", "content": question}]) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answer.content[0].text == final.content[0].text, (text, answer)
    counted = client.messages.count_tokens(
        model="demo", messages=[{"role": "user", "content": question}])
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, usage


def tools():
    question = {"role": "user", "content": "What is the weather in Lisbon?"}
    answer = ask([question], tools=[WEATHER])
    assert answer.stop_reason == "tool_use", answer
    call = next(block for block in answer.content if block.type == "tool_use")
    assert (call.name, call.input) == ("get_weather", {"city": "Lisbon"}), call
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 21}'}
    answer = ask([question, {"role": "assistant", "content": answer.content},
                  {"role": "user", "content": [result]}], tools=[WEATHER])
    assert "21" in answer.content[0].text, answer
    options = {"model": "demo", "max_tokens": 400, "messages": [question], "tools": [WEATHER]}
    with client.messages.stream(**options, extra_body=GREEDY) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    streamed = next(block for block in final.content if block.type == "tool_use")
    assert (streamed.id, streamed.input) == (call.id, call.input) and len(parts) > 1, final
    for choice in [{"type": "any"}, {"type": "tool", "name": "get_weather"}]:
        choice["disable_parallel_tool_use"] = True
        answer = ask("Hello!", tools=[WEATHER], tool_choice=choice)
        assert [block.type for block in answer.content] == ["tool_use"], answer
        assert isinstance(answer.content[0].input["city"], str)


def thinking():
    question = "What is 17 plus 25?"
    answer = ask(question, max_tokens=1200, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block.type for block in answer.content] == ["thinking", "text"], answer
    assert "42" in answer.content[1].text, answer
    with client.messages.stream(model="demo", max_tokens=1200, extra_body=GREEDY,
                                messages=[{"role": "user", "content": question}],
                                thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
        thought = "".join(event.thinking for event in stream if event.type == "thinking")
        final = stream.get_final_message()
    assert thought == final.content[0].thinking == answer.content[0].thinking, (thought, answer)
    assert final.content[1].text == answer.content[1].text, final
    short = ask(question, thinking={"type": "enabled", "budget_tokens": 3})
    assert len(short.content[0].thinking.split()) <= 3 and short.content[-1].type == "text", short


def errors():
    for options, kind in [
        ({"model": "other"}, anthropic.NotFoundError),
        ({"stop_sequences": [""]}, anthropic.BadRequestError),
        ({"max_tokens": 20_000}, anthropic.BadRequestError),
        ({"thinking": {"type": "enabled", "budget_tokens": 9999}}, anthropic.BadRequestError),
        ({"tools": [{"name": "x", "input_schema": {"type": "objekt"}}]},
         anthropic.BadRequestError),
    ]:
        try:
            ask("hi", **options)
        except kind as error:
            assert error.body["type"] == "error" and error.body["error"]["message"], error.body
        else:
            raise AssertionError(f"{options} was accepted")


plain_and_streamed()
tools()
thinking()
errors()
print("ok")
