//! The official SDK against the demo model.

use std::process::Command;

use crate::server::{Server, path};

/// Runs a Python script of this folder with the server's address; `scripts/test` makes the
/// interpreter's environment and names it.
fn python(script: &str, server: &Server) {
    let Some(python) = std::env::var_os("MOONROCK_TEST_PYTHON") else {
        panic!("run scripts/test: it installs the SDKs and sets MOONROCK_TEST_PYTHON");
    };
    let output = Command::new(python)
        .arg(path("tests/program").join(script))
        .arg(format!("{}/v1", server.url))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn openai_python() {
    let server = Server::start("models/demo", &["--served-model-name", "demo"]);
    python("openai_sdk.py", &server);
}
