"""The OpenAI SDK over TLS. Arguments: the base URL, and the file of the certificate to trust."""

import ssl
import sys

import openai


def client(context):
    return openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0,
                         http_client=openai.DefaultHttpxClient(verify=context))


messages = [{"role": "user", "content": "What is the capital of France?"}]
trusting = client(ssl.create_default_context(cafile=sys.argv[2]))
whole = trusting.chat.completions.create(model="demo", messages=messages, temperature=0,
                                         max_tokens=8)
stream = trusting.chat.completions.create(model="demo", messages=messages, temperature=0,
                                          max_tokens=8, stream=True)
parts = [chunk.choices[0].delta for chunk in stream if chunk.choices]
text = "".join((delta.content or "") + (getattr(delta, "reasoning_content", None) or "")
               for delta in parts)
message = whole.choices[0].message
assert text and text == (getattr(message, "reasoning_content", None) or "") + (message.content or "")

try:
    client(ssl.create_default_context()).models.list()
    raise AssertionError("an unknown certificate was trusted")
except openai.APIConnectionError as error:
    assert "CERTIFICATE_VERIFY_FAILED" in repr(error.__cause__), repr(error.__cause__)
