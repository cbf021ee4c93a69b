//! Renderings that the golden vectors do not hold.

use serde_json::{Map, Value, json};
use text::{ChatPrompt, ChatTemplate};

use crate::TEMPLATE;

fn render(template: &ChatTemplate, messages: Value, kwargs: Value) -> String {
    let prompt = ChatPrompt {
        messages: messages.as_array().unwrap(),
        tools: Some(&[]),
        kwargs: kwargs.as_object().cloned().unwrap(),
        add_generation_prompt: true,
    };
    template.render(&prompt).unwrap()
}

const BEGIN: &str = "<|im_assistant|>assistant<|im_middle|>";

#[test]
fn thinking_is_on_unless_switched_off() {
    let hi = json!([{"role": "user", "content": "hi"}]);
    let turn = "<|im_user|>user<|im_middle|>hi<|im_end|>";
    for (kwargs, end) in [
        (json!({}), "<think>"),
        (json!({"thinking": true}), "<think>"),
        (json!({"thinking": null}), "<think>"),
        (json!({"thinking": false}), "<think></think>"),
    ] {
        assert_eq!(render(&TEMPLATE, hi.clone(), kwargs), format!("{turn}{BEGIN}{end}"));
    }
}

#[test]
fn images_videos_and_absent_content() {
    let messages = json!([
        {"role": "user", "name": "ann", "content": [
            {"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "?"},
            {"type": "video_url", "video_url": {"url": "data:"}}]},
        {"role": "system", "content": ""},
        {"role": "user", "content": null},
    ]);
    assert_eq!(
        render(&TEMPLATE, messages, json!({})),
        format!(
            "<|im_user|>ann<|im_middle|><|media_begin|>image<|media_content|><|media_pad|>\
             <|media_end|>\n?<|kimi_k25_video_placeholder|>\n<|im_end|>\
             <|im_system|>system<|im_middle|><|im_end|><|im_user|>user<|im_middle|><|im_end|>\
             {BEGIN}<think>"
        )
    );
}

#[test]
fn the_current_tool_loop_keeps_its_reasoning_and_arguments() {
    let messages = json!([
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "reasoning": "new", "reasoning_content": "old",
         "tool_calls": [{"id": "functions.f:0", "function": {"name": "f",
            "arguments": {"b": "京", "a": [1, 2.0, true, null]}}}]},
        {"role": "tool", "name": "f", "tool_call_id": "functions.f:0", "content": "1"},
    ]);
    let call = "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0\
                <|tool_call_argument_begin|>{\"b\": \"京\", \"a\": [1, 2.0, true, null]}\
                <|tool_call_end|><|tool_calls_section_end|><|im_end|>\
                <|im_system|>f<|im_middle|>## Return of functions.f:0\n1<|im_end|>";
    let rendered =
        |thinking: bool| render(&TEMPLATE, messages.clone(), json!({ "thinking": thinking }));
    let question = "<|im_user|>user<|im_middle|>q<|im_end|>";
    assert_eq!(rendered(true), format!("{question}{BEGIN}<think>new</think>{call}{BEGIN}<think>"));
    assert_eq!(
        rendered(false),
        format!("{question}{BEGIN}<think></think>{call}{BEGIN}<think></think>")
    );
}

#[test]
fn blocks_are_trimmed_and_python_methods_work() {
    let dir = tempfile::tempdir().unwrap();
    let source = "{% for m in messages %}\n  {% if loop.index > 1 %}\n  {% break %}\n\
                  {% endif %}\n\
                  {{ m.content.strip().split(',')[1] }} {{ m.get('x', 1.0) }} {{ none }} {{ y }}\n\
                  {% endfor %}\nend";
    std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    let template = ChatTemplate::from_dir(dir.path()).unwrap();
    let messages = json!([{"content": " a,b<c>,d "}, {"content": ""}]);
    // `<` and `&` are not escaped; None and floats print as in Python.
    let rendered = render(&template, messages, json!({"y": true}));
    assert_eq!(rendered, "b<c> 1.0 None True\nend");
}

#[test]
fn tools_that_typescript_cannot_express_are_declared_as_sorted_json() {
    let tool = json!({"type": "function", "function": {"name": "f",
        "parameters": {"type": "object", "properties": {"x": {"$ref": "http://nowhere"}}}}});
    let prompt = ChatPrompt {
        messages: &[],
        tools: Some(&[tool]),
        kwargs: Map::new(),
        add_generation_prompt: false,
    };
    assert_eq!(
        TEMPLATE.render(&prompt).unwrap(),
        "<|im_system|>tool_declare<|im_middle|>[{\"function\":{\"name\":\"f\",\"parameters\":\
         {\"properties\":{\"x\":{\"$ref\":\"http://nowhere\"}},\"type\":\"object\"}},\
         \"type\":\"function\"}]<|im_end|>"
    );
}
