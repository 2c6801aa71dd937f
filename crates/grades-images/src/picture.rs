//! A decoded picture.

/// A picture in red, green and blue, a byte each, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Alpha {
    /// The colours as they are stored, however transparent: Pillow's `convert("RGB")`, nanoVLM, transformers 4.
    Dropped,
    /// The picture laid over white, as transformers does from 5.24 on.
    #[default]
    OnWhite,
}

impl Picture {
    /// A picture of `rgb`, `[height, width, 3]`. `None` if there are not as many bytes, or none.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Option<Self> {
        let wanted = width.checked_mul(height)?.checked_mul(3)?;
        (wanted > 0 && rgb.len() == wanted).then_some(Self { width, height, rgb })
    }

    /// A picture whose size is known to fit its bytes.
    pub(crate) fn of(width: usize, height: usize, rgb: Vec<u8>) -> Self {
        debug_assert_eq!(rgb.len(), width * height * 3);
        Self { width, height, rgb }
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}
