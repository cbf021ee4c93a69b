"""Chats with the demo model through the official OpenAI SDK: plain, streaming, tools, reasoning,
structured output, log-probabilities, responses, errors. Argument: the base URL."""

import json
import re
import sys

import openai
import pydantic

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


def forced_tools():
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ["required", named]:
        answer = ask([user("Hello!")], tools=[WEATHER], tool_choice=choice)
        assert answer.choices[0].finish_reason == "tool_calls", answer
        for call in answer.choices[0].message.tool_calls:
            assert isinstance(json.loads(call.function.arguments)["city"], str), call
    answer = ask([user("What is the weather in Lisbon?")], tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None, answer


class Capital(pydantic.BaseModel):
    capital: str = pydantic.Field(max_length=20)
    known: bool


def structured_output():
    question = [user("What is the capital of France?")]
    answer = client.chat.completions.parse(
        model="demo", messages=question, temperature=0, response_format=Capital)
    assert isinstance(answer.choices[0].message.parsed, Capital), answer
    assert answer.choices[0].message.reasoning_content, "thinking is free"
    kind = {"type": "json_object"}
    answer = ask(question, response_format=kind, extra_body=INSTANT, max_tokens=500)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict), answer
    for field, pattern in [
        ({"guided_choice": ["Berlin", "Paris"]}, "^Paris$"),
        ({"guided_regex": "[a-z]{3,6}"}, "^[a-z]{3,6}$"),
        ({"guided_grammar": 'start: "a"~3 "b"'}, "^aaab$"),
        ({"structured_outputs": {"choice": ["x", "y"]}}, "^[xy]$"),
    ]:
        text = ask(question, extra_body=INSTANT | field).choices[0].message.content
        assert re.search(pattern, text), (field, text)
    text = client.completions.create(
        model="demo", prompt="x", extra_body={"guided_regex": "[0-9]{4}"}).choices[0].text
    assert re.search("^[0-9]{4}$", text), text
    long = ask([user("hi")], extra_body=INSTANT | {"min_tokens": 60}, max_tokens=70)
    assert long.usage.completion_tokens >= 60, long


def logprobs():
    answer = ask([user("hi")], extra_body=INSTANT | {"prompt_logprobs": 1}, logprobs=True,
                 top_logprobs=2, max_tokens=5)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens and len(tokens[0].top_logprobs) == 2
    assert len(answer.prompt_logprobs) == answer.usage.prompt_tokens


def completions():
    options = {"model": "demo", "prompt": "The capital of France is", "temperature": 0,
               "max_tokens": 6}
    scored = client.completions.create(**options, logprobs=2, echo=True)
    choice, usage = scored.choices[0], scored.usage
    assert choice.text.startswith(options["prompt"]), scored
    lists = [choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs]
    assert [len(values) for values in lists] == [usage.total_tokens] * 3, scored
    assert choice.logprobs.token_logprobs[0] is None and "".join(lists[0]) == choice.text, scored
    # What is streamed adds up to the same.
    streamed, scores = "", []
    for chunk in client.completions.create(**options, logprobs=2, echo=True, stream=True):
        streamed += chunk.choices[0].text
        if chunk.choices[0].logprobs:
            scores += chunk.choices[0].logprobs.token_logprobs
    assert (streamed, scores) == (choice.text, choice.logprobs.token_logprobs), (streamed, scored)
    ids = {"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 1, "n": 2}
    several = client.completions.create(**options | ids)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3], several


def models():
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def responses():
    off = {"effort": "none"}
    first = client.responses.create(model="demo", temperature=0, reasoning=off,
                                    input="What is the capital of France?")
    assert "Paris" in first.output_text, first
    second = client.responses.create(model="demo", temperature=0, reasoning=off,
                                     input="Thank you!", previous_response_id=first.id)
    assert second.output_text and second.usage.input_tokens > first.usage.input_tokens
    with client.responses.stream(model="demo", temperature=0, reasoning=off,
                                 input="What is the capital of France?") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert text == first.output_text == stream.get_final_response().output_text
    tool = {"type": "function", "strict": True, **WEATHER["function"]}
    called = client.responses.create(model="demo", temperature=0, reasoning=off, tools=[tool],
                                     tool_choice="required", input="Weather in Lisbon?")
    assert called.output[0].type == "function_call", called
    events = list(client.responses.create(model="demo", temperature=0, reasoning=off, tools=[tool],
                                          tool_choice="required", input="Weather in Lisbon?",
                                          stream=True))
    arguments = "".join(event.delta for event in events
                        if event.type == "response.function_call_arguments.delta")
    assert arguments == called.output[0].arguments, (events, called)
    assert events[-1].type == "response.completed", events[-1]
    parsed = client.responses.parse(model="demo", temperature=0, reasoning=off, input="Paris?",
                                    text_format=Capital)
    assert isinstance(parsed.output_parsed, Capital), parsed


def errors():
    for options, kind in [
        ({"response_format": {"type": "json_schema", "json_schema":
            {"name": "x", "schema": {"type": "objekt"}}}}, openai.BadRequestError),
        ({"tool_choice": "required"}, openai.BadRequestError),
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
    for wrong, kind in [
        (lambda: client.models.retrieve("other"), openai.NotFoundError),
        (lambda: client.completions.create(model="demo", prompt=[-1]), openai.BadRequestError),
        (lambda: client.responses.create(model="demo", input="x", previous_response_id="resp_x"),
         openai.BadRequestError),
        # The whole stream fails, before its first chunk.
        (lambda: ask([user("hi")], stream=True, max_tokens=10**6), openai.BadRequestError),
    ]:
        try:
            wrong()
        except kind as error:
            assert error.request_id and error.body["message"], error
        else:
            raise AssertionError("a bad request was accepted")


streaming(plain())
reasoning()
tools()
forced_tools()
structured_output()
logprobs()
completions()
models()
responses()
errors()
print("ok")
