//! From JSON to the typed tree, within limits.

use regex::RegexBuilder;
use serde_json::Value;

use super::scalar::ScalarRef;
use super::{
    CompareOp, CompiledPattern, Condition, DOCUMENT_KEY, DocumentCondition, Filter, Scalar,
    ScalarSet,
};
use crate::error::{Error, Result};

/// Patterns in one clause, each of which holds some MiB of lazily built automata while it searches.
const MAX_PATTERNS: usize = 64;

/// Bounds on what a filter may cost; exceeding one is an invalid argument.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Levels of the tree, a lone condition being 1. Parsing, evaluating and dropping a filter recurse
    /// this deep, so it has to fit the stack.
    pub max_depth: usize,
    /// Conditions and `$and`/`$or` together. The values of an `$in` do not count.
    pub max_nodes: usize,
    /// Compiled size of one regular expression, in bytes.
    pub max_regex_bytes: usize,
}

impl Filter {
    /// Reads a `where` clause; `None` for JSON null.
    /// Errors: invalid argument for a malformed clause, a bad pattern or an exceeded limit.
    pub fn parse_where(value: &Value, limits: &Limits) -> Result<Option<Filter>> {
        Parser::parse(false, limits, value)
    }

    /// Reads a `where_document` clause; `None` for JSON null. Errors as [`Filter::parse_where`].
    pub fn parse_where_document(value: &Value, limits: &Limits) -> Result<Option<Filter>> {
        Parser::parse(true, limits, value)
    }
}

/// Reads one clause; counts what the limits bound.
struct Parser<'a> {
    /// The clause is a `where_document`.
    on_documents: bool,
    limits: &'a Limits,
    nodes: usize,
    patterns: usize,
}

impl Parser<'_> {
    fn parse(on_documents: bool, limits: &Limits, value: &Value) -> Result<Option<Filter>> {
        if value.is_null() {
            return Ok(None);
        }
        let mut parser = Parser {
            on_documents,
            limits,
            nodes: 0,
            patterns: 0,
        };
        parser.node(value, 1).map(Some)
    }

    fn node(&mut self, value: &Value, depth: usize) -> Result<Filter> {
        self.nodes += 1;
        if depth > self.limits.max_depth || self.nodes > self.limits.max_nodes {
            return Err(self.too_large());
        }
        let (key, operand) = self.only_member(value)?;
        match key {
            "$and" => self.children(operand, depth).map(Filter::And),
            "$or" => self.children(operand, depth).map(Filter::Or),
            _ if self.on_documents => self.document_leaf(key, operand),
            _ => self.metadata_leaf(key, operand),
        }
    }

    fn children(&mut self, operand: &Value, depth: usize) -> Result<Vec<Filter>> {
        let children = operand.as_array().ok_or_else(|| self.malformed())?;
        children.iter().map(|c| self.node(c, depth + 1)).collect()
    }

    fn metadata_leaf(&mut self, key: &str, operand: &Value) -> Result<Filter> {
        let (operator, operand) = match operand {
            Value::Object(_) => self.only_member(operand)?,
            _ => ("$eq", operand),
        };
        let condition = match operator {
            _ if key.starts_with('$') => None,
            "$contains" | "$not_contains" | "$regex" | "$not_regex" if key == DOCUMENT_KEY => {
                return self.document_leaf(operator, operand);
            }
            _ => condition(operator, operand),
        };
        Ok(Filter::Metadata {
            key: key.to_owned(),
            condition: condition.ok_or_else(|| self.malformed())?,
        })
    }

    fn document_leaf(&mut self, operator: &str, operand: &Value) -> Result<Filter> {
        let text = operand.as_str().ok_or_else(|| self.malformed())?;
        Ok(Filter::Document(match operator {
            "$contains" => DocumentCondition::Contains(text.to_owned()),
            "$not_contains" => DocumentCondition::NotContains(text.to_owned()),
            "$regex" => DocumentCondition::Regex(self.pattern(text)?),
            "$not_regex" => DocumentCondition::NotRegex(self.pattern(text)?),
            _ => return Err(self.malformed()),
        }))
    }

    fn pattern(&mut self, text: &str) -> Result<CompiledPattern> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(self.too_large());
        }
        let max_bytes = self.limits.max_regex_bytes;
        // The syntax tree takes 100 to 3,000 bytes per byte of text, and only what is compiled from it is
        // held to the limit. Compiled, plain text takes 32.
        let built = if text.len() > max_bytes / 32 {
            Err(regex::Error::CompiledTooBig(max_bytes))
        } else {
            RegexBuilder::new(text).size_limit(max_bytes).build()
        };
        built.map(CompiledPattern).map_err(|error| match error {
            // Chroma's spelling.
            regex::Error::Syntax(_) => Error::invalid(format!("Regex syntax errror: {error}")),
            _ => Error::invalid(format!("{error} (query.max_regex_bytes)")),
        })
    }

    fn only_member<'v>(&self, value: &'v Value) -> Result<(&'v str, &'v Value)> {
        let object = value.as_object().filter(|members| members.len() == 1);
        match object.and_then(|members| members.iter().next()) {
            Some((key, value)) => Ok((key, value)),
            None => Err(self.malformed()),
        }
    }

    /// Chroma's one text for whatever is malformed.
    fn malformed(&self) -> Error {
        let document = if self.on_documents { " document" } else { "" };
        Error::invalid(format!("Invalid where{document} clause"))
    }

    fn too_large(&self) -> Error {
        Error::invalid(format!(
            "The filter is too large: at most {} levels (query.max_filter_depth), {} conditions \
             (query.max_filter_nodes) and {MAX_PATTERNS} regular \
             expressions are allowed",
            self.limits.max_depth, self.limits.max_nodes
        ))
    }
}

fn condition(operator: &str, operand: &Value) -> Option<Condition> {
    let compare = |op| match scalar(operand)?.view() {
        ScalarRef::Number(operand) => Some(Condition::Compare { op, operand }),
        _ => None,
    };
    match operator {
        "$eq" => scalar(operand).map(Condition::Eq),
        "$ne" => scalar(operand).map(Condition::Ne),
        "$gt" => compare(CompareOp::Gt),
        "$gte" => compare(CompareOp::Gte),
        "$lt" => compare(CompareOp::Lt),
        "$lte" => compare(CompareOp::Lte),
        "$in" => scalars(operand).map(Condition::In),
        "$nin" => scalars(operand).map(Condition::NotIn),
        "$contains" => scalar(operand).map(Condition::Contains),
        "$not_contains" => scalar(operand).map(Condition::NotContains),
        _ => None,
    }
}

fn scalars(value: &Value) -> Option<ScalarSet> {
    let scalars = value.as_array()?.iter().map(scalar);
    ScalarSet::new(scalars.collect::<Option<_>>()?)
}

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(v) => Some(Scalar::Bool(*v)),
        Value::String(v) => Some(Scalar::Str(v.clone())),
        Value::Number(v) if v.is_f64() => v.as_f64().map(Scalar::Float),
        // Chroma refuses integers beyond i64.
        Value::Number(v) => v.as_i64().map(Scalar::Int),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Kind;
    use crate::model::filter::tests::LIMITS;

    /// An `$and` in an `$and` …, `depth` levels with the leaf.
    fn nested(depth: usize, leaf: Value) -> Value {
        (1..depth).fold(leaf, |inner, _| {
            // Not by `json!`, which would copy what is inside at every level.
            let member = ("$and".to_owned(), Value::Array(vec![inner]));
            Value::Object(std::iter::once(member).collect())
        })
    }

    fn refusal(parsed: Result<Option<Filter>>) -> String {
        let error = parsed.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.message().to_owned()
    }

    #[test]
    fn depth_is_bounded() {
        let clause = |depth| Filter::parse_where(&nested(depth, json!({"i": 1})), &LIMITS);
        assert!(clause(LIMITS.max_depth).is_ok());
        let message = refusal(clause(LIMITS.max_depth + 1));
        assert!(message.contains("at most 16 levels"), "{message}");
        // Far deeper than what a parser without the bound has stack for; leaked, because dropping a
        // `Value` recurses as well.
        let deep = Box::leak(Box::new(nested(1_000_000, json!({"$contains": "x"}))));
        refusal(Filter::parse_where_document(deep, &LIMITS));
        refusal(Filter::parse_where(deep, &LIMITS));
    }

    #[test]
    fn conditions_are_bounded() {
        let clause = |leaves: usize| json!({"$or": vec![json!({"i": 1}); leaves]});
        assert!(Filter::parse_where(&clause(LIMITS.max_nodes - 1), &LIMITS).is_ok());
        let message = refusal(Filter::parse_where(&clause(LIMITS.max_nodes), &LIMITS));
        assert!(message.contains("1000 conditions"), "{message}");
    }

    #[test]
    fn regular_expressions_are_bounded() {
        let parse =
            |pattern: &str| Filter::parse_where_document(&json!({"$regex": pattern}), &LIMITS);
        assert!(parse(r"\w{20}").is_ok());
        assert!(parse(&"a".repeat(LIMITS.max_regex_bytes / 40)).is_ok());
        let too_large =
            "Compiled regex exceeds size limit of 1048576 bytes. (query.max_regex_bytes)";
        assert_eq!(refusal(parse(r"(\w{100}){100}")), too_large);
        assert_eq!(
            refusal(parse(&"(".repeat(LIMITS.max_regex_bytes / 32 + 1))),
            too_large
        );
        // The same bound holds where a `where` clause searches documents.
        let clause = json!({"#document": {"$not_regex": r"(\w{100}){100}"}});
        assert_eq!(refusal(Filter::parse_where(&clause, &LIMITS)), too_large);

        let many = |n: usize| json!({"$or": vec![json!({"$regex": "a"}); n]});
        assert!(Filter::parse_where_document(&many(MAX_PATTERNS), &LIMITS).is_ok());
        let message = refusal(Filter::parse_where_document(
            &many(MAX_PATTERNS + 1),
            &LIMITS,
        ));
        assert!(message.contains("64 regular expressions"), "{message}");
    }
}
