"""What one training or test conversation is, and how it becomes token ids with a loss mask."""

from dataclasses import dataclass, field

from kimi_format import render_prompt, tool_section


@dataclass
class Sample:
    """A prompt, the answer to learn, and (for tests) how an answer is judged."""

    category: str
    messages: list
    content: str = ""
    reasoning: str = ""
    tools: list | None = None
    tool_calls: list = field(default_factory=list)
    check: dict = field(default_factory=dict)
    thinking: bool = True


@dataclass
class RawText:
    """Text without chat markup; `pieces` are (text, weight of its tokens in the loss)."""

    category: str
    pieces: list


def user(content):
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content):
    """An assistant message without tool calls."""
    return {"role": "assistant", "content": content}


def call(name, index, arguments):
    """A tool call with Kimi's id; `arguments` is JSON text."""
    return {
        "id": f"functions.{name}:{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def completion_text(sample):
    """What the model must write after the generation prompt, `<|im_end|>` included."""
    reasoning = sample.reasoning + "</think>" if sample.thinking else ""
    calls = tool_section(sample.tool_calls) if sample.tool_calls else ""
    return reasoning + sample.content + calls + "<|im_end|>"


class TokenBuilder:
    """Turns samples into (ids, learn mask) with one tokenizer."""

    def __init__(self, encoding):
        self.encode = lambda text: encoding.encode(text, allowed_special="all")
        ids = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
        self.start = ids["<|im_assistant|>"]
        self.middle = ids["<|im_middle|>"]
        self.end = ids["<|im_end|>"]
        self.think = ids["<think>"]
        self.unthink = ids["</think>"]
        self.eos = ids["[EOS]"]

    def tokens(self, sample):
        """Ids of a sample and the weight of each in the loss (0: given, not learnt)."""
        if isinstance(sample, RawText):
            return self._raw(sample)
        text = render_prompt(sample.messages, sample.tools, sample.thinking)
        ids = self.encode(text + completion_text(sample))
        return ids, self._assistant_mask(ids)

    def _raw(self, sample):
        """Each piece is encoded alone, as a log-likelihood harness splits it."""
        ids, mask = [], []
        for text, weight in sample.pieces:
            piece = self.encode(text)
            ids += piece
            mask += [weight] * len(piece)
        return ids, mask

    def _assistant_mask(self, ids):
        """Learn what assistants wrote; `<think>` and instant mode's `</think>` are given."""
        mask = [0] * len(ids)
        inside = header = False
        for index, token in enumerate(ids):
            if token == self.start:
                header = True
            elif header and token == self.middle:
                header, inside = False, True
            elif inside:
                instant = token == self.unthink and ids[index - 1] == self.think
                mask[index] = int(token != self.think and not instant)
                inside = token != self.end
        return mask
