//! Distances between vectors.
//!
//! Sixteen independent accumulators let the compiler vectorise the loops; results differ from a
//! sequential sum in the last bits only. The final distances of an answer are computed in f64.

use crate::model::configuration::Space;

const LANES: usize = 16;

fn accumulate(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += term(*x, *y);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| term(*x, *y)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Inner product.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, |x, y| x * y)
}

/// Squared Euclidean distance.
pub(super) fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, |x, y| (x - y) * (x - y))
}

/// Norms between which f32 arithmetic neither over- nor underflows for any dimension in use.
const SAFE_NORMS: std::ops::RangeInclusive<f64> = 1e-12..=1e15;

/// 1 / Euclidean norm; 0 for the zero vector, which makes its cosine distance to everything 1. NaN for a
/// vector so short or so long that its distances have to be computed in f64.
pub(super) fn inverse_norm(vector: &[f32]) -> f32 {
    let norm = vector
        .iter()
        .map(|x| f64::from(*x) * f64::from(*x))
        .sum::<f64>()
        .sqrt();
    if norm == 0.0 {
        0.0
    } else if SAFE_NORMS.contains(&norm) {
        (1.0 / norm) as f32
    } else {
        f32::NAN
    }
}

/// The distance in f64: `l2` squared Euclidean, `cosine` 1 - cos, `ip` 1 - dot.
pub(super) fn exact_distance(space: Space, a: &[f32], b: &[f32]) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| term(f64::from(*x), f64::from(*y)))
            .sum()
    };
    match space {
        Space::L2 => sum(|x, y| (x - y) * (x - y)),
        Space::Ip => 1.0 - sum(|x, y| x * y),
        Space::Cosine => {
            let norms = sum(|x, _| x * x).sqrt() * sum(|_, y| y * y).sqrt();
            if norms == 0.0 {
                1.0
            } else {
                1.0 - sum(|x, y| x * y) / norms
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> impl Strategy<Value = Vec<(f32, f32)>> {
        prop::collection::vec((-10.0_f32..10.0, -10.0_f32..10.0), 0..70)
    }

    proptest! {
        #[test]
        fn kernels_agree_with_f64(pairs in pair()) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let close = |x: f64, y: f64| (x - y).abs() <= 1e-2_f64.max(y.abs() * 1e-4);
            prop_assert!(close(f64::from(squared_l2(&a, &b)), exact_distance(Space::L2, &a, &b)));
            prop_assert!(close(1.0 - f64::from(dot(&a, &b)), exact_distance(Space::Ip, &a, &b)));
            let cosine = 1.0 - dot(&a, &b) * inverse_norm(&a) * inverse_norm(&b);
            prop_assert!(close(f64::from(cosine), exact_distance(Space::Cosine, &a, &b)));
        }
    }

    #[test]
    fn zero_vector_has_cosine_distance_one() {
        assert_eq!(exact_distance(Space::Cosine, &[0.0, 0.0], &[1.0, 2.0]), 1.0);
        assert_eq!(inverse_norm(&[0.0, 0.0]), 0.0);
    }
}
