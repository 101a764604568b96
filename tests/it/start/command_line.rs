//! The command line: what it prints for people and for programs, and what its exit status says.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{FAILED, Process, UNREACHABLE, USAGE, WARN, free_address, program, the_binary};

/// Exit status, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let home = tempfile::tempdir().unwrap();
    let output = program(&the_binary(), home.path())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Asks `process` for its health.
fn health(process: &Process, arguments: &[&str]) -> (i32, String, String) {
    let url = &process.http.base;
    run(&[&["health", "--url", url], arguments].concat())
}

#[test]
fn what_is_wrong_with_a_command_is_usage() {
    for arguments in [
        vec!["sevre"],
        vec!["key", "app"],
        vec!["key", "app", "--role", "king"],
        vec!["key", "", "--role", "reader"],
        vec!["completions", "tcsh"],
        vec!["backups", "list"],
        vec!["health", "--live", "--ready"],
        vec!["health", "--url", "nowhere"],
        vec!["serve", "--config", "missing.toml"],
    ] {
        let (code, out, error) = run(&arguments);
        assert_eq!(code, USAGE, "{arguments:?}: {error}");
        assert!(
            out.is_empty() && !error.is_empty(),
            "{arguments:?}: {out}{error}"
        );
    }
}

#[test]
fn help_and_manual_name_every_command_and_every_exit_status() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    let (code, manual, _) = run(&["man"]);
    assert_eq!(code, 0);
    assert!(manual.contains(".TH vectorkeep 1"), "{manual}");
    let commands = [
        "serve",
        "openapi",
        "key",
        "health",
        "backups",
        "demo",
        "completions",
        "man",
    ];
    for command in commands {
        assert!(
            help.lines()
                .any(|line| line.trim_start().starts_with(command)),
            "{help}"
        );
        assert!(
            manual.contains(&format!("vectorkeep\\-{command}(1)")),
            "{manual}"
        );
    }
    for status in 0..=UNREACHABLE {
        let line = format!("  {status}  ");
        assert!(help.contains(&line) && manual.contains(&line), "{status}");
    }
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("man1");
    assert_eq!(run(&["man", "--directory", pages.to_str().unwrap()]).0, 0);
    for page in ["vectorkeep.1", "vectorkeep-backups-verify.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    fs::write(home.path().join("file"), "").unwrap();
    let below = home.path().join("file/below");
    let (code, _, error) = run(&["man", "--directory", below.to_str().unwrap()]);
    assert_eq!(code, FAILED, "{error}");
}

/// What bash would offer after `words`.
fn completed(script: &Path, words: &[&str]) -> Vec<String> {
    let line = format!(
        "source '{}'; COMP_WORDS=({}); COMP_CWORD={}; _vectorkeep {} {} {}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.join(" "),
        words.len() - 1,
        words[0],
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_the_values_of_options() {
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("vectorkeep.bash");
    let (code, text, _) = run(&["completions", "bash"]);
    assert_eq!(code, 0);
    fs::write(&script, text).unwrap();
    assert_eq!(completed(&script, &["vectorkeep", "ba"]), ["backups"]);
    let roles = completed(&script, &["vectorkeep", "key", "app", "--role", "''"]);
    assert_eq!(roles, ["reader", "writer", "operator", "admin"]);
    for (shell, beginning) in [("zsh", "#compdef vectorkeep"), ("fish", "#")] {
        let (code, text, _) = run(&["completions", shell]);
        assert!(
            code == 0 && text.starts_with(beginning) && text.contains("backups"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_how_it_is_and_why() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[]).await;
    let (code, out, error) = health(&process, &[]);
    assert_eq!((code, out.as_str()), (0, "pass\n"), "{error}");
    let (code, out, _) = health(&process, &["--json"]);
    let body: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &body["status"]), (0, &Value::from("pass")));
    assert!(body["checks"].is_object(), "{body}");
    for probe in ["--live", "--ready"] {
        let (code, out, error) = health(&process, &[probe]);
        assert_eq!((code, out.as_str()), (0, "pass\n"), "{error}");
    }
    process.stop().await;

    // Hardly a disk has as much room.
    let settings = [("VECTORKEEP__HEALTH__DISK_WARN_BYTES", "8000000000000000")];
    let process = Process::start(home.path(), &settings).await;
    let (code, out, error) = health(&process, &[]);
    assert_eq!(code, WARN, "{out}{error}");
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("warn"));
    assert!(
        lines.any(|line| line.starts_with("storage:disk_free: warn: ")),
        "{out}"
    );
    assert_eq!(health(&process, &["--ready"]).0, 0);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_a_status_and_a_key_shows_the_reasons() {
    let home = tempfile::tempdir().unwrap();
    let (code, printed, error) = run(&["key", "night", "--role", "operator", "--json"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let key: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (&key["name"], &key["role"]),
        (&"night".into(), &"operator".into())
    );
    let file = |name: &str, text: &Value| {
        let path = home.path().join(name);
        fs::write(&path, text.as_str().unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let keys = file("keys.toml", &key["entry"]);
    let (secret, wrong) = (
        file("night.key", &key["key"]),
        file("wrong.key", &"no".into()),
    );
    let settings = [
        ("VECTORKEEP__HEALTH__DISK_WARN_BYTES", "8000000000000000"),
        ("VECTORKEEP__ACCESS__KEYS_FILE", keys.as_str()),
    ];
    let process = Process::start(home.path(), &settings).await;
    let (code, out, _) = health(&process, &[]);
    assert_eq!((code, out.as_str()), (WARN, "warn\n"));
    let (code, out, error) = health(&process, &["--key-file", &secret]);
    assert_eq!(code, WARN, "{error}");
    assert!(out.contains("storage:disk_free: warn: "), "{out}");
    // Not told apart from a stranger by the service; whoever asks learns why there are no reasons.
    let (code, out, error) = health(&process, &["--key-file", &wrong]);
    assert_eq!((code, out.as_str()), (WARN, "warn\n"));
    assert!(error.contains("does not know this key"), "{error}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unreachable() {
    let nobody = format!("http://{}", free_address());
    let (code, out, error) = run(&["health", "--url", &nobody]);
    assert_eq!((code, out.as_str()), (UNREACHABLE, ""), "{error}");
    assert!(error.contains(&nobody), "{error}");
}
