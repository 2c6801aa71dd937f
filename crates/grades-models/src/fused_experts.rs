//! Experts that a checkpoint holds in one tensor a layer, as transformers has them in memory, and saves them if it is told not
//! to write the checkpoints' original form.

use std::borrow::Cow;
use std::ops::Range;

use grades_kernels::quant::PackedMatrix;
use half::bf16;

use crate::Error;
use crate::source::{Form, Source};

/// A [`Source`] in which each expert has matrices of its own (`mlp.experts.3.gate_proj.weight`, or mixtral's
/// `block_sparse_moe.experts.3.w1.weight`), also where the one below has `mlp.experts.gate_up_proj`, `[experts, 2 · inner,
/// hidden]`, and `mlp.experts.down_proj`, `[experts, hidden, inner]`, or as GGUF files a tensor of all experts for each role,
/// `mlp.experts.gate_proj.weight`.
pub(crate) struct FusedExperts<'a>(pub(crate) &'a dyn Source);

/// Where the rows of a matrix are.
struct Found {
    name: String,
    rows: Range<usize>,
    columns: usize,
}

/// A matrix of an expert, or the router of all: where it belongs.
struct Matrix<'a> {
    /// The prefix of its layer's tensors, without the dot.
    layer: &'a str,
    /// Gate, up or down, and the expert; a router has neither.
    of: Option<(&'static str, usize)>,
}

fn matrix(name: &str) -> Option<Matrix<'_>> {
    let inside =
        |rest: &'_ str| rest.strip_suffix(".mlp").or_else(|| rest.strip_suffix(".block_sparse_moe")).map(str::len);
    let name = name.strip_suffix(".weight")?;
    let (rest, last) = name.rsplit_once('.')?;
    if last == "gate" {
        return Some(Matrix { layer: &name[..inside(rest)?], of: None });
    }
    let role = match last {
        "gate_proj" | "w1" => "gate_proj",
        "up_proj" | "w3" => "up_proj",
        "down_proj" | "w2" => "down_proj",
        _ => return None,
    };
    let (rest, expert) = rest.rsplit_once(".experts.")?;
    Some(Matrix { layer: &name[..inside(rest)?], of: Some((role, expert.parse().ok()?)) })
}

/// The tensor of a GGUF file in which a matrix of an expert lies with those of all others, and which of them it is; a router
/// has its tensor alone.
pub(crate) fn stacked(name: &str) -> Option<(String, Option<usize>)> {
    let Matrix { layer, of } = matrix(name)?;
    Some(match of {
        None => (format!("{layer}.mlp.gate.weight"), None),
        Some((role, expert)) => (format!("{layer}.mlp.experts.{role}.weight"), Some(expert)),
    })
}

/// The names of the tensors in which a matrix of an expert may lie with those of all others.
pub(crate) fn holders(name: &str) -> Vec<String> {
    let fused = matrix(name).and_then(|matrix| {
        let (role, _) = matrix.of?;
        let tensor = if role == "down_proj" { role } else { "gate_up_proj" };
        Some(format!("{}.mlp.experts.{tensor}", matrix.layer))
    });
    fused.into_iter().chain(stacked(name).map(|(tensor, _)| tensor)).collect()
}

impl FusedExperts<'_> {
    /// Where a matrix is that has no tensor of its own.
    fn find(&self, name: &str) -> Option<Found> {
        if self.0.shape(name).is_some() {
            return None;
        }
        let expert = matrix(name)?.of;
        let of_tensor = |tensor: String| match (self.0.shape(&tensor)?.as_slice(), expert) {
            (&[rows, columns], None) => Some(Found { name: tensor, rows: 0..rows, columns }),
            (&[experts, rows, columns], Some((role, expert))) if expert < experts => {
                // Gate and up lie below one another where they are fused.
                let (part, parts) = match role {
                    _ if !tensor.ends_with("gate_up_proj") => (0, 1),
                    "up_proj" => (1, 2),
                    _ => (0, 2),
                };
                let (first, own) = (expert * rows + part * rows / parts, rows / parts);
                rows.is_multiple_of(parts).then_some(Found { name: tensor, rows: first..first + own, columns })
            }
            _ => None,
        };
        holders(name).into_iter().find_map(of_tensor)
    }
}

impl Source for FusedExperts<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.find(name) {
            Some(Found { rows, columns, .. }) => Some(vec![rows.len(), columns]),
            None => self.0.shape(name),
        }
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        match self.find(name) {
            Some(Found { name, rows, .. }) => self.0.load_rows(&name, rows),
            None => self.0.load(name, shape),
        }
    }

    fn form(&self, name: &str) -> Form {
        let Some(Found { name, rows, columns }) = self.find(name) else { return self.0.form(name) };
        match self.0.form(&name) {
            Form::Packed(bytes) => {
                let all = self.0.shape(&name).map_or(1, |shape| shape.iter().product::<usize>().max(1));
                Form::Packed((u128::from(bytes) * (rows.len() * columns) as u128 / all as u128) as u64)
            }
            form => form,
        }
    }

    fn load_half(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>, Error> {
        match self.find(name) {
            Some(_) => Ok(self.load(name, shape)?.into_iter().map(bf16::from_f32).collect()),
            None => self.0.load_half(name, shape),
        }
    }

    fn load_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        let found = self.find(name);
        let first = found.as_ref().map_or(0, |found| found.rows.start);
        let name = found.map_or(Cow::Borrowed(name), |found| Cow::Owned(found.name));
        self.0.load_rows(&name, first + rows.start..first + rows.end)
    }

    fn load_scale(&self, name: &str, width: usize, offset: f32) -> Result<Vec<f32>, Error> {
        self.0.load_scale(name, width, offset)
    }

    fn load_packed(&self, name: &str, shape: [usize; 2]) -> Result<PackedMatrix, Error> {
        match self.find(name) {
            Some(found) => self.0.load_packed_rows(&found.name, found.rows, found.columns),
            None => self.0.load_packed(name, shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tensors of these shapes, whose values count up.
    struct Counting(&'static [(&'static str, &'static [usize])]);

    impl Source for Counting {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.iter().find(|(known, _)| *known == name).map(|(_, shape)| shape.to_vec())
        }

        fn load(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, Error> {
            let shape = self.shape(name).ok_or_else(|| Error::Input(format!("no {name}")))?;
            Ok((0..shape.iter().product()).map(|i: usize| i as f32).collect())
        }
    }

    #[test]
    fn each_expert_has_its_rows_of_the_tensor_of_all() {
        let source = Counting(&[
            ("l.mlp.experts.gate_up_proj", &[3, 4, 2]),
            ("l.mlp.experts.down_proj", &[3, 2, 2]),
            ("l.mlp.gate.weight", &[3, 2]),
            ("n.mlp.experts.up_proj.weight", &[3, 2, 2]),
            ("m.mlp.experts.0.gate_proj.weight", &[1, 2]),
            ("m.mlp.experts.gate_up_proj", &[1, 3, 2]),
        ]);
        let fused = FusedExperts(&source);
        let check = |name: &str, shape: [usize; 2], first: usize| {
            assert_eq!(fused.shape(name), Some(shape.to_vec()), "{name}");
            let expected: Vec<f32> = (first..first + shape[0] * shape[1]).map(|i| i as f32).collect();
            assert_eq!(fused.load(name, &shape).unwrap(), expected, "{name}");
            assert_eq!(fused.load_rows(name, 1..2).unwrap(), expected[2..4], "{name}");
            assert_eq!(fused.load_packed(name, shape).unwrap().rows(), shape[0], "{name}");
        };
        for (matrix, shape, first) in [
            ("mlp.experts.0.gate_proj", [2, 2], 0),
            ("mlp.experts.0.up_proj", [2, 2], 4),
            ("mlp.experts.2.gate_proj", [2, 2], 16),
            ("mlp.experts.1.down_proj", [2, 2], 4),
            ("mlp.gate", [3, 2], 0),
            ("block_sparse_moe.experts.1.w1", [2, 2], 8),
            ("block_sparse_moe.experts.1.w3", [2, 2], 12),
            ("block_sparse_moe.experts.2.w2", [2, 2], 8),
            ("block_sparse_moe.gate", [3, 2], 0),
        ] {
            check(&format!("l.{matrix}.weight"), shape, first);
        }
        check("n.mlp.experts.2.up_proj.weight", [2, 2], 8);
        check("n.block_sparse_moe.experts.1.w3.weight", [2, 2], 4);

        // One that there is comes first, and what is not there stays absent.
        assert_eq!(fused.shape("m.mlp.experts.0.gate_proj.weight"), Some(vec![1, 2]));
        for name in [
            "l.mlp.experts.3.gate_proj",
            "l.mlp.experts.x.gate_proj",
            "l.mlp.experts.0.q_proj",
            "m.mlp.experts.0.up_proj",
        ] {
            let name = format!("{name}.weight");
            assert_eq!(fused.shape(&name), None, "{name}");
            assert!(fused.load(&name, &[2, 2]).unwrap_err().to_string().contains(&name));
        }
    }
}
