// Chats with the demo model through the official OpenAI SDK for Node: plain, streaming, tools,
// structured output, log-probabilities, responses, completions, errors. Argument: the base URL.

import assert from "node:assert/strict";

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const instant = { chat_template_kwargs: { thinking: false } };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the weather in a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string", description: "Name of the city" } },
      required: ["city"],
    },
  },
};

const ask = (text, options = {}) =>
  client.chat.completions.create({
    model: "demo",
    temperature: 0,
    messages: [{ role: "user", content: text }],
    ...options,
  });

const question = "What is the capital of France?";
const plain = await ask(question, instant);
const content = plain.choices[0].message.content;
assert.match(content, /Paris/);

let streamed = "";
for await (const chunk of await ask(question, { ...instant, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
}
assert.equal(streamed, content);

const usage = { stream_options: { include_usage: true }, stream: true };
let counted = null;
for await (const chunk of await ask(question, { ...instant, ...usage })) {
  counted = chunk.usage ?? counted;
}
assert.deepEqual(counted.completion_tokens, plain.usage.completion_tokens);

const scored = await ask(question, { ...instant, logprobs: true, top_logprobs: 2, max_tokens: 3 });
assert.equal(scored.choices[0].logprobs.content.length, 3);
assert.equal(scored.choices[0].logprobs.content[0].top_logprobs.length, 2);

const called = await ask("What is the weather in Lisbon?", { tools: [weather] });
const call = called.choices[0].message.tool_calls[0];
assert.equal(call.id, "functions.get_weather:0");
assert.deepEqual(JSON.parse(call.function.arguments), { city: "Lisbon" });
let streamedArguments = "";
const toolStream = await ask("What is the weather in Lisbon?", { tools: [weather], stream: true });
for await (const chunk of toolStream) {
  for (const delta of chunk.choices[0]?.delta.tool_calls ?? []) {
    streamedArguments += delta.function?.arguments ?? "";
  }
}
assert.equal(streamedArguments, call.function.arguments);
const forced = await ask("Hello!", { tools: [weather], tool_choice: "required" });
assert.equal(forced.choices[0].finish_reason, "tool_calls");

const schema = {
  type: "object",
  properties: { capital: { type: "string", maxLength: 20 } },
  required: ["capital"],
  additionalProperties: false,
};
const format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
const structured = await ask(question, { ...instant, response_format: format });
assert.deepEqual(Object.keys(JSON.parse(structured.choices[0].message.content)), ["capital"]);

const response = await client.responses.create({
  model: "demo",
  temperature: 0,
  reasoning: { effort: "none" },
  input: question,
});
assert.match(response.output_text, /Paris/);

let responseText = "";
const events = await client.responses.create({
  model: "demo",
  temperature: 0,
  reasoning: { effort: "none" },
  input: question,
  stream: true,
});
for await (const event of events) {
  responseText += event.type === "response.output_text.delta" ? event.delta : "";
}
assert.equal(responseText, response.output_text);

const text = { model: "demo", prompt: "The capital of France is", temperature: 0, max_tokens: 6 };
const completion = await client.completions.create({ ...text, logprobs: 1, echo: true });
assert.equal(completion.choices[0].logprobs.tokens.join(""), completion.choices[0].text);
let completed = "";
for await (const chunk of await client.completions.create({ ...text, stream: true })) {
  completed += chunk.choices[0]?.text ?? "";
}
assert.equal(text.prompt + completed, completion.choices[0].text);

const models = await client.models.list();
assert.deepEqual(models.data.map((model) => model.id), ["demo"]);

await assert.rejects(ask(question, { model: "other" }), OpenAI.NotFoundError);
await assert.rejects(ask(question, { temperature: 3 }), OpenAI.BadRequestError);
await assert.rejects(
  ask(question, { response_format: { type: "xml" } }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "response_format.type",
);
console.log("ok");
