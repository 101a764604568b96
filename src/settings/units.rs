//! Times, sizes and paths as people write them.

use serde_json::Value;

use super::Fault;

const TIME: &str = "it must be a number of ms, or a time such as \"24h\", \"5m\" or \"250ms\"";
const SIZE: &str = "it must be a number of bytes, or a size such as \"64MB\" or \"1GiB\"";

/// Puts what a string stands for in its place, where the setting's name says its kind.
pub(super) fn resolve(name: &str, value: Value) -> Result<Value, Fault> {
    let Value::String(text) = &value else {
        return Ok(value);
    };
    let wrong = |what: &str| Fault::new(what).found(format_args!("{text:?}"));
    if name.ends_with("_ms") {
        return millis(text).map(Value::from).ok_or_else(|| wrong(TIME));
    }
    if name.ends_with("_bytes") || name.contains("_bytes_per_") {
        return bytes(text).map(Value::from).ok_or_else(|| wrong(SIZE));
    }
    if name.ends_with("_file") || name.ends_with("_dir") || name == "url" {
        return at_home(text).map(Value::from);
    }
    Ok(value)
}

/// A number without a unit; `_` may stand between digits.
fn number(text: &str) -> Option<u64> {
    text.replace('_', "").parse().ok()
}

/// Milliseconds of a number, or of numbers with units.
fn millis(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(number) = number(text) {
        return Some(number);
    }
    let time = humantime::parse_duration(text).ok()?;
    // Less than a millisecond would be lost.
    (time.subsec_nanos() % 1_000_000 == 0).then_some(())?;
    u64::try_from(time.as_millis()).ok()
}

/// Bytes of a number, or of a number with one unit. `M` alone is none: for some it is 1000², for others 1024².
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_');
    let (amount, unit) = text.split_at(end.unwrap_or(text.len()));
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number(amount)?.checked_mul(factor)
}

/// A path whose `~` is the home directory, as a shell has it.
fn at_home(text: &str) -> Result<String, Fault> {
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(text.to_owned());
    };
    if !(rest.is_empty() || rest.starts_with('/')) {
        let what = "~ stands for the home directory in the beginning of a path: ~/backups, or ./~name for a file of \
                    that name";
        return Err(Fault::new(what));
    }
    match std::env::var("HOME") {
        Ok(home) if home.starts_with('/') => Ok(format!("{}{rest}", home.trim_end_matches('/'))),
        _ => Err(Fault::new(
            "~ stands for the home directory, and HOME does not say which: write the whole path",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        for (text, expected) in [
            ("24h", Some(86_400_000)),
            ("5m", Some(300_000)),
            ("1h 30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("30days", Some(2_592_000_000)),
            ("1_000", Some(1_000)),
            ("5us", None),
            ("-5m", None),
            ("", None),
            ("99999999999999y", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
        for (text, expected) in [
            ("64MB", Some(64_000_000)),
            ("1GiB", Some(1 << 30)),
            ("1 gib", Some(1 << 30)),
            ("41_943_040", Some(41_943_040)),
            ("512B", Some(512)),
            ("64M", None),
            ("1.5GB", None),
            ("GB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_at_home_is_found_there_and_nobody_elses_is() {
        let home = std::env::var("HOME").unwrap();
        assert_eq!(at_home("~/backups").unwrap(), format!("{home}/backups"));
        assert_eq!(at_home("./~x").unwrap(), "./~x");
        assert!(at_home("~root/backups").is_err());
    }
}
