//! A running server that ends with the test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("MOONROCK_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_moonrock").into(), PathBuf::from)
}

/// A path in this repository.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

#[path = "../../crates/hip/tests/device/emulator.rs"]
mod emulator;

/// See [`emulator::EMULATOR`].
pub(crate) fn emulator() -> &'static Path {
    &emulator::EMULATOR
}

pub(crate) struct Server {
    child: Child,
    /// `http://host:port`, or `https`.
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    /// What it has written to stderr since it listens.
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `moonrock serve MODEL --port 0 ARGS` and waits for its address.
    pub(crate) fn start(model: &str, args: &[&str]) -> Server {
        Server::start_command(Command::new(binary()), model, args)
    }

    /// The same with `--device hip` on the emulator.
    pub(crate) fn start_on_emulator(model: &str, args: &[&str]) -> Server {
        Server::start_on_emulator_with(("EMU_CHECK", "on"), model, args)
    }

    /// The same with a setting of the emulator's.
    pub(crate) fn start_on_emulator_with(
        (name, value): (&str, &str),
        model: &str,
        args: &[&str],
    ) -> Server {
        let mut command = Command::new(binary());
        command.env("LD_LIBRARY_PATH", emulator()).env(name, value);
        Server::start_command(command, model, &[&["--device", "hip"], args].concat())
    }

    pub(crate) fn start_command(mut command: Command, model: &str, args: &[&str]) -> Server {
        let mut child = command
            .arg("serve")
            .arg(path(model))
            .args(["--port", "0"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let url = loop {
            let line = lines.next().unwrap_or_else(|| panic!("ended before listening:\n{seen}"));
            let line = line.unwrap();
            if let Some(url) = line.strip_prefix("listening on ") {
                break url.trim().to_owned();
            }
            seen += &line;
            seen.push('\n');
        };
        // Keep the pipe open and empty: a server whose stderr is full or closed would stop.
        let said = Arc::new(Mutex::new(Vec::new()));
        let all = said.clone();
        std::thread::spawn(move || lines.for_each(|line| all.lock().unwrap().extend(line)));
        // The last of 30 answers from the emulator takes some two minutes.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(600)).build().unwrap();
        Server { child, url, client, said }
    }

    /// POSTs JSON; returns the status and the JSON answer.
    pub(crate) async fn post(&self, route: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{route}", self.url);
        let answer = self.client.post(url).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap())
    }

    /// GETs JSON; returns the status and the JSON answer.
    pub(crate) async fn get(&self, route: &str) -> (u16, Value) {
        let answer = self.client.get(format!("{}{route}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The code it ends with, by itself. Never blocks the thread: another test's requests may
    /// depend on it.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// The lines that it has written to stderr since it listens.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary to its end; returns its exit code and what it wrote to stdout and stderr.
pub(crate) fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut child = Command::new(binary())
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap().code(), stdout, stderr)
}
