//! Rotary position embedding (Su et al. 2021): the angle of each position and pair of dimensions.

use std::f64::consts::PI;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ops::RopeTable;

/// How a checkpoint stretches its rotary embedding to longer texts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every angle divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided by a factor, short ones kept, a ramp between them
    /// (transformers `rope_type: llama3`).
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Below this many turns over the original length a wavelength is long.
        low_freq_factor: f64,
        /// Above this many it is short.
        high_freq_factor: f64,
        /// The length that the model was first trained with.
        original_max_position_embeddings: f64,
    },
}

/// The rotary embedding of one model: makes its tables, as long as the texts that come.
#[derive(Debug)]
pub struct Rope {
    frequencies: Vec<f64>,
    table: Mutex<(usize, Arc<RopeTable>)>,
}

impl Rope {
    /// The embedding of heads of size `head_dim` with base `theta`.
    #[must_use]
    pub fn new(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Self {
        let frequencies = (0..head_dim / 2).map(|pair| {
            scale(theta.powf(-2.0 * pair as f64 / head_dim as f64), scaling)
        });
        let empty = Arc::new(RopeTable { cos: Vec::new(), sin: Vec::new() });
        Self { frequencies: frequencies.collect(), table: Mutex::new((0, empty)) }
    }

    /// Cosines and sines of at least `positions` positions, `[positions, head_dim / 2]`.
    #[must_use]
    pub fn table(&self, positions: usize) -> Arc<RopeTable> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.0 < positions {
            let length = positions.next_power_of_two().max(64);
            let angles = (0..length).flat_map(|p| self.frequencies.iter().map(move |f| (p as f64 * f) as f32));
            // The reference takes the cosine of the f32 angle, and so do we.
            let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
            *table = (length, Arc::new(RopeTable { cos, sin }));
        }
        table.1.clone()
    }
}

fn scale(frequency: f64, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let turns = original_max_position_embeddings * frequency / (2.0 * PI);
            let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}
