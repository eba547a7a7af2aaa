//! The protocol of iroh-blobs, as far as it is answered: what a request for a blob or a collection says. Its bytes are
//! anybody's: nothing is taken on trust, and no memory for a length that was not held against what came.
//!
//! Source: `protocol.rs` and `protocol/range_spec.rs` of iroh-blobs 0.104, which encodes them with postcard.

use crate::content::Chunks;
use crate::model::BlobHash;

/// The name of the protocol.
pub const ALPN: &[u8] = b"/iroh-bytes/4";
/// Longest request that is read, in bytes. One for the rest of a collection has a few bytes for each file that is partly there.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// A request for parts of a blob and, if it is a collection, of the blobs that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetRequest {
    /// The blob or collection.
    pub blob: BlobHash,
    /// From which blob on what is wanted of each: zero is [`GetRequest::blob`] itself, one the first that it names. What is
    /// said last holds for all that follow.
    wanted: Vec<(u64, Chunks)>,
}

impl GetRequest {
    /// Reads a request, its kind included; `None` for other kinds, and for what no client of iroh-blobs sends.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes.get(..MAX_REQUEST_BYTES.min(bytes.len())).filter(|whole| whole.len() == bytes.len())?);
        // The kinds are numbered; this is "get".
        if rest.take::<1>()? != [0] {
            return None;
        }
        let blob = BlobHash::from_bytes(rest.take()?);
        let mut wanted = Vec::with_capacity(rest.length()?);
        let mut from = 0_u64;
        for number in 0..wanted.capacity() {
            let step = rest.varint()?;
            from = from.checked_add(step).filter(|_| number == 0 || step > 0)?;
            let (mut turns, mut chunk) = (Vec::with_capacity(rest.length()?), 0_u64);
            for _ in 0..turns.capacity() {
                chunk = chunk.checked_add(rest.varint()?)?;
                turns.push(chunk);
            }
            wanted.push((from, Chunks::new(turns)?));
        }
        rest.0.is_empty().then_some(Self { blob, wanted })
    }

    /// What is wanted of one blob: the chunks of its number. `None` when it is nothing.
    #[must_use]
    pub fn of(&self, number: u64) -> Option<&Chunks> {
        let at = self.wanted.partition_point(|(from, _)| *from <= number).checked_sub(1)?;
        self.wanted.get(at).map(|(_, chunks)| chunks).filter(|chunks| !chunks.is_empty())
    }

    /// Whether anything is wanted of what the blob names, which therefore has to be a collection.
    #[must_use]
    pub fn is_for_collection(&self) -> bool {
        let next = |at: usize| self.wanted.get(at + 1).map_or(u64::MAX, |(from, _)| *from);
        self.wanted.iter().enumerate().any(|(at, (_, chunks))| !chunks.is_empty() && next(at) > 1)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.0.split_off(..N)?.try_into().ok()
    }

    /// See [`put_varint`](crate::content). The shortest form alone is one.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
            if byte < 0x80 {
                return (byte > 0 || shift == 0).then_some(number);
            }
        }
        None
    }

    /// The length of a list whose elements take a byte or more each.
    fn length(&mut self) -> Option<usize> {
        let length = usize::try_from(self.varint()?).ok()?;
        (length <= self.0.len()).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(rest: &[u8]) -> Option<GetRequest> {
        GetRequest::decode(&[&[0][..], &[7; 32], rest].concat())
    }

    fn chunks(turns: &[u64]) -> Chunks {
        Chunks::new(turns.to_vec()).expect("ascending")
    }

    #[test]
    fn a_request_says_what_is_wanted_of_which_blob() {
        // A blob, whole.
        let whole = request(&[2, 0, 1, 0, 1, 0]).expect("a request");
        assert_eq!((whole.of(0), whole.of(1), whole.is_for_collection()), (Some(&chunks(&[0])), None, false));
        // A collection, and the last chunk of each that it names.
        let last = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let sizes = request(&[&[2, 0, 1, 0, 1, 1][..], &last].concat()).expect("a request");
        assert_eq!((sizes.of(0), sizes.of(9)), (Some(&chunks(&[0])), Some(&chunks(&[u64::MAX]))));
        assert!(sizes.is_for_collection());
        // Some chunks of the third blob alone.
        let third = request(&[2, 3, 2, 16, 16, 1, 0]).expect("a request");
        assert_eq!((third.of(2), third.of(3), third.of(4)), (None, Some(&chunks(&[16, 32])), None));
        assert!(third.is_for_collection());
        assert!(!request(&[0]).expect("nothing is wanted").is_for_collection());
    }

    #[test]
    fn other_kinds_lengths_that_lie_and_numbers_out_of_order_are_refused() {
        for kind in 1..=9 {
            assert_eq!(GetRequest::decode(&[&[kind], &[7; 32][..], &[1, 0, 1, 0]].concat()), None);
        }
        let too_long = [&[0][..], &[7; 32], &vec![0; MAX_REQUEST_BYTES]].concat();
        assert_eq!(GetRequest::decode(&too_long), None);
        for wrong in [
            &[][..],
            &[200, 1, 0, 0],
            &[1, 0, 9, 0],
            &[2, 0, 0, 0, 0],
            &[1, 0, 2, 3, 0],
            &[1, 0, 1, 0, 0],
            &[1, 0x80, 0, 1, 0],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(request(wrong), None, "{wrong:?}");
        }
    }
}
