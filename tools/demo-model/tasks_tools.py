"""Conversations with tools: calls, results, parallel calls, no call, several turns."""

import json

import words
from natural_tools import NATURAL
from samples import Sample, assistant, call, user
from smalltalk import smalltalk
from tasks_chat import memory
from tasks_facts import facts
from tasks_sums import sums
from tool_specs import choose_arguments, make_tool, phrase_action, phrase_request, readable, spoken


def dumps(value):
    """JSON as the model writes it."""
    return json.dumps(value, ensure_ascii=False)


def thought(tool, arguments):
    """The short reasoning before a call."""
    values = ", ".join(f"{k} = {spoken(v)}" for k, v in arguments.items())
    return f"Call {tool.name}: {values}." if values else f"Call {tool.name}."


def tool_set(rng, held_out, wanted):
    """The wanted tools among random others, shuffled."""
    tools = list(wanted)
    for _ in range(rng.choices((0, 1, 2, 3, 5, 7), (25, 22, 20, 15, 10, 8))[0]):
        tools.append(make_tool(rng, held_out, tools))
    rng.shuffle(tools)
    return [tool.definition() for tool in tools]


def request(rng, held_out, natural=None):
    """A tool, the user's sentence and the arguments it must lead to."""
    if natural if natural is not None else rng.random() < 0.3:
        return rng.choice(NATURAL)(rng, held_out)
    tool = make_tool(rng, held_out)
    arguments = choose_arguments(rng, tool, held_out)
    return tool, phrase_request(rng, [phrase_action(rng, tool, arguments)], held_out), arguments


def expected(pairs):
    """The check of a list of (tool, arguments)."""
    return {"calls": [{"name": tool.name, "arguments": arguments} for tool, arguments in pairs]}


def calls_of(pairs, start=0):
    """Tool calls with conversation-global counters from `start`."""
    return [
        call(tool.name, start + i, dumps(arguments)) for i, (tool, arguments) in enumerate(pairs)
    ]


def single_call(rng, held_out):
    """One request, one call."""
    tool, question, arguments = request(rng, held_out)
    return Sample(
        "tool_call",
        [user(question)],
        "",
        thought(tool, arguments),
        tool_set(rng, held_out, [tool]),
        calls_of([(tool, arguments)]),
        expected([(tool, arguments)]),
    )


def parallel_request(rng, held_out):
    """A sentence that needs two calls: one tool twice, or two tools."""
    if rng.random() < 0.25:
        tool, question, arguments = NATURAL[0](rng, held_out)
        place = tool.parameters[0].name
        other = words.any_city(rng, held_out)
        text = rng.choice((" and in ", " and ")).join((arguments[place], other))
        pairs = [(tool, {place: arguments[place]}), (tool, {place: other})]
        return [tool], f"What is the weather in {text}?", pairs
    first = make_tool(rng, held_out)
    if rng.random() < 0.4 and any(p.kind == "string" for p in first.parameters):
        arguments = [choose_arguments(rng, first, held_out) for _ in range(2)]
        pairs = [(first, values) for values in arguments]
    else:
        second = make_tool(rng, held_out, [first])
        pairs = [(tool, choose_arguments(rng, tool, held_out)) for tool in (first, second)]
    actions = [phrase_action(rng, tool, arguments) for tool, arguments in pairs]
    tools = list({tool.name: tool for tool, _ in pairs}.values())
    return tools, phrase_request(rng, actions, held_out), pairs


def parallel_calls(rng, held_out):
    """One request, two calls at once."""
    tools, question, pairs = parallel_request(rng, held_out)
    reasoning = " ".join(thought(tool, arguments) for tool, arguments in pairs)
    return Sample(
        "tool_parallel",
        [user(question)],
        "",
        reasoning,
        tool_set(rng, held_out, tools),
        calls_of(pairs),
        expected(pairs),
    )


def no_call(rng, held_out):
    """Tools are there, but the question needs none."""
    inner = rng.choice((facts, facts, sums, smalltalk, memory))(rng, held_out)
    tools = tool_set(rng, held_out, [make_tool(rng, held_out)])
    if rng.random() < 0.3 and inner.category == "facts":
        tools.append(NATURAL[0](rng, held_out)[0].definition())
    check = {**inner.check, "no_call": True}
    return Sample(
        "tool_none",
        inner.messages,
        inner.content,
        "No tool is needed. " + inner.reasoning,
        tools,
        check=check,
    )


def result_of(rng, held_out):
    """A tool's result and the sentence that reports it."""
    kind = rng.random()
    if kind < 0.12:
        reason = " ".join(words.distinct_words(rng, held_out, rng.choice((1, 2))))
        return dumps({"error": reason}), f"The tool failed: {reason}."
    if kind < 0.3:
        parts = words.distinct_words(rng, held_out, rng.choice((1, 2, 3, 4)))
        if rng.random() < 0.5:
            parts.insert(
                rng.randrange(len(parts) + 1),
                f"{rng.randrange(1000)}{rng.choice(('', '', ' C', '°C', '%', ' km'))}",
            )
        text = rng.choice((" ", " ", ", ")).join(parts)
        return text, f"The tool says: {text}."
    keys = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(
            (
                "temperature",
                "condition",
                "price",
                "status",
                "time",
                "id",
                "result",
                "total",
                "count",
            )
        )
        keys.append(words.any_word(rng, held_out) if rng.random() < 0.6 else name)
    values = {
        key: rng.choice(
            (
                rng.randrange(1000),
                rng.randrange(50),
                words.any_word(rng, held_out),
                words.any_city(rng, held_out),
                round(rng.uniform(0, 100), 1),
            )
        )
        for key in keys
    }
    sentence = " ".join(f"The {readable(key)} is {spoken(value)}." for key, value in values.items())
    return dumps(values), sentence


def tool_result(rng, counter, name, content):
    """A tool message, with or without the tool's name as clients do."""
    message = {"role": "tool", "tool_call_id": f"functions.{name}:{counter}", "content": content}
    if rng.random() < 0.4:
        message["name"] = name
    return message


def tool_round(rng, held_out, start):
    """A full round up to the results: tools, messages, and the answer that reports them."""
    if rng.random() < 0.75:
        tool, question, arguments = request(rng, held_out)
        tools, pairs = [tool], [(tool, arguments)]
    else:
        tools, question, pairs = parallel_request(rng, held_out)
    reasoning = " ".join(thought(tool, arguments) for tool, arguments in pairs)
    turn = {
        "role": "assistant",
        "content": "",
        "reasoning_content": reasoning,
        "tool_calls": calls_of(pairs, start),
    }
    messages, sentences = [user(question), turn], []
    for index, (tool, _) in enumerate(pairs):
        content, sentence = result_of(rng, held_out)
        messages.append(tool_result(rng, start + index, tool.name, content))
        sentences.append(sentence)
    answer = (
        sentences[0] if len(sentences) == 1 else f"First: {sentences[0]} Second: {sentences[1]}"
    )
    return tools, messages, answer, len(pairs)


def after_result(rng, held_out):
    """Report what a tool returned."""
    tools, messages, answer, _ = tool_round(rng, held_out, 0)
    return Sample(
        "tool_result",
        messages,
        answer,
        "The result is here.",
        tool_set(rng, held_out, tools),
        check={"equals": answer, "no_call": True},
    )


def several_turns(rng, held_out):
    """Rounds of calls, results and talk; ends in a call, a report or an answer without a tool."""
    tools, messages, counter = [], [], 0
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.3:
            side = rng.choice((facts, sums, smalltalk))(rng, held_out)
            messages += [side.messages[0], assistant(side.content)]
            continue
        new_tools, new_messages, answer, used = tool_round(rng, held_out, counter)
        if any(tool.name == other.name for tool in new_tools for other in tools):
            continue
        tools += new_tools
        messages += new_messages + [assistant(answer)]
        counter += used
    tool, question, arguments = request(rng, held_out)
    if any(tool.name == other.name for other in tools):
        return several_turns(rng, held_out)
    tools.append(tool)
    return Sample(
        "tool_turns",
        messages + [user(question)],
        "",
        thought(tool, arguments),
        tool_set(rng, held_out, tools),
        calls_of([(tool, arguments)], counter),
        expected([(tool, arguments)]),
    )


def with_system(rng, sample):
    """Sometimes put a system prompt in front, as agents do."""
    if rng.random() < 0.25 and sample.messages[0]["role"] != "system":
        text = rng.choice(
            (
                "You are a helpful assistant.",
                "You are a helpful assistant. Use the tools when needed.",
                "Use the tools to help the user.",
                "You can call functions.",
                "You are an agent with tools.",
            )
        )
        sample.messages.insert(0, {"role": "system", "content": text})
    return sample
