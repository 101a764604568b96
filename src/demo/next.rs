//! What to open when the demo has ended: what it made can be looked at.

use std::path::Path;

/// Commands and addresses, a line each. The first command serves what the demo left in `directory`.
pub(super) fn steps(directory: &Path) -> String {
    let quoted = |below: &str| quote(&directory.join(below).display().to_string());
    format!(
        "\nWhat to open next:
  serve it     VECTORKEEP__STORAGE__DATA_DIR={} VECTORKEEP__REPOSITORY__URL={} {} serve
  the page     http://127.0.0.1:8000/ in a browser: this store, its backups and jobs
  all routes   http://127.0.0.1:8000/docs
  in Python    chromadb.HttpClient(host=\"127.0.0.1\", port=8000).get_collection(\"{}\", embedding_function=None)
  to read      docs/operate.md; when something is broken: docs/runbook.md",
        quoted("data"),
        quoted("backups"),
        quote(&program()),
        super::SOURCE,
    )
}

/// This program, as it was called.
fn program() -> String {
    let called = std::env::args().next();
    let name = |path: &String| {
        Path::new(path)
            .file_name()
            .is_some_and(|n| n == "vectorkeep")
    };
    called
        .filter(name)
        .unwrap_or_else(|| "vectorkeep".to_owned())
}

/// For a shell.
fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for (text, quoted) in [
            ("demo_data/data", "demo_data/data"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
