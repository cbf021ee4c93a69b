"""What a guarded server that is full says through the official SDKs. Argument: the base URL of one
with the key "secret" that runs one sequence and lets one wait."""

import asyncio
import sys

import anthropic
import openai


def keys():
    try:
        openai.OpenAI(base_url=sys.argv[1], api_key="wrong").models.list()
        raise AssertionError("a wrong key was taken")
    except openai.AuthenticationError as error:
        assert error.body["code"] == "invalid_api_key", error.body
    url = sys.argv[1].removesuffix("/v1")
    messages = {"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    try:
        anthropic.Anthropic(base_url=url, api_key="wrong").messages.create(**messages)
        raise AssertionError("a wrong key was taken")
    except anthropic.AuthenticationError as error:
        assert error.body["error"]["type"] == "authentication_error", error.body
    assert anthropic.Anthropic(base_url=url, api_key="secret").messages.create(**messages).content


async def queue():
    client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="secret", max_retries=0)
    ask = client.completions.create
    asked = [ask(model="demo", prompt="x", max_tokens=200, extra_body={"ignore_eos": True})
             for _ in range(16)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert refused and len(refused) < 16, answers
    for error in refused:
        assert isinstance(error, openai.RateLimitError), error
        assert int(error.response.headers["retry-after"]) >= 1 and error.code == "queue_full", error
    # The SDK's own retries get through.
    patient = client.with_options(max_retries=20).completions.create
    asked = [patient(model="demo", prompt="x", max_tokens=20) for _ in range(6)]
    assert all(answer.choices for answer in await asyncio.gather(*asked))


keys()
asyncio.run(queue())
