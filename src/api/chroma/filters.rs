//! Filters of a request: parsed, and held against the collection's schema.

use serde_json::Value;

use crate::app::App;
use crate::error::Result;
use crate::model::filter::Filter;
use crate::model::schema::Schema;

/// Whether a search's filter asks for disabled indexes; one that is no `where` clause is not judged.
///
/// # Errors
/// `InvalidArgument` naming the index.
pub(super) fn ensure_indexed(app: &App, schema: &Schema, filter: &Value) -> Result<()> {
    if let Ok(Some(filter)) = Filter::parse_where(filter, &app.filter_limits()) {
        filter.for_each_leaf(&mut |key, operand| schema.ensure_filterable(key, operand))?;
    }
    Ok(())
}

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
        filter.for_each_leaf(&mut |key, operand| schema.ensure_filterable(key, operand))?;
    }
    Ok(filter)
}
