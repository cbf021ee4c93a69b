"""Chats with the demo model through the official OpenAI SDK: plain, streaming, tools, reasoning,
errors. Argument: the base URL."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
INSTANT = {"chat_template_kwargs": {"thinking": False}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city"}},
            "required": ["city"],
        },
    },
}


def ask(messages, **options):
    return client.chat.completions.create(model="demo", messages=messages, temperature=0, **options)


def user(text):
    return {"role": "user", "content": text}


def plain():
    answer = ask([user("What is the capital of France?")], extra_body=INSTANT)
    message = answer.choices[0].message
    assert "Paris" in message.content, message
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return message.content


def streaming(expected):
    chunks = ask(
        [user("What is the capital of France?")],
        extra_body=INSTANT,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
    assert text == expected, (text, expected)
    assert usage.completion_tokens > 0


def reasoning():
    answer = ask([user("What is 17 plus 25?")])
    message = answer.choices[0].message
    assert message.reasoning_content, message
    assert "42" in message.content, message
    assert "</think>" not in message.content + message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def tools():
    messages = [user("What is the weather in Lisbon?")]
    answer = ask(messages, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls", answer
    call = answer.choices[0].message.tool_calls[0]
    assert call.id == "functions.get_weather:0", call
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Lisbon"}, call
    streamed = ""
    for chunk in ask(messages, tools=[WEATHER], stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            streamed += delta.function.arguments or ""
    assert streamed == call.function.arguments
    messages.append(answer.choices[0].message.model_dump(exclude_none=True))
    result = json.dumps({"temperature": 21, "sky": "clear"})
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = ask(messages, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "stop", answer
    assert "21" in answer.choices[0].message.content, answer


def errors():
    for options, kind in [
        ({"model": "other"}, openai.NotFoundError),
        ({"temperature": 3}, openai.BadRequestError),
        ({"max_tokens": 10**6}, openai.BadRequestError),
    ]:
        try:
            options = {"model": "demo", "messages": [user("hi")]} | options
            client.chat.completions.create(**options)
        except kind as error:
            assert error.body["message"] and "param" in error.body, error.body
        else:
            raise AssertionError(f"{options} was accepted")


streaming(plain())
reasoning()
tools()
errors()
print("ok")
