//! The official SDKs against the demo model.

use std::process::Command;

use crate::server::{Server, path};

/// The interpreter with the packages of `tests/requirements.txt`: `scripts/test` makes its
/// environment and names it.
pub(crate) fn interpreter() -> std::ffi::OsString {
    std::env::var_os("MOONROCK_TEST_PYTHON").unwrap_or_else(|| {
        panic!("run scripts/test: it installs the SDKs and sets MOONROCK_TEST_PYTHON")
    })
}

/// Runs a Python script of this folder with the server's address and more arguments.
pub(crate) fn python(script: &str, server: &Server, args: &[&str]) {
    run(Command::new(interpreter())
        .arg(path("tests/program").join(script))
        .arg(format!("{}/v1", server.url))
        .args(args));
}

/// Runs a command, which must succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn openai_python() {
    let server = Server::start("models/demo", &["--served-model-name", "demo"]);
    python("openai_sdk.py", &server, &[]);
}

#[test]
fn anthropic_python() {
    let server = Server::start("models/demo", &["--served-model-name", "demo"]);
    python("anthropic_sdk.py", &server, &[]);
}

#[test]
fn refusals_python() {
    let limits = ["--max-num-seqs", "1", "--max-waiting", "1", "--api-key", "secret"];
    let args = [&["--served-model-name", "demo"], &limits[..]].concat();
    python("refusals_sdk.py", &Server::start("tests/data/tiny-k2/mxfp4", &args), &[]);
}

/// `scripts/test` installs the SDK beside the build and names the folder.
#[test]
fn openai_node() {
    let Some(modules) = std::env::var_os("MOONROCK_TEST_NODE") else {
        panic!("run scripts/test: it installs the SDK and sets MOONROCK_TEST_NODE");
    };
    let server = Server::start("models/demo", &["--served-model-name", "demo"]);
    // Node looks for packages beside the script.
    let script = std::path::Path::new(&modules).join("openai_sdk.mjs");
    std::fs::copy(path("tests/program/openai_sdk.mjs"), &script).unwrap();
    run(Command::new("node").arg(script).arg(format!("{}/v1", server.url)));
}

/// Random weights write random JSON. `MOONROCK_FULL`: 500 calls of the demo model.
#[test]
fn tool_calls_keep_to_their_schemas() {
    let full = std::env::var_os("MOONROCK_FULL").is_some();
    let (model, calls) =
        if full { ("models/demo", "500") } else { ("tests/data/tiny-k2/mxfp4", "64") };
    let args = ["--served-model-name", "demo", "--max-model-len", "2048"];
    let server = Server::start(model, &args);
    python("tool_schemas.py", &server, &[calls]);
}
