//! Tensors in the form that they are stored in, where that needs less memory than f32.

use half::bf16;
use rayon::prelude::*;

use super::error::Result;
use super::load::{VALUES_PER_READ, zeroed};
use super::{Checkpoint, Dtype, WeightsError, gguf};
use crate::source::Form;

impl Checkpoint {
    /// How a tensor is stored: as bf16 counts what is to be had as it lies in the file, but for the order of its rows.
    pub fn form(&self, name: &str) -> Form {
        match self.tensors.get(name) {
            _ if self.joined.contains_key(name) => Form::Dense,
            Some(stored) if stored.info.dtype.is_quantized() => Form::Packed(stored.info.bytes),
            Some(stored) if stored.info.dtype == Dtype::BF16 && stored.shift == 0.0 => Form::Half,
            _ => Form::Dense,
        }
    }

    /// The values of a tensor that is stored in bf16 ([`Form::Half`]), row-major, in pieces as all threads read them.
    pub fn load_half(&self, name: &str) -> Result<Vec<bf16>> {
        let stored = self.stored(name)?;
        let file = &self.files[stored.file];
        if self.form(name) != Form::Half {
            let problem = format!("tensor {name}: it is stored as {} and not as BF16", stored.info.dtype);
            return Err(WeightsError::malformed(&file.path, problem));
        }
        let mut values = zeroed::<bf16>(name, stored.info.values())?;
        values.par_chunks_mut(VALUES_PER_READ).enumerate().try_for_each(|(index, piece)| {
            let first = (index * VALUES_PER_READ * size_of::<bf16>()) as u64;
            file.read_at(stored.offset + first, bytemuck::cast_slice_mut(piece))?;
            // They lie there with their low byte first; of processors that have it so, this does nothing.
            piece.iter_mut().for_each(|value| *value = bf16::from_bits(u16::from_le(value.to_bits())));
            Ok::<_, WeightsError>(())
        })?;
        Ok(match stored.interleaved_heads {
            Some(heads) => gguf::deinterleave(&values, stored.info.shape[0], heads),
            None => values,
        })
    }
}
