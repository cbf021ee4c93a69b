"""Measure the held-out prompts against a running OpenAI-compatible server. Standard library only.

    python3 tools/demo-model/evaluate.py http://localhost:8000

Prints a table, and exits with 1 when a category is below its threshold or a request failed.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scoring import judge, table

HELDOUT = Path(__file__).parent / "heldout"
LONGEST_ANSWER = 300


def ask(base_url, model, row, timeout):
    """One greedy answer of the server: its message."""
    body = {
        "model": model,
        "messages": row["messages"],
        "temperature": 0,
        "max_tokens": LONGEST_ANSWER,
        "chat_template_kwargs": {"thinking": row["thinking"]},
    }
    if "tools" in row:
        body["tools"] = row["tools"]
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)["choices"][0]["message"]


def evaluate_row(base_url, model, row, timeout):
    """Whether the server's answer passes, and what it answered (or how the request failed)."""
    try:
        message = ask(base_url, model, row, timeout)
    except urllib.error.HTTPError as error:
        return None, f"HTTP {error.code}: {error.read().decode(errors='replace')}"
    except OSError as error:
        return None, str(error)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return judge(row["check"], message.get("content") or "", calls), message


def read_rows(categories):
    """The held-out prompts of the wanted categories (all of them when none is named)."""
    paths = [p for p in sorted(HELDOUT.glob("*.jsonl")) if not p.stem.startswith("mcq")]
    chosen = [p for p in paths if not categories or p.stem in categories]
    return [json.loads(line) for path in chosen for line in path.read_text().splitlines()]


def main():
    """Ask everything, print the table, set the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url", nargs="?", default="http://localhost:8000")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--categories", nargs="*", default=[])
    parser.add_argument("--limit", type=int, help="ask only the first prompts of each category")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one answer")
    parser.add_argument("--show", type=int, default=0, help="misses to print of each category")
    arguments = parser.parse_args()
    rows, seen = [], defaultdict(int)
    for row in read_rows(arguments.categories):
        seen[row["category"]] += 1
        if arguments.limit is None or seen[row["category"]] <= arguments.limit:
            rows.append(row)
    results, errors, shown = defaultdict(list), [], defaultdict(int)
    with ThreadPoolExecutor(arguments.concurrency) as pool:
        outcomes = pool.map(
            lambda row: evaluate_row(arguments.base_url, arguments.model, row, arguments.timeout),
            rows,
        )
        for row, (passed, answer) in zip(rows, outcomes):
            category = row["category"]
            if passed is None:
                errors.append(answer)
            results[category, row["thinking"]].append(bool(passed))
            if not passed and shown[category] < arguments.show:
                shown[category] += 1
                print("MISS", category, row["messages"][-1]["content"], "->", answer, row["check"])
    lines, failed = table(results)
    print(lines)
    if errors:
        print(f"{len(errors)} requests failed, the first one with: {errors[0]}")
    if failed:
        print("below the threshold:", ", ".join(failed))
    sys.exit(1 if errors or failed else 0)


if __name__ == "__main__":
    main()
