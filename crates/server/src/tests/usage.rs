use serde_json::{Value, json};

use super::{answer, app, chunks, ids};

fn cached(answer: &Value) -> &Value {
    &answer["usage"]["prompt_tokens_details"]["cached_tokens"]
}

/// Blocks hold 16 tokens, and the last token's row is always computed.
#[tokio::test]
async fn completions_tell_how_much_of_their_prompts_was_cached() {
    let app = app(&["hi"]);
    let (a, b): (Vec<u32>, Vec<u32>) = ((100..148).collect(), (200..240).collect());
    let uri = "/v1/completions";
    let one = json!({"prompt": a});
    assert_eq!(cached(&answer(&app, uri, &one).await), 0);
    assert_eq!(cached(&answer(&app, uri, &one).await), 32);
    let salted = json!({"prompt": a, "cache_salt": "tenant"});
    assert_eq!(cached(&answer(&app, uri, &salted).await), 0);

    let both = json!({"prompt": [a, b], "n": 3});
    let whole = answer(&app, uri, &both).await;
    assert_eq!((cached(&whole), &whole["usage"]["prompt_tokens"]), (&json!(32), &json!(88)));
    // A prompt counts once, however many choices it has: 32 of a and 32 of b.
    assert_eq!(cached(&answer(&app, uri, &both).await), 64);
    let mut streamed = both.clone();
    streamed["stream_options"] = json!({"include_usage": true});
    let parts = chunks(&app, uri, &streamed).await;
    assert_eq!(cached(&parts[parts.len() - 1]), 64);
}

#[tokio::test]
async fn chat_answers_tell_how_much_of_their_prompt_was_cached() {
    let app = app(&["</think>STOP hi"]);
    let uri = "/v1/chat/completions";
    let text = "one two three four five six seven eight nine ten".repeat(4);
    let mut body = json!({"messages": [{"role": "user", "content": text}]});
    let first = answer(&app, uri, &body).await;
    assert_eq!(cached(&first), 0);
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt as usize > ids(&text).len());
    let expected = json!((prompt - 1) / 16 * 16);
    assert_eq!(cached(&answer(&app, uri, &body).await), &expected);
    // An answer that a stop string ends, streamed.
    body["stop"] = json!("STOP");
    body["stream_options"] = json!({"include_usage": true});
    let parts = chunks(&app, uri, &body).await;
    assert_eq!(cached(&parts[parts.len() - 1]), &expected);
}
