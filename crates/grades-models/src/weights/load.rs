//! Reading the values of tensors: decoded, by rows, or in the blocks that they are stored in.

use std::ops::Range;

use grades_kernels::elementwise;
use grades_kernels::quant::{Nf4, NotFinite, PackedMatrix};
use rayon::prelude::*;

use super::{Checkpoint, Dtype, Joined, Result, Stored, TensorInfo, WeightsError, bitsandbytes, gguf};

/// Values decoded per read: 1 MiB of f32, a multiple of every quantisation's block.
pub(super) const VALUES_PER_READ: usize = 1 << 18;

impl Checkpoint {
    /// The values of a tensor, row-major in [`TensorInfo::shape`], decoded to f32 in pieces as all threads read them.
    pub fn load_f32(&self, name: &str) -> Result<Vec<f32>> {
        if let Some((info, of)) = self.joined.get(name) {
            return self.together(info, of);
        }
        let stored = self.stored(name)?;
        let mut values = zeroed::<f32>(name, stored.info.values())?;
        if let Some(scales) = &stored.scales {
            self.nf4(name, stored, scales)?.decode(&mut values);
            return Ok(values);
        }
        values.par_chunks_mut(VALUES_PER_READ).enumerate().try_for_each_init(Vec::new, |bytes, (index, piece)| {
            self.read_piece(name, stored, index * VALUES_PER_READ, piece, bytes)
        })?;
        Ok(match stored.interleaved_heads {
            Some(heads) => gguf::deinterleave(&values, stored.info.shape[0], heads),
            None => values,
        })
    }

    /// The values of a tensor that several stored ones are together.
    fn together(&self, info: &TensorInfo, of: &Joined) -> Result<Vec<f32>> {
        let parts: Vec<Vec<f32>> = of.parts().iter().map(|part| self.load_f32(part)).collect::<Result<_>>()?;
        Ok(match of {
            Joined::Rows(_) => parts.concat(),
            Joined::Frames(_) => {
                let pixels = info.shape.iter().skip(3).product::<usize>().max(1);
                let channels = info.values() / (parts.len() * pixels).max(1);
                let frame = |channel: usize| parts.iter().flat_map(move |part| &part[channel * pixels..][..pixels]);
                (0..channels).flat_map(frame).copied().collect()
            }
        })
    }

    /// Some rows of a tensor, whose row is its last dimension: of one whose rows lie in the file as they are, nothing else is read.
    pub fn load_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        if let Some((info, of)) = self.joined.get(name) {
            let columns = info.shape.last().copied().unwrap_or(1);
            let all = self.together(info, of)?;
            return all
                .get(rows.start * columns..rows.end * columns)
                .map(<[f32]>::to_vec)
                .ok_or_else(|| WeightsError::malformed(&self.path, format!("tensor {name}: it has no rows {rows:?}")));
        }
        let stored = self.stored(name)?;
        let columns = stored.info.shape.last().copied().unwrap_or(1);
        let wanted = rows.start * columns..rows.end * columns;
        if wanted.end > stored.info.values() {
            let path = &self.files[stored.file].path;
            return Err(WeightsError::malformed(path, format!("tensor {name}: it has no rows {rows:?}")));
        }
        let whole_blocks = stored.info.dtype.block().is_some_and(|(values, _)| columns.is_multiple_of(values));
        if stored.scales.is_some() || stored.interleaved_heads.is_some() || !whole_blocks {
            return Ok(self.load_f32(name)?[wanted].to_vec());
        }
        let mut values = zeroed::<f32>(name, wanted.len())?;
        values.par_chunks_mut(VALUES_PER_READ).enumerate().try_for_each_init(Vec::new, |bytes, (index, piece)| {
            self.read_piece(name, stored, wanted.start + index * VALUES_PER_READ, piece, bytes)
        })?;
        Ok(values)
    }

    /// A matrix in the blocks that it is stored in, rows in the order of [`TensorInfo::shape`]; one that is stored dense is
    /// encoded as NF4 in pieces as it is read.
    pub fn packed(&self, name: &str) -> Result<PackedMatrix> {
        let stored = self.stored(name)?;
        let malformed = |problem: String| {
            WeightsError::malformed(&self.files[stored.file].path, format!("tensor {name}: {problem}"))
        };
        let &[rows, columns] = stored.info.shape.as_slice() else {
            return Err(malformed(format!("its shape {:?} is not that of a matrix", stored.info.shape)));
        };
        let matrix = match (&stored.scales, stored.info.dtype) {
            (Some(scales), _) => PackedMatrix::nf4(self.nf4(name, stored, scales)?, rows, columns),
            (None, Dtype::Gguf(kind)) if kind.block_size() > 1 => {
                PackedMatrix::gguf(kind, self.raw(name)?, rows, columns)
            }
            _ => PackedMatrix::nf4(self.encode(name, stored)?, rows, columns),
        };
        matrix.map_err(|e| malformed(e.to_string()))
    }

    /// Some rows of a tensor, whose row is its last dimension, in the blocks that they are stored in; `None` where they are not
    /// stored so.
    pub fn packed_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<PackedMatrix>> {
        let stored = self.stored(name)?;
        let columns = stored.info.shape.last().copied().unwrap_or(1);
        let Dtype::Gguf(kind) = stored.info.dtype else { return Ok(None) };
        let (values, bytes) = (kind.block_size(), kind.block_bytes());
        let in_order = stored.interleaved_heads.is_none() && stored.shift == 0.0;
        if values == 1 || !columns.is_multiple_of(values) || !in_order || rows.end * columns > stored.info.values() {
            return Ok(None);
        }
        let row = columns / values * bytes;
        let mut blocks = zeroed::<u8>(name, rows.len() * row)?;
        self.files[stored.file].read_at(stored.offset + (rows.start * row) as u64, &mut blocks)?;
        let matrix = PackedMatrix::gguf(kind, blocks, rows.len(), columns);
        matrix
            .map(Some)
            .map_err(|e| WeightsError::malformed(&self.files[stored.file].path, format!("tensor {name}: {e}")))
    }

    /// A tensor that is stored dense, in NF4.
    fn encode(&self, name: &str, stored: &Stored) -> Result<Nf4> {
        let (path, count) = (&self.files[stored.file].path, stored.info.values());
        let refused = |e: NotFinite| WeightsError::malformed(path, format!("tensor {name}: {e}"));
        if stored.interleaved_heads.is_some() {
            return Nf4::encode(&self.load_f32(name)?).map_err(refused);
        }
        let mut encoder = Nf4::encoder(count);
        let (mut values, mut bytes) = (vec![0.0; VALUES_PER_READ.min(count)], Vec::new());
        for first in (0..count).step_by(VALUES_PER_READ) {
            let piece = &mut values[..VALUES_PER_READ.min(count - first)];
            self.read_piece(name, stored, first, piece, &mut bytes)?;
            encoder.push(piece).map_err(refused)?;
        }
        Ok(encoder.finish())
    }

    /// Decodes values `first ..` of a tensor, in the order of the file; `first` begins a block. `bytes` is scratch.
    fn read_piece(
        &self,
        name: &str,
        stored: &Stored,
        first: usize,
        piece: &mut [f32],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let file = &self.files[stored.file];
        let dtype = stored.info.dtype;
        let not_float = || WeightsError::NotFloat { path: file.path.clone(), name: name.to_owned(), dtype };
        let (block_values, block_bytes) = dtype.block().ok_or_else(not_float)?;
        if dtype == Dtype::F32 && cfg!(target_endian = "little") && stored.shift == 0.0 {
            return file.read_at(stored.offset + (first * block_bytes) as u64, bytemuck::cast_slice_mut(piece));
        }
        bytes.resize(piece.len() / block_values * block_bytes, 0);
        file.read_at(stored.offset + (first / block_values * block_bytes) as u64, bytes)?;
        if !dtype.decode(bytes, piece) {
            return Err(not_float());
        }
        if stored.shift != 0.0 {
            piece.iter_mut().for_each(|value| *value -= stored.shift);
        }
        Ok(())
    }

    /// The bytes of a tensor as stored, rows in the order of [`TensorInfo::shape`]; of a weight in NF4 the codes alone.
    pub fn raw(&self, name: &str) -> Result<Vec<u8>> {
        let stored = self.stored(name)?;
        let count = stored.scales.as_ref().map_or(stored.info.bytes, bitsandbytes::Scales::codes);
        let bytes = self.bytes(name, stored, count)?;
        Ok(match stored.interleaved_heads {
            Some(heads) => gguf::deinterleave(&bytes, stored.info.shape[0], heads),
            None => bytes,
        })
    }

    /// The first `count` bytes of a tensor in its file.
    pub(super) fn bytes(&self, name: &str, stored: &Stored, count: u64) -> Result<Vec<u8>> {
        let mut bytes = zeroed::<u8>(name, count as usize)?;
        self.files[stored.file].read_at(stored.offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Memory for one tensor; the count comes from a header that was checked against the size of the file.
pub(super) fn zeroed<T: bytemuck::Pod + Send + Sync>(name: &str, count: usize) -> Result<Vec<T>> {
    elementwise::repeat(T::zeroed(), count).map_err(|_| WeightsError::OutOfMemory {
        name: name.to_owned(),
        bytes: (count as u64).saturating_mul(size_of::<T>() as u64),
    })
}
