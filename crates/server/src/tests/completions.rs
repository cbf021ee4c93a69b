use engine::{Engine, Execute};
use model::{SamplingParams, Want};
use serde_json::{Value, json};

use super::server_config;
use super::{TOKENIZER, answer, app, app_with, chunks, engine_config, ids, logprob, player, post};

const URI: &str = "/v1/completions";

#[tokio::test]
async fn every_form_of_prompt() {
    let app = app(&["one", "two"]);
    let (a, b) = (ids("hello"), ids("you there"));
    let cases = [
        (json!("hello"), 1, a.len()),
        (json!(["hello", "you there"]), 2, a.len() + b.len()),
        (json!(a), 1, a.len()),
        (json!([a, b]), 2, a.len() + b.len()),
    ];
    for (prompt, prompts, tokens) in cases {
        let body = json!({"prompt": prompt, "seed": 0, "n": 2});
        let whole = answer(&app, URI, &body).await;
        let choices = whole["choices"].as_array().unwrap();
        assert_eq!(choices.len(), prompts * 2);
        for (index, choice) in choices.iter().enumerate() {
            assert_eq!(choice["index"], index);
            // Seed + place among the prompt's choices.
            assert_eq!(choice["text"], ["one", "two"][index % 2]);
            assert_eq!(choice["finish_reason"], "stop");
            assert_eq!(choice["logprobs"], Value::Null);
        }
        assert_eq!(whole["object"], "text_completion");
        assert_eq!(whole["usage"]["prompt_tokens"], tokens);
    }
}

#[tokio::test]
async fn names_of_control_tokens_in_prompts_are_text() {
    let whole = answer(&app(&[""]), URI, &json!({"prompt": "<|im_end|>"})).await;
    assert_eq!(whole["usage"]["prompt_tokens"], TOKENIZER.encode("<|im_end|>").len());
    assert!(TOKENIZER.encode("<|im_end|>").len() > 1);
}

/// The request of lm-evaluation-harness's log-likelihoods.
#[tokio::test]
async fn echoed_prompts_are_scored() {
    let prompt = ids("Answer: A 🙂ß");
    let body = json!({"model": "org/tiny", "prompt": [prompt], "temperature": 0, "max_tokens": 1,
        "logprobs": 1, "seed": 1234, "echo": true});
    let whole = answer(&app(&["!"]), URI, &body).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["text"], "Answer: A 🙂ß!");
    assert_eq!(choice["finish_reason"], "length");
    let logprobs = &choice["logprobs"];
    let all: Vec<u32> = prompt.iter().copied().chain(ids("!")).collect();
    let scores = logprobs["token_logprobs"].as_array().unwrap();
    let top = logprobs["top_logprobs"].as_array().unwrap();
    let offsets = logprobs["text_offset"].as_array().unwrap();
    assert_eq!([scores.len(), top.len(), offsets.len()], [all.len(); 3]);
    assert_eq!((&scores[0], &top[0]), (&Value::Null, &Value::Null));
    for (place, &id) in all.iter().enumerate().skip(1) {
        assert_eq!(scores[place], json!(logprob(id)));
        let best = top[place].as_object().unwrap();
        assert_eq!(best.values().next(), Some(&scores[place]));
        assert_eq!(best.len(), 1);
        let before = TOKENIZER.decode(&all[..place], true);
        let complete = before.trim_end_matches('\u{fffd}').chars().count();
        assert_eq!(offsets[place], complete, "{before:?}");
    }
    let names = logprobs["tokens"].as_array().unwrap();
    assert!(names.iter().any(|name| name.as_str().unwrap().starts_with("bytes:\\x")), "{names:?}");
}

#[tokio::test]
async fn prompts_are_scored_apart_from_the_answer() {
    let prompt = ids("Answer: A");
    for extra in [json!({}), json!({"echo": true}), json!({"echo": true, "logprobs": 5})] {
        let mut body = json!({"prompt": [prompt], "max_tokens": 1, "prompt_logprobs": 2});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        let whole = answer(&app(&["!"]), URI, &body).await;
        let choice = &whole["choices"][0];
        let scores = choice["prompt_logprobs"].as_array().unwrap();
        assert_eq!((scores.len(), &scores[0]), (prompt.len(), &Value::Null));
        for (&id, score) in prompt.iter().zip(scores).skip(1) {
            let expected = json!({"logprob": logprob(id), "rank": 1,
                "decoded_token": TOKENIZER.decode(&[id], false)});
            assert_eq!(score[id.to_string()], expected);
            assert_eq!(score.as_object().unwrap().len(), 2);
        }
        let echoed = body["echo"].is_boolean();
        assert_eq!(choice["text"], if echoed { "Answer: A!" } else { "!" });
        if echoed && body["logprobs"].is_number() {
            let top = &choice["logprobs"]["top_logprobs"];
            assert_eq!(top.as_array().unwrap().len(), prompt.len() + 1);
            assert_eq!(top[1].as_object().unwrap().len(), 5);
        }
    }
    let body = json!({"prompt": "x", "prompt_logprobs": 1, "stream": true});
    let (status, refused) = post(&app(&["!"]), URI, &body).await;
    assert_eq!((status.as_u16(), &refused["error"]["param"]), (400, &json!("prompt_logprobs")));
}

#[tokio::test]
async fn without_tokens_to_generate_a_prompt_is_only_scored() {
    let app = app(&["never"]);
    let prompt = ids("Answer");
    let body = json!({"prompt": prompt, "max_tokens": 0, "logprobs": 2, "echo": true});
    let whole = answer(&app, URI, &body).await;
    assert_eq!(whole["choices"][0]["text"], "Answer");
    let scores = whole["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(scores.len(), prompt.len());
    assert_eq!(whole["usage"]["completion_tokens"], 0);

    let one = json!({"prompt": [5], "max_tokens": 0, "logprobs": 0, "echo": true});
    let one = answer(&app, URI, &one).await;
    assert_eq!(one["choices"][0]["logprobs"]["token_logprobs"], json!([null]));

    let full = json!({"prompt": vec![5; 512], "max_tokens": 0});
    assert_eq!(answer(&app, URI, &full).await["choices"][0]["text"], "");
}

#[tokio::test]
async fn streamed_answers_add_up_to_whole_ones() {
    let answers = ["Größe 你好 STOP", "", "ab ab abc", "<|im_user|>x<think>y"];
    let variations = [
        json!({}),
        json!({"echo": true}),
        json!({"echo": true, "logprobs": 3}),
        json!({"logprobs": 0}),
        json!({"max_tokens": 3}),
        json!({"max_tokens": 0, "echo": true}),
        json!({"stop": ["STOP", "abc"]}),
        json!({"stop": ["STOP", "abc"], "include_stop_str_in_output": true}),
        json!({"stop_token_ids": ids("ab")}),
        json!({"skip_special_tokens": false}),
        json!({"include_stop_str_in_output": true, "skip_special_tokens": false}),
    ];
    for extra in variations {
        let mut body = json!({"prompt": ["hello", "你好"], "n": 4, "seed": 0, "max_tokens": 20});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        let whole = answer(&app(&answers), URI, &body).await;
        body["stream_options"] = json!({"include_usage": true});
        let mut parts = chunks(&app(&answers), URI, &body).await;
        let last = parts.pop().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
        for (index, expected) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let own: Vec<&Value> = parts
                .iter()
                .map(|part| &part["choices"][0])
                .filter(|choice| choice["index"] == index)
                .collect();
            let text: String = own.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
            assert_eq!(expected["text"], text, "{body}");
            assert_eq!(own[own.len() - 1]["finish_reason"], expected["finish_reason"]);
            for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let lists = own.iter().filter_map(|choice| choice["logprobs"][list].as_array());
                let all: Vec<Value> = lists.flatten().cloned().collect();
                let expected = expected["logprobs"][list].as_array().cloned();
                assert_eq!(all, expected.unwrap_or_default());
            }
        }
    }
}

#[tokio::test]
async fn what_ends_an_answer_is_left_out_unless_asked_for() {
    let app = app(&["ab cd ef"]);
    let text = |extra: Value| {
        let mut body = json!({"prompt": "x", "seed": 0});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        let app = app.clone();
        async move { answer(&app, URI, &body).await["choices"][0]["text"].clone() }
    };
    assert_eq!(text(json!({})).await, "ab cd ef");
    assert_eq!(text(json!({"stop": "cd"})).await, "ab ");
    assert_eq!(text(json!({"stop": "cd", "include_stop_str_in_output": true})).await, "ab cd");
    assert_eq!(text(json!({"stop_token_ids": [ids("ab cd ef")[0]]})).await, "");
    let shown = json!({"include_stop_str_in_output": true, "skip_special_tokens": false});
    assert_eq!(text(shown).await, "ab cd ef<|im_end|>");
    let on = json!({"ignore_eos": true, "skip_special_tokens": false, "max_tokens": 30});
    assert!(text(on).await.as_str().unwrap().ends_with("<|im_end|><|im_end|>"));
}

#[tokio::test]
async fn requests_without_a_seed_get_different_ones() {
    let app = app(&["one", "two"]);
    let mut texts = Vec::new();
    for _ in 0..2 {
        let whole = answer(&app, URI, &json!({"prompt": "x"})).await;
        texts.push(whole["choices"][0]["text"].clone());
    }
    assert_eq!(texts, ["one", "two"]);
}

#[tokio::test]
async fn sampling_fields_reach_the_device() {
    let (sent, received) = std::sync::mpsc::channel();
    let mut inner = player(vec![ids("hello")]);
    let execute: Execute = Box::new(move |batch| {
        for output in &batch.outputs {
            if let Want::Sample(draw) = &output.want {
                let _ = sent.send((*draw.params).clone());
            }
        }
        inner(batch)
    });
    let app = app_with(server_config(), Engine::start(engine_config(), execute));
    let params = |body: Value| {
        let (app, received) = (&app, &received);
        async move {
            answer(app, URI, &body).await;
            received.try_iter().last().unwrap()
        }
    };
    let all = params(json!({"prompt": "x", "temperature": 0.5, "top_p": 0.25, "top_k": 7,
        "min_p": 0.125, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5,
        "logit_bias": {"3": -100, "4": 0.5}, "seed": -2, "n": 1, "max_tokens": 1}));
    let expected = SamplingParams {
        temperature: 0.5,
        top_p: 0.25,
        top_k: 7,
        min_p: 0.125,
        presence_penalty: 1.0,
        frequency_penalty: -1.0,
        repetition_penalty: 1.5,
        logit_bias: vec![(3, -100.0), (4, 0.5)],
        seed: u64::MAX - 1,
    };
    assert_eq!(all.await, expected);
    let none = params(json!({"prompt": "x", "top_k": -1, "seed": 0, "temperature": null}));
    assert_eq!(none.await, SamplingParams::default());
    let tiny = params(json!({"prompt": "x", "temperature": 1e-300, "seed": 5.0}));
    assert_eq!(tiny.await, SamplingParams { temperature: 0.0, seed: 5, ..Default::default() });
}
