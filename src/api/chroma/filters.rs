//! Filters of a request: parsed, and held against the collection's schema.

use serde_json::Value;

use crate::app::App;
use crate::error::Result;
use crate::model::filter::{Filter, OperandType};
use crate::model::schema::{IndexKind, Schema};

/// `where` and `where_document` as one filter; `None` when neither is given.
///
/// # Errors
/// `InvalidArgument` for a malformed filter, one over a bound, or one on a disabled index.
pub(super) fn parse(
    app: &App,
    schema: &Schema,
    metadata: Option<&Value>,
    document: Option<&Value>,
) -> Result<Option<Filter>> {
    let limits = app.filter_limits();
    let metadata = metadata.map_or(Ok(None), |value| Filter::parse_where(value, &limits))?;
    let document = document.map_or(Ok(None), |value| {
        Filter::parse_where_document(value, &limits)
    })?;
    let filter = Filter::all([metadata, document]);
    if let Some(filter) = &filter {
        filter
            .for_each_leaf(&mut |key, operand| schema.ensure_filterable(key, index_of(operand)))?;
    }
    Ok(filter)
}

fn index_of(operand: OperandType) -> IndexKind {
    match operand {
        OperandType::Bool => IndexKind::Bool,
        OperandType::Int => IndexKind::Int,
        OperandType::Float => IndexKind::Float,
        OperandType::Str => IndexKind::Str,
        OperandType::FullText => IndexKind::FullText,
    }
}
