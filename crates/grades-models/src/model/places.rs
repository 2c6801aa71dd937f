//! Where tokens lie in time, height and width, those of pictures and those around them (M-RoPE, Wang et al. 2024).

use std::ops::Range;

use crate::Error;
use crate::nn::Grid;

/// The place of every token of samples `segments` of a flat batch. A text counts on by one in all three; what a picture has left
/// in place of its patches, a grid of `grids` for each in order, lies beside what comes before it as the picture does, and the
/// text behind it goes on past its longer side.
///
/// # Errors
/// If a run of `picture` tokens is not as long as its grid says.
pub(super) fn places(
    ids: &[u32],
    segments: &[Range<usize>],
    picture: u32,
    grids: &[Grid],
) -> Result<Vec<[u32; 3]>, Error> {
    let (mut places, mut grids) = (Vec::with_capacity(ids.len()), grids.iter());
    for segment in segments {
        let (mut at, mut next) = (segment.start, 0);
        while at < segment.end {
            if ids[at] != picture {
                places.push([next; 3]);
                (at, next) = (at + 1, next + 1);
                continue;
            }
            let run = grids.next().filter(|grid| {
                let tokens = ids.get(at..(at + grid.patches()).min(segment.end)).unwrap_or_default();
                tokens.len() == grid.patches() && tokens.iter().all(|&id| id == picture)
            });
            let Some(grid) = run else {
                return Err(Error::Input(format!(
                    "the sample at token {} has picture tokens for no whole picture; give each picture as many as it leaves rows",
                    segment.start
                )));
            };
            for frame in 0..grid.frames as u32 {
                for row in 0..grid.rows as u32 {
                    places.extend((0..grid.columns as u32).map(|column| [next + frame, next + row, next + column]));
                }
            }
            at += grid.patches();
            next += grid.rows.max(grid.columns) as u32;
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_on_past_the_longer_side_of_a_picture() {
        const PICTURE: u32 = 9;
        let ids = [1, 9, 9, 9, 9, 9, 9, 2, 3, 4, 9, 5];
        let grids = [Grid::still(2, 3), Grid::still(1, 1)];
        let found = places(&ids, &[0..9, 9..12], PICTURE, &grids).unwrap();
        let of_picture = [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3]];
        let expected = [&[[0; 3]][..], &of_picture, &[[4; 3], [5; 3]], &[[0; 3], [1; 3], [2; 3]]].concat();
        assert_eq!(found, expected);
        for (grids, segments) in [
            (&grids[..1], [0..9, 9..12]),
            (&[Grid::still(2, 3), Grid::still(1, 2)], [0..9, 9..12]),
            (&grids[..], [0..4, 4..12]),
        ] {
            assert!(places(&ids, &segments, PICTURE, grids).is_err());
        }
    }
}
