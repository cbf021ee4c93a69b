//! `--ssl-certfile` and `--ssl-keyfile`, with a certificate made here.

use std::path::Path;

use tempfile::TempDir;

use crate::sdk::python;
use crate::server::{Server, run};

/// Writes a certificate for 127.0.0.1 and its key; returns the paths.
fn certificate(directory: &Path) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let contents = [made.cert.pem(), made.signing_key.serialize_pem()];
    let paths = ["cert.pem", "key.pem"].map(|name| directory.join(name));
    std::fs::write(&paths[0], &contents[0]).unwrap();
    std::fs::write(&paths[1], &contents[1]).unwrap();
    paths.map(|path| path.to_str().unwrap().to_owned())
}

#[test]
fn the_sdk_speaks_tls() {
    let directory = TempDir::new().unwrap();
    let [certificate, key] = certificate(directory.path());
    let args =
        ["--served-model-name", "demo", "--ssl-certfile", &certificate, "--ssl-keyfile", &key];
    let server = Server::start("tests/data/tiny-k2/mxfp4", &args);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    python("tls.py", &server, &[&certificate]);
}

#[test]
fn tls_needs_both_files_and_they_must_fit() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let [certificate_file, key] = certificate(directory.path());
    let [_, other_key] = certificate(other.path());
    let check = |args: &[&str], expected: i32, parts: &[&str]| {
        let (code, _, stderr) = run(&[&["serve", "--port", "0"], args].concat());
        assert_eq!(code, Some(expected), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    };
    check(&["--ssl-certfile", &certificate_file], 2, &["--ssl-keyfile"]);
    check(&["--ssl-keyfile", &key], 2, &["--ssl-certfile"]);
    let pair = ["--ssl-certfile", &certificate_file, "--ssl-keyfile", &other_key];
    check(&pair, 1, &["moonrock: --ssl-keyfile", &other_key, &certificate_file]);
    let missing = ["--ssl-certfile", "/nowhere.pem", "--ssl-keyfile", &key];
    check(&missing, 1, &["moonrock: --ssl-certfile /nowhere.pem: No such file"]);
}
