//! Requests that schemathesis makes up from `/openapi.json`, good ones and bad ones: no answer is a
//! server's error, none takes for ever, all are as the document says, and what it forbids is
//! refused. `MOONROCK_FULL` makes thousands.

use std::process::Command;

use crate::sdk::{interpreter, run};
use crate::server::Server;

#[test]
fn requests_from_the_openapi_document() {
    let full = std::env::var_os("MOONROCK_FULL").is_some();
    let args = ["--served-model-name", "demo", "--max-model-len", "96"];
    let mut server = Server::start("tests/data/tiny-k2/mxfp4", &args);
    // Headers and media types are not described; cross-field rules make some described bodies bad.
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
        response_schema_conformance,negative_data_rejection";
    run(Command::new(interpreter())
        .args(["-m", "schemathesis.cli", "run", &format!("{}/openapi.json", server.url)])
        .args(["--checks", checks, "--phases", "fuzzing", "--request-timeout", "60"])
        .args([
            "--max-examples",
            if full { "1000" } else { "40" },
            "--suppress-health-check",
            "all",
        ])
        .args(["--generation-database", "none", "--workers", "2"]));
    assert!(server.is_running(), "the server has ended");
}
