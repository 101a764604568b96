//! The documents: the README is short, links lead somewhere, and every block that is run can be copied alone.
//!
//! What the blocks do, and whether their answers are true, is looked at by `tests/client/doc_blocks.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A README that is longer is read by nobody.
const README_BYTES: usize = 12_288;

/// Where the service listens: every block says so itself.
const FIRST_LINE: &str = "B=http://127.0.0.1:8000";

/// A document and its text.
struct Document {
    path: PathBuf,
    text: String,
}

/// A fenced block: the line of its fence, its info string, its content.
struct Block {
    line: usize,
    info: String,
    content: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and docs/*.md.
fn documents() -> Vec<Document> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.push(root().join("README.md"));
    paths.sort();
    assert!(paths.len() > 10, "only {} documents are there", paths.len());
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            Document { path, text }
        })
        .collect()
}

/// The marks of a fence (backticks or tildes, at least three) at the beginning of a line, and what follows them.
fn fence(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let mark = line
        .chars()
        .next()
        .filter(|mark| matches!(mark, '`' | '~'))?;
    let end = line.find(|c| c != mark).unwrap_or(line.len());
    let (marks, info) = line.split_at(end);
    // After backticks no backtick may follow: that would be inline code.
    (marks.len() >= 3 && !(mark == '`' && info.contains('`'))).then_some((marks, info.trim()))
}

/// The document's fenced blocks, and its lines outside of them with their numbers.
fn parts(document: &Document) -> (Vec<Block>, Vec<(usize, &str)>) {
    let (mut blocks, mut prose) = (Vec::new(), Vec::new());
    let mut open: Option<(&str, Block)> = None;
    for (at, line) in document.text.lines().enumerate() {
        let line_number = at + 1;
        open = match (open, fence(line)) {
            (None, Some((marks, info))) => {
                let block = Block {
                    line: line_number,
                    info: info.to_owned(),
                    content: Vec::new(),
                };
                Some((marks, block))
            }
            (None, None) => {
                prose.push((line_number, line));
                None
            }
            (Some((marks, block)), Some((closing, ""))) if closing.starts_with(marks) => {
                blocks.push(block);
                None
            }
            (Some((marks, mut block)), _) => {
                block.content.push(line.to_owned());
                Some((marks, block))
            }
        };
    }
    if let Some((_, block)) = open {
        panic!(
            "{}: the block opened in line {} is not closed",
            document.path.display(),
            block.line
        );
    }
    (blocks, prose)
}

/// A heading as GitHub shows it: without the marks of emphasis, code and links.
fn heading_text(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    while let Some(start) = rest.find("](") {
        let Some(end) = rest[start..].find(')') else {
            break;
        };
        text.push_str(&rest[..start]);
        rest = &rest[start + end + 1..];
    }
    text.push_str(rest);
    text.replace(['`', '*', '['], "")
}

/// GitHub's rule: lower case; letters, digits, hyphens and underscores stay, spaces become hyphens, the rest goes.
fn slug(heading: &str) -> String {
    heading_text(heading)
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}

/// The anchors of a document; a heading that stands there again has a number.
fn anchors(document: &Document) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for (_, line) in parts(document).1 {
        let marks = line.chars().take_while(|c| *c == '#').count();
        let Some(heading) = line[marks..].strip_prefix(' ') else {
            continue;
        };
        if !(1..=6).contains(&marks) {
            continue;
        }
        let slug = slug(heading);
        let times = seen.entry(slug.clone()).or_default();
        found.insert(match *times {
            0 => slug,
            times => format!("{slug}-{times}"),
        });
        *times += 1;
    }
    found
}

/// The line without its inline code: what stands there is no link.
fn without_code(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        text.push_str(&rest[..start]);
        let opened = &rest[start..];
        let marks = opened.len() - opened.trim_start_matches('`').len();
        let inner = &opened[marks..];
        match inner.find(&opened[..marks]) {
            Some(end) => rest = inner[end..].trim_start_matches('`'),
            None => rest = inner,
        }
    }
    text.push_str(rest);
    text
}

/// What a line links to: `[text](target)`, `![text](target)`, `src="target"`, `href="target"`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let mut found = Vec::new();
    for (opening, closing) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
        for part in line.split(opening).skip(1) {
            let target = part.split(closing).next().unwrap_or_default();
            // A title may follow.
            found.push(target.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    found
}

/// What is wrong with the links of a document.
fn broken_links(document: &Document, all: &BTreeMap<PathBuf, BTreeSet<String>>) -> Vec<String> {
    let mut broken = Vec::new();
    for (line, text) in parts(document).1 {
        for target in targets(text) {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = match target.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target.as_str(), None),
            };
            let place = format!("{} line {line}: {target}", document.path.display());
            let path = match file {
                "" => document.path.clone(),
                file => document.path.parent().unwrap().join(file),
            };
            // `docs/../README.md` is README.md.
            let Ok(path) = path.canonicalize() else {
                broken.push(format!("{place}: no such file"));
                continue;
            };
            let Some(anchor) = anchor else {
                continue;
            };
            match all.get(&path) {
                None => broken.push(format!("{place}: an anchor in what is no document")),
                Some(anchors) if !anchors.contains(anchor) => {
                    broken.push(format!("{place}: no such heading"))
                }
                Some(_) => {}
            }
        }
    }
    broken
}

#[test]
fn the_readme_is_short() {
    let readme = std::fs::metadata(root().join("README.md")).unwrap().len();
    assert!(
        readme <= README_BYTES as u64,
        "README.md has {readme} bytes, more than {README_BYTES}: move something to docs/"
    );
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let all: BTreeMap<PathBuf, BTreeSet<String>> = documents
        .iter()
        .map(|document| (document.path.canonicalize().unwrap(), anchors(document)))
        .collect();
    let links: usize = documents
        .iter()
        .flat_map(|document| parts(document).1)
        .map(|(_, line)| targets(line).len())
        .sum();
    assert!(links > 100, "only {links} links were found");
    let broken: Vec<String> = documents
        .iter()
        .flat_map(|document| broken_links(document, &all))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_document_is_linked_from_the_readme() {
    let documents = documents();
    let readme = documents
        .iter()
        .find(|document| document.path.ends_with("README.md"))
        .unwrap();
    for document in &documents {
        let name = document.path.file_name().unwrap().to_str().unwrap();
        assert!(
            name == "README.md" || readme.text.contains(&format!("](docs/{name}")),
            "README.md does not link to docs/{name}"
        );
    }
}

#[test]
fn every_block_that_is_run_can_be_copied_alone() {
    let mut run = 0;
    for document in documents() {
        for block in parts(&document).0 {
            let mut words = block.info.split_whitespace();
            if words.next() != Some("bash") || !words.any(|word| word == "test") {
                continue;
            }
            run += 1;
            assert_eq!(
                block.content.first().map(String::as_str),
                Some(FIRST_LINE),
                "{}: the block in line {} does not say where the service listens",
                document.path.display(),
                block.line
            );
        }
    }
    assert!(run > 30, "only {run} blocks are run");
}

#[test]
fn anchors_follow_githubs_rule() {
    for (heading, anchor) in [
        ("What it does not do yet", "what-it-does-not-do-yet"),
        ("I want to …", "i-want-to-"),
        ("1. Name the old server", "1-name-the-old-server"),
        (
            "`GET /metrics`, and a [link](x.md#y)",
            "get-metrics-and-a-link",
        ),
        ("A_b - c", "a_b---c"),
    ] {
        assert_eq!(slug(heading), anchor, "{heading}");
    }
}
