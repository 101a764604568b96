//! Names of environment variables that look like settings and are none.

use super::BASELINE;
use crate::error::{Error, Result};

const PREFIX: &str = "VECTORKEEP_";
/// What clients call the place where a service is.
const OF_CLIENTS: [&str; 1] = ["url"];

/// Section and key of a setting that there is, if only commented out. `NAME` stands for any name.
struct Known {
    section: String,
    key: String,
}

impl Known {
    fn variable(&self) -> String {
        let section = self.section.replace('.', "__");
        format!("VECTORKEEP__{section}__{}", self.key).to_ascii_uppercase()
    }

    /// Whether a name with single underscores means this.
    fn is_meant_by(&self, name: &str) -> bool {
        let section = match self.section.split_once('.') {
            Some((section, _)) => section,
            None => &self.section,
        };
        let Some(rest) = name
            .strip_prefix(section)
            .and_then(|rest| rest.strip_prefix('_'))
        else {
            return false;
        };
        match self.section.contains('.') {
            true => rest
                .strip_suffix(&self.key)
                .and_then(|place| place.strip_suffix('_'))
                .is_some_and(|place| !place.is_empty()),
            false => rest == self.key,
        }
    }
}

/// The settings that the baseline has or describes.
fn known() -> Vec<Known> {
    let (mut known, mut section) = (Vec::new(), String::new());
    for line in BASELINE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let head = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'));
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
        };
        if let Some(head) = head.filter(|head| is_name(head)) {
            section = head.replace(".staging", ".NAME");
        } else if let Some((key, _)) = line.split_once(" = ")
            && is_name(key)
        {
            known.push(Known {
                section: section.clone(),
                key: key.to_owned(),
            });
        }
    }
    known
}

/// What looks like a setting and is none is not passed over. Other names with this beginning are somebody else's: in
/// a cluster every process finds VECTORKEEP_PORT, VECTORKEEP_SERVICE_HOST and more.
///
/// # Errors
/// `InvalidArgument` that says which setting is meant.
pub(super) fn check(names: impl Iterator<Item = String>) -> Result<()> {
    let known = known();
    for name in names {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let rest = rest.to_ascii_lowercase();
        let rest = match rest.strip_prefix('_') {
            // Section and key are there, and their order is looked at when they are read.
            Some(rest) if rest.contains("__") => continue,
            Some(rest) => rest,
            None => &rest,
        };
        let whole = known.iter().filter(|known| known.is_meant_by(rest));
        let mut meant: Vec<String> = whole.map(Known::variable).collect();
        if meant.is_empty() && !OF_CLIENTS.contains(&rest) {
            let keys = known.iter().filter(|known| known.key == rest);
            meant.extend(keys.map(Known::variable));
        }
        if !meant.is_empty() {
            return Err(Error::invalid(format!(
                "{name} is no setting: it is {}, with two underscores",
                meant.join(" or ")
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_with_one_underscore_is_refused_and_a_clusters_names_are_not() {
        let check = |name: &str| check([name.to_owned()].into_iter());
        for (name, meant) in [
            (
                "VECTORKEEP_SERVER_MAX_BODY_BYTES",
                "VECTORKEEP__SERVER__MAX_BODY_BYTES",
            ),
            ("VECTORKEEP_DATA_DIR", "VECTORKEEP__STORAGE__DATA_DIR"),
            ("VECTORKEEP_LISTEN", "VECTORKEEP__SERVER__LISTEN"),
            ("VECTORKEEP__SERVER_LISTEN", "VECTORKEEP__SERVER__LISTEN"),
            ("VECTORKEEP__DATA_DIR", "VECTORKEEP__STORAGE__DATA_DIR"),
            ("VECTORKEEP_REPOSITORY_URL", "VECTORKEEP__REPOSITORY__URL"),
            // Not in the baseline's values, but in its words.
            (
                "VECTORKEEP_ACCESS_KEYS_FILE",
                "VECTORKEEP__ACCESS__KEYS_FILE",
            ),
            ("VECTORKEEP_KEYS_FILE", "VECTORKEEP__ACCESS__KEYS_FILE"),
            (
                "VECTORKEEP_ENVIRONMENTS_OLD_URL",
                "VECTORKEEP__ENVIRONMENTS__NAME__URL",
            ),
        ] {
            let refused = check(name).unwrap_err();
            assert!(refused.message().contains(meant), "{name}: {refused}");
        }
        for name in [
            "VECTORKEEP_PORT",
            "VECTORKEEP_SERVICE_HOST",
            "VECTORKEEP_PORT_8000_TCP_ADDR",
            "VECTORKEEP_URL",
            "VECTORKEEP__SERVER__LISTEN",
            "VECTORKEEP__ENVIRONMENTS__OLD__URL",
            "VECTORKEEP_CRASH_SEED",
            "PATH",
        ] {
            check(name).unwrap();
        }
    }
}
