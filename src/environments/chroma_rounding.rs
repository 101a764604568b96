//! What a Chroma server (1.5.9) gives back otherwise than it got it, found by trying.
//!
//! Metadata floats (4,000 values tried): its JSON parser rounds twice, once for the digits and once for the
//! exponent, and every value passes it twice, because the server keeps a log in JSON as well. SQLite then keeps
//! -0.0 as 0.
//!
//! Embeddings in cosine space (23,000 tried): the index keeps them normalised and multiplies by the norm again.

use crate::model::metadata::MetadataValue;

/// Rounds until a value stays.
const MAX_ROUNDS: usize = 16;

/// The value next to this one that such a server keeps as it is: itself, mostly.
fn kept(value: f64) -> f64 {
    let mut value = if value == 0.0 { 0.0 } else { value };
    for _ in 0..MAX_ROUNDS {
        let read = read(read(value));
        if read == value {
            break;
        }
        value = read;
    }
    value
}

/// A value as the parser reads its shortest text.
fn read(value: f64) -> f64 {
    let text = serde_json::to_string(&value.abs()).unwrap_or_default();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: u64 = 0;
    let mut exponent: i32 = exponent.parse().unwrap_or(0);
    for digit in whole.bytes() {
        digits = digits * 10 + u64::from(digit - b'0');
    }
    for digit in fraction.bytes() {
        let more = digits.checked_mul(10);
        let Some(more) = more.and_then(|more| more.checked_add(u64::from(digit - b'0'))) else {
            break;
        };
        digits = more;
        exponent -= 1;
    }
    let mut found = digits as f64;
    if exponent < -308 {
        found /= 1e308;
        exponent += 308;
    }
    let power: f64 = format!("1e{}", exponent.abs()).parse().unwrap_or(1.0);
    let found = if exponent < 0 {
        found / power
    } else {
        found * power
    };
    if value < 0.0 { -found } else { found }
}

/// An embedding as it comes out of an index in cosine space. All in f32, in this order.
fn normalised_and_back(embedding: &[f32]) -> Vec<f32> {
    let norm = embedding.iter().fold(0.0_f32, |sum, x| sum + x * x).sqrt();
    let factor = 1.0 / (norm + 1e-30);
    embedding.iter().map(|x| x * factor * norm).collect()
}

/// Whether an embedding comes out of an index in cosine space as it was put in.
pub(super) fn keeps(embedding: &[f32]) -> bool {
    same_bits(&normalised_and_back(embedding), embedding)
}

/// Whether an embedding is what such an index gives back for another. A record that is not in the index yet
/// comes as it was sent.
pub(super) fn is_given_back(sent: &[f32], found: &[f32]) -> bool {
    same_bits(sent, found) || same_bits(&normalised_and_back(sent), found)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Puts what such a server can keep in the place of floats that it cannot; whether there were any.
pub(super) fn fit(value: &mut MetadataValue) -> bool {
    let mut changed = false;
    let mut fit = |float: &mut f64| {
        let kept = kept(*float);
        changed |= kept.to_bits() != float.to_bits();
        *float = kept;
    };
    match value {
        MetadataValue::Float(float) => fit(float),
        MetadataValue::FloatList(floats) => floats.iter_mut().for_each(fit),
        _ => {}
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that were sent to a server, and what it gave back.
    #[test]
    fn values_are_read_as_the_server_reads_them() {
        for (sent, kept) in [
            (123456789.12345679, 123456789.1234568),
            (8.00861948435024e180, 8.00861948435024e180),
            (7.75147558226399e96, 7.751475582263988e96),
            (-7.907582444529419e105, -7.907582444529417e105),
            (1.1625261530736105e-286, 1.16252615307361e-286),
            (0.1, 0.1),
            (5e-324, 5e-324),
            (1e-310, 1e-310),
            (f64::MAX, f64::MAX),
            (1.0 / 3.0, 1.0 / 3.0),
            (1e22, 1e22),
        ] {
            assert_eq!(read(read(sent)), kept, "{sent}");
        }
    }

    #[test]
    fn embeddings_of_another_length_than_one_change() {
        assert!(keeps(&[1.0, 0.0]) && keeps(&[0.0, 0.0]));
        let sent: Vec<f32> = (1..100_u8).map(|x| 1.0 / f32::from(x)).collect();
        assert!(!keeps(&sent));
        let mut found = normalised_and_back(&sent);
        assert!(is_given_back(&sent, &sent) && is_given_back(&sent, &found));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
        assert!(found.iter().zip(&sent).all(near));
        found.rotate_left(1);
        assert!(!is_given_back(&sent, &found));
    }

    #[test]
    fn what_is_kept_stays() {
        let mut value = MetadataValue::FloatList(vec![-0.0, 1.5, 123456789.12345679]);
        assert!(fit(&mut value));
        assert!(!fit(&mut value));
        let MetadataValue::FloatList(floats) = value else {
            panic!("another type");
        };
        assert_eq!(floats.first().map(|float| float.to_bits()), Some(0));
        assert!(!fit(&mut MetadataValue::Int(5)));
    }
}
