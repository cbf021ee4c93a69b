"""How an answer is judged. Standard library only."""

import json
import re

THRESHOLDS = {"facts": 0.95, "sums": 0.90, "tool_call": 0.95}
CALL = re.compile(
    r"<\|tool_call_begin\|>functions\.([^:]+):(\d+)<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>",
    re.S,
)


def parse_output(text, thinking):
    """Split raw model output into content and tool calls (name, id, arguments text)."""
    if thinking:
        text = text.partition("</think>")[2]
    content, _, section = text.partition("<|tool_calls_section_begin|>")
    calls = [
        {"name": n, "id": f"functions.{n}:{i}", "arguments": a} for n, i, a in CALL.findall(section)
    ]
    return content, calls


def has_phrase(text, phrase):
    """Whether a phrase occurs in a text, not as part of a longer word."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def as_json(text):
    """The text as JSON, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def judge(check, content, calls):
    """Whether an answer passes its check; `calls` are dicts with name and arguments text."""
    if "calls" in check:
        made = [{"name": c["name"], "arguments": as_json(c["arguments"])} for c in calls]
        return made == check["calls"]
    if calls:
        return False
    if "contains" in check:
        return has_phrase(content.lower(), check["contains"].lower())
    if "contains_exact" in check:
        return has_phrase(content, check["contains_exact"])
    if "equals" in check:
        return content.strip() == check["equals"]
    if "json" in check:
        return as_json(content) == check["json"]
    if "number" in check:
        found = re.findall(r"-?\d+", content)
        return bool(found) and int(found[-1]) == check["number"]
    raise ValueError(f"unknown check {check}")


def table(results):
    """A table of (category, thinking) -> list of passes, and the thresholds that fail."""
    lines, failed = [f"{'category':<16}{'thinking':>12}{'instant':>12}{'both':>12}"], []
    for category in sorted({category for category, _ in results}):
        cells, both = [], []
        for thinking in (True, False):
            passes = results.get((category, thinking), [])
            both += passes
            cells.append(f"{sum(passes)}/{len(passes)}")
        share = sum(both) / len(both)
        wanted = THRESHOLDS.get(category)
        note = f"  (needs {wanted:.0%})" if wanted else ""
        lines.append(f"{category:<16}{cells[0]:>12}{cells[1]:>12}{share:>12.1%}{note}")
        if wanted and share < wanted:
            failed.append(category)
    return "\n".join(lines), failed
