//! Perplexity: how likely texts are, token by token.

use serde::Deserialize;
use serde_json::json;

use super::args::PerplexityArgs;
use super::client::Client;
use super::report::{Item, Report};
use super::{ask_all, rows};

#[derive(Deserialize)]
struct Document {
    text: String,
}

pub(super) async fn run(args: &PerplexityArgs, client: &Client) -> anyhow::Result<Report> {
    let mut documents = rows::<Document>(&args.target.data)?;
    documents.truncate(args.target.limit.unwrap_or(usize::MAX));
    let items = ask_all(&documents, args.target.num_concurrent, |document| {
        ask(client, &document.text, args.max_length)
    });
    Ok(Report::new("perplexity", client.model(), 0, items.await?))
}

/// The mean negative log-likelihood of a text's tokens but the first, weighted by how many they
/// are.
async fn ask(client: &Client, text: &str, max_length: usize) -> anyhow::Result<Item> {
    let tokens = client.tokens(text).await?;
    let (mut sum, mut count) = (0.0, 0);
    for part in parts(&tokens, max_length) {
        let scores = client.score(part, 1).await?;
        sum -= scores.iter().sum::<f64>();
        count += scores.len();
    }
    let value = if count == 0 { 0.0 } else { sum / count as f64 };
    Ok(Item { value, weight: count as f64, detail: json!({"tokens": count}) })
}

/// Runs of at most `max_length` tokens, each beginning with the last one's end: every token but the
/// first is scored once.
fn parts(tokens: &[u32], max_length: usize) -> impl Iterator<Item = &[u32]> {
    let starts = (0..tokens.len().saturating_sub(1)).step_by(max_length - 1);
    starts.map(move |start| &tokens[start..(start + max_length).min(tokens.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once() {
        let tokens: Vec<u32> = (0..9).collect();
        let cut = |n: usize, length: usize| parts(&tokens[..n], length).collect::<Vec<_>>();
        assert_eq!(cut(9, 4), [&[0, 1, 2, 3][..], &[3, 4, 5, 6], &[6, 7, 8]]);
        assert_eq!(cut(7, 4), [&[0, 1, 2, 3][..], &[3, 4, 5, 6]]);
        assert_eq!((cut(1, 4).len(), cut(0, 4).len(), cut(2, 2).len()), (0, 0, 1));
    }
}
