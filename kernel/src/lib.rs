//! Distances between vectors: exact in f64, and bounds on them from vectors quantized to bytes.
//!
//! Comparing bytes reads a quarter of the memory that comparing f32 does, and memory is what a scan waits
//! for. A vector x stands as `scale · codes` with the length of what quantizing took away kept beside it:
//! with |x - x̂| ≤ r, and the same for the query, |q·x - q̂·x̂| ≤ |q| r + |q - q̂| (|x| + r), by Cauchy and
//! Schwarz. So a scan over the bytes tells which vectors cannot be among the nearest; the others are
//! compared exactly, and the answer is that of a full comparison.
//!
//! A crate of its own, so that it is optimised where nothing else is (`[profile.dev]`): a query that compares 20,000
//! vectors takes as long in tests as in a release build.

use serde::{Deserialize, Serialize};

/// The distance between two embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// Squared Euclidean distance.
    #[default]
    L2,
    /// One minus the cosine of the angle.
    Cosine,
    /// One minus the inner product; may be negative.
    Ip,
}

/// Norms between which the arithmetic of the bounds neither over- nor underflows.
const SAFE_NORMS: std::ops::RangeInclusive<f64> = 1e-12..=1e15;
/// Greatest code of a stored vector.
const MAX_CODE: f32 = 127.0;
/// What f32 and f64 rounding may add to a bound, relative to the magnitudes that enter it.
const SLACK: f64 = 1e-6;

/// What quantizing did to a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// Component i is about `scale · codes[i]`.
    scale: f32,
    /// Length of the difference.
    residual: f32,
    /// Euclidean norm. NaN for a vector so short or so long that only f64 can compare it.
    norm: f32,
    /// 1 / norm; 0 for the zero vector.
    inverse_norm: f32,
}

/// Rounds a vector to bytes, which are appended.
pub fn quantize(vector: &[f32], codes: &mut Vec<i8>) -> Quantization {
    let greatest = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = greatest / MAX_CODE;
    let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let start = codes.len();
    // A subnormal scale has no finite inverse; such a vector is compared in f64 whatever its codes are.
    codes.extend(vector.iter().map(|x| nearest_code(x * factor)));
    let quantized = codes.get(start..).unwrap_or_default();
    let residual = sum(vector, quantized, |x, code| {
        let difference = f64::from(x) - f64::from(scale) * f64::from(code);
        difference * difference
    })
    .sqrt();
    let norm = norm(vector);
    let safe = norm == 0.0 || SAFE_NORMS.contains(&norm);
    Quantization {
        scale,
        residual: (residual * (1.0 + SLACK)) as f32,
        norm: if safe { norm as f32 } else { f32::NAN },
        inverse_norm: inverse(norm) as f32,
    }
}

/// The nearest integer of a number in -127..=127; anything for others. Added to 1.5 · 2²³ a number loses
/// its fraction, and the low bits of the sum are the integer: no library call for each component.
fn nearest_code(x: f32) -> i8 {
    (x + 12_582_912.0).to_bits() as i8
}

/// A query vector, prepared for comparison with quantized ones.
pub struct QuantizedQuery {
    codes: Vec<i16>,
    scale: f64,
    residual: f64,
    norm: f64,
    inverse_norm: f64,
    dot: ByteDot,
}

impl QuantizedQuery {
    /// `None` for a query so short or so long that only f64 can compare it.
    pub fn new(query: &[f32]) -> Option<Self> {
        let norm = norm(query);
        if norm != 0.0 && !SAFE_NORMS.contains(&norm) {
            return None;
        }
        // As fine as the sum of all products fits an i32.
        let products = i32::MAX as usize / (MAX_CODE as usize * query.len().max(1));
        let most = products.min(i16::MAX as usize) as f64;
        let greatest = query.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = if most >= 1.0 {
            f64::from(greatest) / most
        } else {
            0.0
        };
        let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let codes: Vec<i16> = query
            .iter()
            .map(|x| (f64::from(*x) * factor).round_ties_even() as i16)
            .collect();
        let residual = sum(query, &codes, |x, code| {
            let difference = f64::from(x) - scale * f64::from(code);
            difference * difference
        })
        .sqrt();
        Some(Self {
            codes,
            scale,
            residual,
            norm,
            inverse_norm: inverse(norm),
            dot: byte_dot(),
        })
    }

    /// The least and the greatest distance that a vector with these codes can have.
    pub fn bounds(&self, space: Space, codes: &[i8], quantization: &Quantization) -> (f64, f64) {
        let (scale, residual, norm) = (
            f64::from(quantization.scale),
            f64::from(quantization.residual),
            f64::from(quantization.norm),
        );
        if norm.is_nan() {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        let dot = f64::from((self.dot)(codes, &self.codes)) * self.scale * scale;
        let error = self.norm * residual + self.residual * (norm + residual);
        let (distance, error) = match space {
            Space::Ip => (1.0 - dot, error + SLACK * (self.norm * norm + 1.0)),
            Space::Cosine => {
                // 0 where one of them is the zero vector, as is the cosine then.
                let inverse = self.inverse_norm * f64::from(quantization.inverse_norm);
                (1.0 - dot * inverse, error * inverse + SLACK)
            }
            Space::L2 => {
                let squares = self.norm * self.norm + norm * norm;
                (squares - 2.0 * dot, 2.0 * error + SLACK * squares)
            }
        };
        (distance - error, distance + error)
    }
}

fn inverse(norm: f64) -> f64 {
    if norm == 0.0 { 0.0 } else { 1.0 / norm }
}

type ByteDot = fn(&[i8], &[i16]) -> i32;

/// The fastest way of this processor.
fn byte_dot() -> ByteDot {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(
            unsafe_code,
            reason = "the processor has what the function is compiled for"
        )]
        return |a, b| unsafe { byte_dot_avx2(a, b) };
    }
    byte_dot_portable
}

#[inline(always)]
fn byte_dot_portable(a: &[i8], b: &[i16]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(x, y)| i32::from(*x) * i32::from(*y))
        .sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn byte_dot_avx2(a: &[i8], b: &[i16]) -> i32 {
    byte_dot_portable(a, b)
}

const LANES: usize = 8;

/// Sum over the components in f64; independent lanes, so that the compiler vectorises.
fn sum<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += term(*x, *y);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| term(*x, *y)).sum();
    lanes.iter().sum::<f64>() + rest
}

fn norm(vector: &[f32]) -> f64 {
    sum(vector, vector, |x, _| f64::from(x) * f64::from(x)).sqrt()
}

/// The distance in f64: `l2` squared Euclidean, `cosine` 1 - cos (1 where a vector is zero), `ip` 1 - dot.
pub fn exact_distance(space: Space, a: &[f32], b: &[f32]) -> f64 {
    let dot = || sum(a, b, |x, y| f64::from(x) * f64::from(y));
    match space {
        Space::L2 => sum(a, b, |x, y| {
            let difference = f64::from(x) - f64::from(y);
            difference * difference
        }),
        Space::Ip => 1.0 - dot(),
        Space::Cosine => {
            let norms = norm(a) * norm(b);
            if norms == 0.0 {
                1.0
            } else {
                1.0 - dot() / norms
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACES: [Space; 3] = [Space::L2, Space::Ip, Space::Cosine];

    /// Of all magnitudes, some of them together in one vector.
    fn component() -> impl Strategy<Value = f32> {
        prop_oneof![
            3 => -1.0_f32..1.0,
            1 => -1000.0_f32..1000.0,
            1 => -1e-4_f32..1e-4,
            1 => Just(0.0),
        ]
    }

    /// One term after the other, as the definition says.
    fn naive(space: Space, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let dot: f64 = pairs().map(|(x, y)| x * y).sum();
        match space {
            Space::L2 => pairs().map(|(x, y)| (x - y) * (x - y)).sum(),
            Space::Ip => 1.0 - dot,
            Space::Cosine => {
                let square = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let norms = (square(a) * square(b)).sqrt();
                if norms == 0.0 { 1.0 } else { 1.0 - dot / norms }
            }
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_the_distance(pairs in prop::collection::vec((component(), component()), 1..400)) {
            let (query, vector): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let mut codes = Vec::new();
            let quantization = quantize(&vector, &mut codes);
            let prepared = QuantizedQuery::new(&query).expect("a safe norm");
            for space in SPACES {
                let exact = exact_distance(space, &query, &vector);
                let expected = naive(space, &query, &vector);
                prop_assert!((exact - expected).abs() <= 1e-9 * expected.abs().max(1.0));
                let (least, greatest) = prepared.bounds(space, &codes, &quantization);
                prop_assert!(least <= exact && exact <= greatest, "{:?} {} not in {}..{}", space, exact, least, greatest);
            }
        }

        #[test]
        fn products_of_bytes_do_not_overflow(len in 1..70_000_usize, sign: bool) {
            let codes = vec![-127_i8; len];
            let query = vec![if sign { 1.0_f32 } else { -1.0 }; len];
            let prepared = QuantizedQuery::new(&query).expect("a safe norm");
            let expected: i64 = codes.iter().zip(&prepared.codes).map(|(x, y)| i64::from(*x) * i64::from(*y)).sum();
            prop_assert_eq!(i64::from((prepared.dot)(&codes, &prepared.codes)), expected);
            prop_assert_eq!(i64::from(byte_dot_portable(&codes, &prepared.codes)), expected);
        }
    }

    #[test]
    fn bounds_are_tight_for_embeddings() {
        let vector: Vec<f32> = (0..384).map(|i| (i as f32 * 0.7).sin()).collect();
        let query: Vec<f32> = (0..384).map(|i| (i as f32 * 0.3).cos()).collect();
        let mut codes = Vec::new();
        let quantization = quantize(&vector, &mut codes);
        let (least, greatest) = QuantizedQuery::new(&query).expect("a safe norm").bounds(
            Space::Cosine,
            &codes,
            &quantization,
        );
        assert!(greatest - least < 0.02, "{least}..{greatest}");
    }

    #[test]
    fn vectors_that_only_f64_can_compare_are_never_ruled_out() {
        for size in [1e-30_f32, 1e-41, 1e30] {
            let mut codes = Vec::new();
            let quantization = quantize(&[size, -size], &mut codes);
            assert!(quantization.norm.is_nan());
            let query = QuantizedQuery::new(&[1.0, 2.0]).expect("a safe norm");
            let bounds = query.bounds(Space::L2, &codes, &quantization);
            assert_eq!(bounds, (f64::NEG_INFINITY, f64::INFINITY));
            assert!(QuantizedQuery::new(&[size, size]).is_none());
        }
    }

    #[test]
    fn a_zero_vector_has_cosine_distance_one() {
        let zero = [0.0; 4];
        assert_eq!(
            exact_distance(Space::Cosine, &zero, &[1.0, 2.0, 3.0, 4.0]),
            1.0
        );
        let mut codes = Vec::new();
        let quantization = quantize(&zero, &mut codes);
        assert_eq!((quantization.norm, quantization.residual), (0.0, 0.0));
        let (least, greatest) = QuantizedQuery::new(&[1.0; 4]).expect("a safe norm").bounds(
            Space::Cosine,
            &codes,
            &quantization,
        );
        assert!(least < 1.0 && greatest > 1.0 && greatest - least < 1e-5);
    }
}
