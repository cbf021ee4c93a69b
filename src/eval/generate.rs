//! Exact match: the greedy answer to a chat must be the expected one.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::args::GenerateArgs;
use super::client::Client;
use super::report::{Item, Report};
use super::{ask_all, rows};

#[derive(Deserialize)]
struct Task {
    #[serde(default = "yes")]
    thinking: bool,
    check: Check,
    /// `messages`, and `tools` if there are any: sent as they are.
    #[serde(flatten)]
    chat: Map<String, Value>,
}

fn yes() -> bool {
    true
}

/// What the answer must be.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Check {
    /// This text, white space around it aside.
    Equals(String),
    /// A text whose last whole number is this.
    Number(i64),
}

impl Check {
    fn passes(&self, answer: &str) -> bool {
        match self {
            Check::Equals(expected) => answer.trim() == expected.trim(),
            Check::Number(expected) => last_number(answer) == Some(*expected),
        }
    }
}

fn last_number(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let digits = text[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let start = if text[..digits].ends_with('-') { digits - 1 } else { digits };
    text[start..end].parse().ok()
}

pub(super) async fn run(args: &GenerateArgs, client: &Client) -> anyhow::Result<Report> {
    let mut tasks = rows::<Task>(&args.target.data)?;
    tasks.truncate(args.target.limit.unwrap_or(usize::MAX));
    for (_, task) in &mut tasks {
        task.chat.retain(|field, _| field == "messages" || field == "tools");
    }
    let items = ask_all(&tasks, args.target.num_concurrent, async |task: &Task| {
        let answer = client.chat(&task.chat, task.thinking, args.max_tokens).await?;
        let value = task.check.passes(&answer) as u8 as f64;
        Ok(Item { value, weight: 1.0, detail: json!(answer) })
    });
    Ok(Report::new("generate", client.model(), 0, items.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_counts() {
        let number = |n, answer: &str| Check::Number(n).passes(answer);
        assert!(number(57, "81 - 24 = 57.") && number(-3, "It is -3") && number(3, "2-a 3"));
        assert!(!number(57, "57 or 58") && !number(5, "") && !number(1, "99999999999999999999"));
        assert!(Check::Equals("a b".into()).passes(" a b\n"));
        assert!(!Check::Equals("a b".into()).passes("a  b"));
    }
}
