//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-split convention of Hugging Face:
//! element `i` of a head is paired with element `i + rotary_dim / 2`.

use crate::OutOfRange;
use crate::dispatch::multiversion;
use crate::math::mul_add;

/// Cosines and sines of every position's angles, `[positions, rotary_dim / 2]` each.
#[derive(Clone, Copy, Debug)]
pub struct RotaryTable<'a> {
    /// cos(position · frequency), times the attention scaling where a model has one.
    pub cos: &'a [f32],
    /// sin(position · frequency), likewise.
    pub sin: &'a [f32],
    /// How many elements at the start of each head rotate; even, at most the head's size.
    pub rotary_dim: usize,
}

/// The sense of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// By the angle: the forward pass.
    Forward,
    /// By minus the angle: the backward pass.
    Inverse,
}

impl RotaryTable<'_> {
    /// # Errors
    /// If a position lies outside the table.
    ///
    /// # Panics
    /// If the table does not fit heads of `head_dim`.
    pub(crate) fn check(&self, head_dim: usize, positions: &[u32]) -> Result<(), OutOfRange> {
        assert_eq!(self.rotary_dim % 2, 0, "an odd number of elements cannot be paired");
        assert!(self.rotary_dim <= head_dim, "more elements rotate than a head has");
        assert_eq!(self.cos.len(), self.sin.len());
        if self.rotary_dim == 0 {
            return Ok(());
        }
        let limit = self.cos.len() / (self.rotary_dim / 2);
        match positions.iter().position(|&position| position as usize >= limit) {
            Some(row) => Err(OutOfRange { what: "position", row, value: i64::from(positions[row]), limit }),
            None => Ok(()),
        }
    }

    /// Rotates `heads [heads, head_dim]` of one row in place by the angles of `position`.
    pub(crate) fn rotate(&self, heads: &mut [f32], head_dim: usize, position: u32, rotation: Rotation) {
        let half = self.rotary_dim / 2;
        let start = position as usize * half;
        let sign = match rotation {
            Rotation::Forward => 1.0,
            Rotation::Inverse => -1.0,
        };
        rotate_heads(heads, head_dim, &self.cos[start..start + half], &self.sin[start..start + half], sign);
    }
}

multiversion! {
    fn rotate_heads<FMA>(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        for head in heads.chunks_exact_mut(head_dim) {
            let (first, rest) = head.split_at_mut(cos.len());
            for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                let sin = sin * sign;
                let rotated = mul_add::<FMA>(*a, *cos, -(*b * sin));
                *b = mul_add::<FMA>(*b, *cos, *a * sin);
                *a = rotated;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{RotaryTable, Rotation};
    use crate::OutOfRange;
    use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers};

    /// Hugging Face's `x · cos + rotate_half(x) · sin` with cos and sin doubled to the whole rotary width.
    fn reference(x: &[f64], heads: usize, head_dim: usize, table: RotaryTable, positions: &[u32]) -> Vec<f64> {
        let half = table.rotary_dim / 2;
        let mut out = x.to_vec();
        for (i, out) in out.iter_mut().enumerate() {
            let (row, d) = (i / (heads * head_dim), i % head_dim);
            if d < table.rotary_dim {
                let angle = positions[row] as usize * half + d % half;
                let rotated = if d < half { -x[i + half] } else { x[i - half] };
                *out = x[i] * f64::from(table.cos[angle]) + rotated * f64::from(table.sin[angle]);
            }
        }
        out
    }

    /// Every head of `x [rows, heads, head_dim]` rotated, row `r` by the angles of `positions[r]`.
    pub(crate) fn rotated(
        x: &[f32],
        heads: usize,
        head_dim: usize,
        table: RotaryTable,
        positions: &[u32],
        rotation: Rotation,
    ) -> Vec<f32> {
        let mut x = x.to_vec();
        for (row, &position) in x.chunks_exact_mut(heads * head_dim).zip(positions) {
            table.rotate(row, head_dim, position, rotation);
        }
        x
    }

    #[test]
    fn rotations_equal_the_reference_and_undo_each_other() {
        for (heads, head_dim, rotary_dim, rows) in
            [(1, 2, 2, 1), (3, 8, 8, 33), (2, 64, 64, 17), (2, 10, 6, 5), (1, 256, 256, 3), (2, 8, 8, 0)]
        {
            let angles = numbers(1, 20 * rotary_dim / 2);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| ((3.0 * a).cos(), (3.0 * a).sin())).unzip();
            let table = RotaryTable { cos: &cos, sin: &sin, rotary_dim };
            let positions: Vec<u32> = (0..rows).map(|row| row * 7 % 20).collect();
            let x = numbers(2, rows as usize * heads * head_dim);
            let dout = numbers(3, x.len());
            let rotate = |x: &[f32], rotation| rotated(x, heads, head_dim, table, &positions, rotation);
            let y = rotate(&x, Rotation::Forward);
            assert_close(&y, &reference(&in_f64(&x), heads, head_dim, table, &positions), 1e-6, "forward");
            assert_close(&rotate(&y, Rotation::Inverse), &in_f64(&x), 1e-6, "there and back");
            let loss = |x: &[f64]| inner(&reference(x, heads, head_dim, table, &positions), &dout);
            assert_gradient(loss, &x, &rotate(&dout, Rotation::Inverse), "gradient");
        }
    }

    #[test]
    fn a_position_outside_the_table_is_an_error() {
        let table = RotaryTable { cos: &[0.0; 4], sin: &[1.0; 4], rotary_dim: 2 };
        let error = table.check(2, &[0, 3, 4]).unwrap_err();
        assert_eq!(error, OutOfRange { what: "position", row: 2, value: 4, limit: 4 });
        assert_eq!(table.check(2, &[0, 3]), Ok(()));
    }
}
