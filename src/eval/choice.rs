//! Multiple choice: the choice whose letter is most likely, in the form of lm-eval 0.4's `mmlu`.

use std::collections::HashMap;

use anyhow::ensure;
use serde::Deserialize;

use super::args::ChoiceArgs;
use super::client::Client;
use super::report::{Item, Report};
use super::{ask_all, rows};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// A row of MMLU.
#[derive(Debug, Clone, Deserialize)]
struct Question {
    subject: String,
    question: String,
    choices: [String; 4],
    /// Index of the right choice.
    answer: usize,
}

pub(super) async fn run(args: &ChoiceArgs, client: &Client) -> anyhow::Result<Report> {
    let mut questions = rows::<Question>(&args.target.data)?;
    questions.truncate(args.target.limit.unwrap_or(usize::MAX));
    let shots = match &args.shots {
        Some(path) => rows::<Question>(std::slice::from_ref(path))?,
        None => Vec::new(),
    };
    for (place, row) in questions.iter().chain(&shots) {
        ensure!(row.answer < LETTERS.len(), "{place}: answer {}, expected 0..=3", row.answer);
    }
    let solved = solved(&shots, args.num_fewshot);
    for (place, row) in &questions {
        let found = solved.get(&row.subject).map_or(0, |(count, _)| *count);
        let (wanted, subject) = (args.num_fewshot, &row.subject);
        ensure!(found == wanted, "{place}: {found} shots of {subject:?}, {wanted} are asked for");
    }
    let items = ask_all(&questions, args.target.num_concurrent, |question| {
        let shots = solved.get(&question.subject).map_or("", |(_, text)| text.as_str());
        ask(client, context(question, shots), question.answer)
    });
    Ok(Report::new("choice", client.model(), args.num_fewshot, items.await?))
}

/// The first solved questions of each subject: how many, and their text.
fn solved(shots: &[(String, Question)], most: usize) -> HashMap<String, (usize, String)> {
    let mut solved: HashMap<String, (usize, String)> = HashMap::new();
    for (_, shot) in shots {
        let (count, text) = solved.entry(shot.subject.clone()).or_default();
        if *count < most {
            *text += &format!("{} {}\n\n", posed(shot), LETTERS[shot.answer]);
            *count += 1;
        }
    }
    solved
}

/// A question up to the place of its answer's letter.
fn posed(question: &Question) -> String {
    let choices = LETTERS.iter().zip(&question.choices);
    let lines: String = choices.map(|(letter, choice)| format!("\n{letter}. {choice}")).collect();
    format!("{}{lines}\nAnswer:", question.question.trim())
}

fn context(question: &Question, shots: &str) -> String {
    let subject = question.subject.replace('_', " ");
    format!(
        "The following are multiple choice questions (with answers) about {subject}.\n\n\
         {shots}{}",
        posed(question)
    )
}

/// Scores the letters, by the cheaper way if it can be had; the numbers are the same.
async fn ask(client: &Client, context: String, answer: usize) -> anyhow::Result<Item> {
    let prompt = client.tokens(&context).await?;
    let mut choices = Vec::new();
    for letter in LETTERS {
        let whole = client.tokens(&format!("{context} {letter}")).await?;
        ensure!(whole.len() > prompt.len(), "the letter {letter} has no token of its own");
        choices.push(whole);
    }
    let scores = match forced(client, &prompt, &choices).await? {
        Some(scores) => scores,
        None => echoed(client, &prompt, &choices).await?,
    };
    let best = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    let right = (1..scores.len()).fold(0, best) == answer;
    Ok(Item { value: right as u8 as f64, weight: 1.0, detail: serde_json::json!(scores) })
}

/// Makes the server generate each letter, so that the prompt comes out of its prefix cache. `None`
/// if a letter is more than one token, if the bias does not force it, or if the server counts the
/// bias: probabilities of different tokens do not sum to more than 1.
async fn forced(
    client: &Client,
    prompt: &[u32],
    choices: &[Vec<u32>],
) -> anyhow::Result<Option<Vec<f64>>> {
    let mut scores = Vec::new();
    for (choice, letter) in choices.iter().zip(LETTERS) {
        let Some(&[token]) = choice.strip_prefix(prompt) else { return Ok(None) };
        let score = client.forced(prompt, token, &format!(" {letter}")).await?;
        let Some(score) = score else { return Ok(None) };
        scores.push(score);
    }
    let total: f64 = scores.iter().map(|score| score.exp()).sum();
    Ok((total <= 1.001).then_some(scores))
}

/// Asks for each prompt with its letter, as lm-eval does.
async fn echoed(client: &Client, prompt: &[u32], choices: &[Vec<u32>]) -> anyhow::Result<Vec<f64>> {
    let mut scores = Vec::new();
    for choice in choices {
        scores.push(client.score(choice, prompt.len()).await?.iter().sum());
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(subject: &str, text: &str, answer: usize) -> (String, Question) {
        let choices = ["one", "two", "three", "four"].map(str::to_owned);
        let (subject, question) = (subject.to_owned(), text.to_owned());
        (String::new(), Question { subject, question, choices, answer })
    }

    /// The text that lm-eval 0.4's default `mmlu` task makes of these rows.
    #[test]
    fn prompts_have_the_harness_s_form() {
        let shots = [
            question("abstract_algebra", " First? ", 1),
            question("other", "Not this.", 0),
            question("abstract_algebra", "Second?", 3),
            question("abstract_algebra", "Third?", 2),
        ];
        let solved = solved(&shots, 2);
        let (count, text) = &solved["abstract_algebra"];
        assert_eq!(*count, 2);
        let asked = question("abstract_algebra", "Which?\n", 0).1;
        assert_eq!(
            context(&asked, text),
            "The following are multiple choice questions (with answers) about abstract algebra.\n\n\
             First?\nA. one\nB. two\nC. three\nD. four\nAnswer: B\n\n\
             Second?\nA. one\nB. two\nC. three\nD. four\nAnswer: D\n\n\
             Which?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
        );
    }
}
