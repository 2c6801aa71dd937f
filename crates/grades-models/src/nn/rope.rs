//! Rotary position embedding (Su et al. 2021): the angle of each position and pair of dimensions.

use std::f64::consts::PI;
use std::sync::{Arc, Mutex, PoisonError};

use grades_tensor::RopeTable;

/// The rotary embedding that a config describes.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// How many elements at the start of each head rotate; even.
    pub rotary_dim: usize,
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are stretched to longer texts.
    pub scaling: RopeScaling,
}

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
    /// A base that grows with the text, in texts longer than the model was trained with (NTK-aware scaling; transformers
    /// `rope_type: dynamic`).
    Dynamic {
        /// How much the base grows with the length.
        factor: f64,
        /// The length up to which nothing is stretched.
        max_position_embeddings: usize,
    },
    /// YaRN (Peng et al. 2023): frequencies of few turns over the original length divided by a factor, those of many kept, a
    /// ramp over the pairs between them (transformers `rope_type: yarn`).
    Yarn {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// The length that the model was first trained with.
        original_max_position_embeddings: f64,
        /// From this many turns on a frequency is kept.
        beta_fast: f64,
        /// Up to this many it is divided.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
        /// Factor of the cosines and sines.
        attention_factor: f64,
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
    /// LongRoPE (Ding et al. 2024): a divisor for each frequency, one set for short texts and one for long ones
    /// (transformers `rope_type: longrope`).
    LongRope {
        /// Divisors in texts up to the original length, `[rotary_dim / 2]`.
        short_factor: Vec<f64>,
        /// Divisors in longer ones, `[rotary_dim / 2]`.
        long_factor: Vec<f64>,
        /// The length that the model was first trained with.
        original_max_position_embeddings: usize,
        /// Factor of the cosines and sines.
        attention_factor: f64,
    },
}

/// The rotary embedding of one model: makes its tables, as long as the texts that come.
#[derive(Debug)]
pub struct Rope {
    usual: Angles,
    /// The angles in texts of more tokens than this, where they are others.
    long: Option<(usize, Long)>,
    /// Which part of a place (time, height, width) each frequency turns by; all by the first where it is empty.
    axes: Vec<u8>,
    /// The table of the places that were last asked for.
    at: Mutex<Option<PlacesTable>>,
}

/// Where tokens lie, with the table of their angles.
type PlacesTable = (Arc<Vec<[u32; 3]>>, Arc<RopeTable>);

/// The angles in long texts.
#[derive(Debug)]
enum Long {
    /// The same in all of them.
    Same(Angles),
    /// Others by the length of the text, with those of the length that was last asked for.
    ByLength(RopeConfig, Mutex<Option<(usize, Arc<RopeTable>)>>),
}

impl Rope {
    /// The embedding that a config describes.
    #[must_use]
    pub fn new(config: &RopeConfig) -> Self {
        let RopeConfig { rotary_dim, theta, scaling } = config;
        let plain = frequencies(*rotary_dim, *theta);
        match scaling {
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, attention_factor } => {
                let divided = |factors: &[f64]| {
                    let frequencies = plain.clone().zip(factors).map(|(frequency, factor)| frequency / factor);
                    Angles::new(frequencies.collect(), *attention_factor)
                };
                let long = Long::Same(divided(long_factor));
                Self::of(divided(short_factor), Some((*original_max_position_embeddings, long)))
            }
            RopeScaling::Dynamic { max_position_embeddings, .. } => {
                let long = Long::ByLength(config.clone(), Mutex::default());
                Self::of(Angles::new(plain.collect(), 1.0), Some((*max_position_embeddings, long)))
            }
            RopeScaling::Yarn { attention_factor, .. } => Self::of(Angles::new(yarn(config), *attention_factor), None),
            scaling => {
                let frequencies = plain.map(|frequency| scale(frequency, scaling)).collect();
                Self::of(Angles::new(frequencies, 1.0), None)
            }
        }
    }

    fn of(usual: Angles, long: Option<(usize, Long)>) -> Self {
        Self { usual, long, axes: Vec::new(), at: Mutex::default() }
    }

    /// That of a picture's patches (axial): half of the pairs of a head turn by the row, the other half by the column, with
    /// the same frequencies.
    #[must_use]
    pub fn of_grid(head_dim: usize, theta: f64) -> Self {
        let half: Vec<f64> = frequencies(head_dim / 2, theta).collect();
        let axes = [1, 2].into_iter().flat_map(|axis| vec![axis; half.len()]).collect();
        Self { axes, ..Self::of(Angles::new([half.clone(), half].concat(), 1.0), None) }
    }

    /// With so many pairs, from the first on, that turn by time, by height and by width, where tokens have a place (M-RoPE,
    /// Wang et al. 2024). A token that lies at one number in all three turns as one at that position.
    #[must_use]
    pub fn with_sections(self, sections: [usize; 3]) -> Self {
        let axes = (0..).zip(sections).flat_map(|(axis, pairs)| vec![axis; pairs]).collect();
        Self { axes, ..self }
    }

    /// Cosines and sines of places, a row each.
    #[must_use]
    pub fn table_at(&self, places: &Arc<Vec<[u32; 3]>>) -> Arc<RopeTable> {
        let mut last = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, table)) = &*last
            && Arc::ptr_eq(known, places)
        {
            return table.clone();
        }
        let table = Arc::new(self.usual.table_of(places.iter().flat_map(|place| {
            let pairs = self.usual.frequencies.iter().enumerate();
            pairs.map(|(pair, frequency)| {
                let axis = self.axes.get(pair).copied().unwrap_or_default();
                (f64::from(place[usize::from(axis)]) * frequency) as f32
            })
        })));
        *last = Some((places.clone(), table.clone()));
        table
    }

    /// Cosines and sines of at least `positions` positions, for a batch whose longest text has so many tokens.
    #[must_use]
    pub fn table(&self, positions: usize) -> Arc<RopeTable> {
        match &self.long {
            Some((original, Long::Same(angles))) if positions > *original => angles.table(positions),
            Some((original, Long::ByLength(config, last))) if positions > *original => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                match &*last {
                    Some((length, table)) if *length == positions => table.clone(),
                    _ => {
                        let table = Angles::new(dynamic(config, positions), 1.0).table(positions);
                        *last = Some((positions, table.clone()));
                        table
                    }
                }
            }
            _ => self.usual.table(positions),
        }
    }

    /// The frequency of each pair, in texts that are not long.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f32> {
        self.usual.frequencies.iter().map(|&frequency| frequency as f32).collect()
    }

    /// Whether a text that grows from `before` to `after` tokens changes its angles, those of its first tokens too.
    #[must_use]
    pub fn changes(&self, before: usize, after: usize) -> bool {
        match &self.long {
            None => false,
            Some((original, Long::Same(_))) => before <= *original && after > *original,
            Some((original, Long::ByLength(..))) => after > *original && after != before,
        }
    }
}

/// Angles that grow with the position, and the table of those that were asked for.
#[derive(Debug)]
struct Angles {
    frequencies: Vec<f64>,
    factor: f32,
    table: Mutex<(usize, Arc<RopeTable>)>,
}

impl Angles {
    fn new(frequencies: Vec<f64>, factor: f64) -> Self {
        let empty = RopeTable { rotary_dim: 2 * frequencies.len(), cos: Vec::new(), sin: Vec::new() };
        Self { frequencies, factor: factor as f32, table: Mutex::new((0, Arc::new(empty))) }
    }

    fn table(&self, positions: usize) -> Arc<RopeTable> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.0 < positions {
            let length = positions.next_power_of_two().max(64);
            let angles = (0..length).flat_map(|p| self.frequencies.iter().map(move |f| (p as f64 * f) as f32));
            *table = (length, Arc::new(self.table_of(angles)));
        }
        table.1.clone()
    }

    /// The table of these angles. The reference takes the cosine of the f32 angle, and so do we.
    fn table_of(&self, angles: impl Iterator<Item = f32>) -> RopeTable {
        let (cos, sin) = angles.map(|angle| (self.factor * angle.cos(), self.factor * angle.sin())).unzip();
        RopeTable { rotary_dim: 2 * self.frequencies.len(), cos, sin }
    }
}

/// The frequency of each pair of dimensions, not stretched.
fn frequencies(rotary_dim: usize, theta: f64) -> impl Iterator<Item = f64> + Clone {
    (0..rotary_dim / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / rotary_dim as f64))
}

/// The frequencies of dynamic scaling in a text of `positions` tokens, longer than what nothing is stretched in.
fn dynamic(config: &RopeConfig, positions: usize) -> Vec<f64> {
    let RopeScaling::Dynamic { factor, max_position_embeddings } = config.scaling else { return Vec::new() };
    let rotary = config.rotary_dim as f64;
    let stretched = factor * positions as f64 / max_position_embeddings as f64 - (factor - 1.0);
    frequencies(config.rotary_dim, config.theta * stretched.powf(rotary / (rotary - 2.0))).collect()
}

/// The frequencies of YaRN.
fn yarn(config: &RopeConfig) -> Vec<f64> {
    let RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } =
        config.scaling
    else {
        return Vec::new();
    };
    let rotary = config.rotary_dim as f64;
    // The pair, as a fraction, that makes so many turns over the original length.
    let pair_of =
        |turns: f64| rotary * (original_max_position_embeddings / (turns * 2.0 * PI)).ln() / (2.0 * config.theta.ln());
    let (low, high) = match (pair_of(beta_fast), pair_of(beta_slow)) {
        (low, high) if truncate => (low.floor(), high.ceil()),
        range => range,
    };
    let (low, high) = (low.max(0.0), high.min(rotary - 1.0));
    // As transformers keeps the two apart.
    let high = if low == high { high + 0.001 } else { high };
    let divided = |(pair, frequency): (usize, f64)| {
        let share = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / factor * share + frequency * (1.0 - share)
    };
    frequencies(config.rotary_dim, config.theta).enumerate().map(divided).collect()
}

fn scale(frequency: f64, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None | RopeScaling::LongRope { .. } | RopeScaling::Dynamic { .. } | RopeScaling::Yarn { .. } => {
            frequency
        }
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let turns = original_max_position_embeddings * frequency / (2.0 * PI);
            let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_have_angles_of_their_own() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![4.0, 5.0],
            original_max_position_embeddings: 100,
            attention_factor: 1.5,
        };
        let rope = Rope::new(&RopeConfig { rotary_dim: 4, theta: 100.0, scaling });
        // The frequencies are 1 and 1/10.
        for (positions, divisors) in [(1, [1.0, 20.0]), (100, [1.0, 20.0]), (101, [4.0, 50.0]), (900, [4.0, 50.0])] {
            let table = rope.table(positions);
            assert_eq!(table.rotary_dim, 4);
            assert!(table.cos.len() >= 2 * positions && table.cos.len() == table.sin.len());
            for position in [0, positions - 1] {
                for (pair, divisor) in divisors.iter().enumerate() {
                    let angle = position as f64 / divisor;
                    let found = (table.cos[2 * position + pair], table.sin[2 * position + pair]);
                    let expected = (1.5 * angle.cos() as f32, 1.5 * angle.sin() as f32);
                    let close = |found: f32, expected: f32| (found - expected).abs() < 1e-4;
                    assert!(close(found.0, expected.0) && close(found.1, expected.1), "{position} of {positions}");
                }
            }
        }
        assert!(rope.changes(100, 101) && rope.changes(0, 500));
        assert!(!rope.changes(3, 100) && !rope.changes(101, 900));
        let dynamic = RopeScaling::Dynamic { factor: 2.0, max_position_embeddings: 100 };
        let dynamic = Rope::new(&RopeConfig { rotary_dim: 4, theta: 100.0, scaling: dynamic });
        assert!(dynamic.changes(100, 101) && dynamic.changes(101, 102) && !dynamic.changes(3, 100));
        // A text that is short again has the angles of short ones, and a long one those of its own length.
        let [short, long] = [dynamic.table(100), dynamic.table(300)];
        assert!(long.sin[3] != short.sin[3] && dynamic.table(3).sin == short.sin && dynamic.table(300).sin == long.sin);
        let plain = Rope::new(&RopeConfig { rotary_dim: 4, theta: 100.0, scaling: RopeScaling::None });
        assert!(!plain.changes(0, 900));
    }
}
