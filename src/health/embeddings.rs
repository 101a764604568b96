//! Embeddings: right dimension, finite, norms, duplicates, and found again by the search.

use std::collections::HashSet;

use serde_json::json;
use uuid::Uuid;

use super::{Report, Status};
use crate::engine::{CollectionInfo, Engine, GetRequest, Projection, QueryRequest};
use crate::error::Result;
use crate::model::record::Record;

/// Vectors that are looked for with the search; each is compared with the whole collection.
const SELF_QUERIES: usize = 20;

/// What to look at.
#[derive(Clone, Debug)]
pub struct EmbeddingSelection {
    /// One collection, or all.
    pub collection: Option<Uuid>,
    /// Records per collection, spread over it.
    pub sample: usize,
}

/// Checks a sample of embeddings.
///
/// # Errors
/// `NotFound` for a named collection; `StorageFault` or `Unavailable` when records cannot be read.
pub fn check_embeddings(engine: &Engine, selection: &EmbeddingSelection) -> Result<Report> {
    let mut report = Report::default();
    let collections = match selection.collection {
        Some(id) => vec![engine.collection(id)?],
        None => engine.all_collections(),
    };
    report.pass("embeddings:checked", collections.len(), "collections");
    for info in collections {
        check_collection(&mut report, engine, &info, selection.sample)?;
    }
    Ok(report)
}

/// What a sample showed.
#[derive(Default)]
struct Findings {
    wrong_dimension: Vec<String>,
    not_finite: Vec<String>,
    zero_norm: Vec<String>,
    lost: Vec<String>,
    duplicates: u64,
    min_norm: f64,
    max_norm: f64,
}

fn check_collection(
    report: &mut Report,
    engine: &Engine,
    info: &CollectionInfo,
    sample: usize,
) -> Result<()> {
    let records = sample_of(engine, info, sample)?;
    let mut findings = examine(&records, info);
    let queried = search_again(engine, info, &records, &mut findings)?;
    let name = info.descriptor.name.to_string();
    let observed = json!({
        "collection": name,
        "checked_records": records.len(),
        "records": info.head.count,
        "dimension": info.descriptor.definition.dimension,
        "self_queries": queried,
        "zero_norm": findings.zero_norm.len(),
        "duplicates": findings.duplicates,
        "min_norm": findings.min_norm,
        "max_norm": findings.max_norm,
    });
    let broken: Vec<String> = [
        ("of another dimension", &findings.wrong_dimension),
        ("not finite", &findings.not_finite),
        ("not found by the search", &findings.lost),
    ]
    .into_iter()
    .filter(|(_, ids)| !ids.is_empty())
    .map(|(what, ids)| format!("{} {what}, first {:?}", ids.len(), ids.first()))
    .collect();
    let (status, output) = if records.is_empty() && info.head.count > 0 {
        (
            Status::Fail,
            Some(format!("{name}: nothing could be looked at")),
        )
    } else if !broken.is_empty() {
        (Status::Fail, Some(format!("{name}: {}", broken.join("; "))))
    } else if !findings.zero_norm.is_empty() {
        let first = findings.zero_norm.first();
        (
            Status::Warn,
            Some(format!(
                "{name}: {} zero vectors, first {first:?}",
                findings.zero_norm.len()
            )),
        )
    } else {
        (Status::Pass, None)
    };
    report.add("embeddings:sample", status, observed, "collection", output);
    Ok(())
}

/// Pages spread evenly over the collection, so that the sample is not just its beginning.
fn sample_of(engine: &Engine, info: &CollectionInfo, sample: usize) -> Result<Vec<Record>> {
    const PAGES: usize = 10;
    let count = usize::try_from(info.head.count).unwrap_or(usize::MAX);
    let projection = Projection {
        embedding: true,
        ..Projection::default()
    };
    let page = |offset: usize, limit: usize| {
        engine.get(
            info.descriptor.id,
            &GetRequest {
                limit: Some(limit),
                offset,
                ..GetRequest::default()
            },
            projection,
        )
    };
    if sample >= count {
        return page(0, count);
    }
    let per_page = sample.div_ceil(PAGES).max(1);
    let mut records = Vec::new();
    for number in 0..PAGES.min(sample) {
        let offset = number * (count / PAGES.min(sample));
        let wanted = per_page.min(sample - records.len());
        if wanted > 0 {
            records.extend(page(offset, wanted)?);
        }
    }
    Ok(records)
}

fn examine(records: &[Record], info: &CollectionInfo) -> Findings {
    let mut findings = Findings {
        min_norm: f64::INFINITY,
        ..Findings::default()
    };
    let dimension = info
        .descriptor
        .definition
        .dimension
        .map(|dimension| dimension as usize);
    let mut seen = HashSet::new();
    for record in records {
        if Some(record.embedding.len()) != dimension {
            findings.wrong_dimension.push(record.id.clone());
        }
        if !record
            .embedding
            .iter()
            .all(|component| component.is_finite())
        {
            findings.not_finite.push(record.id.clone());
        }
        let norm = record
            .embedding
            .iter()
            .map(|component| f64::from(*component).powi(2))
            .sum::<f64>()
            .sqrt();
        if norm == 0.0 {
            findings.zero_norm.push(record.id.clone());
        }
        findings.min_norm = findings.min_norm.min(norm);
        findings.max_norm = findings.max_norm.max(norm);
        let bits: Vec<u32> = record
            .embedding
            .iter()
            .map(|component| component.to_bits())
            .collect();
        if !seen.insert(bits) {
            findings.duplicates += 1;
        }
    }
    if records.is_empty() {
        findings.min_norm = 0.0;
    }
    findings
}

/// Looks for some of the records with their own vectors, through the path that clients use. A record is
/// lost when it is neither in the answer nor beaten by all of it.
fn search_again(
    engine: &Engine,
    info: &CollectionInfo,
    records: &[Record],
    findings: &mut Findings,
) -> Result<usize> {
    let step = records.len().div_ceil(SELF_QUERIES).max(1);
    let mut queried = 0;
    for record in records.iter().step_by(step) {
        let ask = |ids: Option<Vec<String>>| QueryRequest {
            embeddings: vec![record.embedding.clone()],
            n_results: 1,
            ids,
            ..QueryRequest::default()
        };
        let id = info.descriptor.id;
        let own = engine.query(id, &ask(Some(vec![record.id.clone()])))?;
        let best = engine.query(id, &ask(None))?;
        let own = own.into_iter().flatten().next();
        let best = best.into_iter().flatten().next();
        queried += 1;
        match (own, best) {
            (Some(own), Some(best)) if best.distance <= own.distance => {}
            // Deleted since it was sampled.
            (None, _)
                if engine
                    .get(
                        id,
                        &GetRequest {
                            ids: Some(vec![record.id.clone()]),
                            ..GetRequest::default()
                        },
                        Projection::default(),
                    )?
                    .is_empty() => {}
            _ => findings.lost.push(record.id.clone()),
        }
    }
    Ok(queried)
}
