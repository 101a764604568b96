//! Filters of a request: parsed, and held against the collection's schema.

use serde_json::Value;

use crate::app::App;
use crate::error::Result;
use crate::model::filter::Filter;
use crate::model::schema::Schema;

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
