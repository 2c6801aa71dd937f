//! From bytes to the numbers that a tower reads.

use crate::{Backend, Picture};

/// By channel.
type MeanAndDeviation = ([f64; 3], [f64; 3]);

/// What the 256 bytes of each channel become.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    table: [[f32; 256]; 3],
    /// What they are made of, where a backend rounds it in a way of its own.
    made_of: Option<(Option<f64>, Option<MeanAndDeviation>)>,
}

impl Values {
    /// Bytes over 255, as torchvision's `ToTensor` makes them. nanoVLM reads no others.
    pub fn unit() -> Self {
        Self::each(|_, byte| byte / 255.0)
    }

    /// Bytes times `rescale`, less `normalise`'s mean, over its deviation: with the roundings of a backend, which are the
    /// last bit's (torchvision does both steps in one).
    pub fn new(rescale: Option<f64>, normalise: Option<([f64; 3], [f64; 3])>, backend: Backend) -> Self {
        let narrow = |x: f64| x as f32;
        let made = match (rescale, normalise, backend) {
            (None, None, _) => Self::each(|_, byte| byte),
            (Some(factor), None, Backend::Torchvision) => Self::each(|_, byte| byte * narrow(factor)),
            (Some(factor), None, Backend::Pillow) => Self::each(|_, byte| narrow(f64::from(byte) * factor)),
            (None, Some((mean, std)), _) => Self::each(|c, byte| (byte - narrow(mean[c])) / narrow(std[c])),
            (Some(factor), Some((mean, std)), Backend::Torchvision) => {
                let by = narrow(1.0 / factor);
                Self::each(|c, byte| (byte - narrow(mean[c]) * by) / (narrow(std[c]) * by))
            }
            (Some(factor), Some((mean, std)), Backend::Pillow) => {
                Self::each(|c, byte| (narrow(f64::from(byte) * factor) - narrow(mean[c])) / narrow(std[c]))
            }
        };
        Self { made_of: Some((rescale, normalise)), ..made }
    }

    /// The same with the roundings of another backend.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        match self.made_of {
            None => self,
            Some((rescale, normalise)) => Self::new(rescale, normalise, backend),
        }
    }

    fn each(value: impl Fn(usize, f32) -> f32) -> Self {
        let table = std::array::from_fn(|c| std::array::from_fn(|byte| value(c, byte as f32)));
        Self { table, made_of: None }
    }

    /// The value of a byte.
    pub fn of(&self, channel: usize, byte: u8) -> f32 {
        self.table[channel][usize::from(byte)]
    }

    /// Appends a part of a picture, channel by channel: `[3, height, width]`.
    pub(super) fn append(&self, picture: &Picture, window: Window, out: &mut Vec<f32>) {
        for channel in 0..3 {
            for row in window.top..window.top + window.height {
                let from = 3 * (row * picture.width() + window.left);
                let pixels = picture.rgb()[from..][..3 * window.width].chunks_exact(3);
                out.extend(pixels.map(|pixel| self.of(channel, pixel[channel])));
            }
        }
    }
}

/// A part of a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}
