//! What is wrong with a body, in plain words: where in the document, and what. (Below `/api/v2` it is said in the
//! words of Chroma's server.)

/// Names of types that the parser speaks of, and what they are to who wrote the document.
const TYPES: [(&str, &str); 14] = [
    ("a map", "an object"),
    ("a sequence", "a list"),
    ("sequence", "a list"),
    ("map", "an object"),
    ("unit", "null"),
    ("usize", "a whole number, 0 or more"),
    ("u64", "a whole number, 0 or more"),
    ("u32", "a whole number, 0 or more"),
    ("u8", "a whole number, 0 or more"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("bool", "true or false"),
    ("identifier", "a word"),
];

/// The sentence for what stands at `path` and is wrong as serde says it; the line and column are left out, for the path
/// says where.
pub(super) fn of_shape(path: &str, said: &str) -> String {
    let said = match said.rfind(" at line ") {
        Some(at) => said.get(..at).unwrap_or(said),
        None => said,
    };
    let what = plain(said);
    // The member that there is not is the end of the path; what misses it is what is wrong.
    let path = match said.strip_prefix("unknown field `") {
        Some(_) => path.rsplit_once('.').map_or("", |(object, _)| object),
        None => path,
    };
    match path {
        "." | "" | "?" => what,
        path => format!("{path}: {what}"),
    }
}

/// What keeps a text from being JSON; there is no path then.
pub(super) fn of_syntax(said: &str) -> String {
    let said = said
        .replace(" at line ", ", at line ")
        .replace(" column ", ", column ");
    format!("the body is not JSON: {said}")
}

fn plain(said: &str) -> String {
    if let Some(rest) = said.strip_prefix("missing field ") {
        return format!("{} is missing", rest.replace('`', ""));
    }
    if let Some(rest) = said.strip_prefix("unknown field ") {
        let (name, known) = rest.split_once(", ").unwrap_or((rest, ""));
        return format!(
            "there is no member {}{}",
            quoted(name),
            choices("; there are ", known)
        );
    }
    if let Some(rest) = said.strip_prefix("unknown variant ") {
        let (word, known) = rest.split_once(", ").unwrap_or((rest, ""));
        return format!(
            "{} is not known{}",
            quoted(word),
            choices("; it may be ", known)
        );
    }
    let found = said
        .strip_prefix("invalid type: ")
        .or_else(|| said.strip_prefix("invalid value: "));
    match found.and_then(|found| found.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            format!("it must be {}, not {}", type_of(expected), value_of(found))
        }
        None => said.to_owned(),
    }
}

/// `` `a` `` becomes `"a"`.
fn quoted(name: &str) -> String {
    name.replace('`', "\"")
}

/// `` expected one of `a`, `b` ``, `` expected `a` or `b` ``, or `there are no fields`.
fn choices(before: &str, expected: &str) -> String {
    let Some(names) = expected.strip_prefix("expected ") else {
        return String::new();
    };
    let names = names.strip_prefix("one of ").unwrap_or(names);
    format!("{before}{}", names.replace('`', ""))
}

fn type_of(expected: &str) -> String {
    if expected.starts_with("struct ") {
        return "an object".to_owned();
    }
    if expected.starts_with("enum ") {
        return "one of its words".to_owned();
    }
    let known = TYPES.iter().find(|(name, _)| *name == expected);
    known.map_or(expected, |(_, words)| words).to_owned()
}

/// ``integer `5` `` becomes `5`.
fn value_of(found: &str) -> String {
    for kind in ["integer ", "floating point ", "boolean "] {
        if let Some(value) = found.strip_prefix(kind) {
            return value.replace('`', "");
        }
    }
    if let Some(text) = found.strip_prefix("string ") {
        return text.to_owned();
    }
    type_of(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_words_become_a_sentence() {
        for (path, said, expected) in [
            (
                "labels.a",
                "invalid type: integer `5`, expected a string at line 1 column 17",
                "labels.a: it must be a string, not 5",
            ),
            (
                "on_conflit",
                "unknown field `on_conflit`, expected one of `backup`, `ids` at line 1 column 12",
                "there is no member \"on_conflit\"; there are backup, ids",
            ),
            (
                "collections[0].nam",
                "unknown field `nam`, expected `name`",
                "collections[0]: there is no member \"nam\"; there are name",
            ),
            (
                "collections[0]",
                "missing field `name` at line 1 column 40",
                "collections[0]: name is missing",
            ),
            (
                "level",
                "unknown variant `deep`, expected one of `manifest`, `records` at line 1 column 3",
                "level: \"deep\" is not known; it may be manifest, records",
            ),
            (
                ".",
                "invalid type: null, expected an object at line 1 column 4",
                "it must be an object, not null",
            ),
            (
                "keep_last",
                "invalid value: integer `-1`, expected usize at line 1 column 15",
                "keep_last: it must be a whole number, 0 or more, not -1",
            ),
            (
                "ids",
                "invalid type: string \"x, expected y\", expected a sequence",
                "ids: it must be a list, not \"x, expected y\"",
            ),
            ("x", "something of its own", "x: something of its own"),
        ] {
            assert_eq!(of_shape(path, said), expected);
        }
        assert_eq!(
            of_syntax("EOF while parsing an object at line 1 column 1"),
            "the body is not JSON: EOF while parsing an object, at line 1, column 1"
        );
    }
}
