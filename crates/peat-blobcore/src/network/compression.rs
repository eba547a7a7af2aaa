//! Blocks in fewer bytes (zstd, RFC 8878). Never takes memory for what a frame says of itself before it is held against what it
//! may come to, and never makes a block longer.

use super::wire::GROUP_BYTES;

/// Most work that is done for anybody, whatever they ask for: some 25 MB a second on a core.
const MAX_LEVEL: u8 = 9;
/// Of a longer block this much is tried first.
const SAMPLE_BYTES: usize = GROUP_BYTES as usize;
/// The sample is tried at this level: what cannot be compressed is let through at more than a gigabyte a second.
const SAMPLE_LEVEL: i32 = 1;
/// Below a saving of one part in so many it is not worth the work at the other end.
const LEAST_SAVING: usize = 32;

/// The block as one frame of zstd, if that is shorter by enough. Each block is judged by itself, by a part of it if it is long:
/// so the parts of a file that are compressed already cost little, and the others profit.
#[must_use]
pub fn compress(plain: &[u8], level: u8) -> Option<Vec<u8>> {
    if plain.len() >= 2 * SAMPLE_BYTES {
        // From the middle, where no hashes are.
        squeeze(&plain[plain.len() / 2..][..SAMPLE_BYTES], SAMPLE_LEVEL)?;
    }
    squeeze(plain, level.clamp(1, MAX_LEVEL).into())
}

fn squeeze(plain: &[u8], level: i32) -> Option<Vec<u8>> {
    let mut frame = vec![0; plain.len() - plain.len().div_ceil(LEAST_SAVING)];
    // It is an error when the room does not suffice.
    let length = zstd_safe::compress(frame.as_mut_slice(), plain, level).ok()?;
    frame.truncate(length);
    Some(frame)
}

/// The block that a frame holds; nothing when it is not exactly one frame of zstd that says that it comes to at most `most` bytes
/// and does.
#[must_use]
pub fn expand(frame: &[u8], most: usize) -> Option<Vec<u8>> {
    let size = usize::try_from(zstd_safe::get_frame_content_size(frame).ok()??).ok().filter(|size| *size <= most)?;
    if zstd_safe::find_frame_compressed_size(frame).ok()? != frame.len() {
        return None;
    }
    let mut plain = vec![0; size];
    let length = zstd_safe::decompress(plain.as_mut_slice(), frame).ok()?;
    (length == size).then_some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0_u32..).flat_map(|line| format!("{line:08} a line of a log, as there are many\n").into_bytes()).take(length).collect()
    }

    /// Bytes without a pattern.
    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn text_is_a_fraction_and_noise_is_left_alone() {
        for length in [1000, 16_384, 40_000, 1_048_576] {
            let (text, noise) = (text(length), noise(length));
            let frame = compress(&text, 3).expect("it has patterns");
            assert!(frame.len() * 3 < text.len(), "{length}: {}", frame.len());
            assert_eq!(expand(&frame, length), Some(text));
            assert_eq!(compress(&noise, u8::MAX), None, "{length}");
        }
        assert_eq!(compress(&[], 3), None);
    }

    #[test]
    fn a_frame_that_is_not_what_it_says_is_refused() {
        let plain = text(100_000);
        let frame = compress(&plain, 3).expect("it has patterns");
        assert_eq!(expand(&frame, plain.len() - 1), None, "it is longer than it may be");
        for cut in [0, 1, 5, frame.len() / 2, frame.len() - 1] {
            assert_eq!(expand(&frame[..cut], plain.len()), None, "cut at {cut}");
        }
        assert_eq!(expand(&[&frame[..], &[0]].concat(), plain.len()), None, "a byte follows");
        assert_eq!(expand(&[&frame[..], &frame].concat(), 2 * plain.len()), None, "another frame follows");
        let bomb = squeeze(&vec![0; 1 << 26], 1).expect("it is nothing but zeros");
        assert!(bomb.len() < 1 << 15, "{}", bomb.len());
        assert_eq!(expand(&bomb, 1 << 20), None);
    }

    proptest! {
        #[test]
        fn any_bytes_expand_to_no_more_than_they_may(bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<(u16, u8)>()) {
            prop_assert!(expand(&bytes, 1000).is_none_or(|plain| plain.len() <= 1000));
            let mut frame = compress(&text(2000), 3).expect("it has patterns");
            let at = usize::from(flip.0) % frame.len();
            frame[at] ^= flip.1;
            prop_assert!(expand(&frame, 2000).is_none_or(|plain| plain.len() <= 2000));
        }
    }
}
