//! Captions against people's: BLEU, ROUGE-L and CIDEr as pycocoevalcap 1.2 computes them. METEOR and SPICE are left out: they
//! need tables of synonyms and a parser.

mod bleu;
mod cider;
mod rouge;
mod words;

pub use words::words;

/// The scores of a set of captions, as fractions (CIDEr up to 10).
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionScores {
    /// BLEU-1 to BLEU-4 over the whole set, brevity by the reference closest in length.
    pub bleu: [f64; 4],
    /// The mean ROUGE-L.
    pub rouge_l: f64,
    /// The mean CIDEr-D, document frequencies from the references of the set.
    pub cider: f64,
    /// The same of each caption.
    pub each: Vec<CaptionScore>,
}

/// The scores of one caption.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CaptionScore {
    /// BLEU-1 to BLEU-4.
    pub bleu: [f64; 4],
    /// ROUGE-L.
    pub rouge_l: f64,
    /// CIDEr-D.
    pub cider: f64,
}

/// Scores captions, each with the references that it may agree with. None for no captions.
pub fn score(captions: &[(&str, Vec<&str>)]) -> Option<CaptionScores> {
    let cut = |(said, references): &(&str, Vec<&str>)| Item {
        said: words(said),
        references: references.iter().map(|reference| words(reference)).collect(),
    };
    let items: Vec<Item> = captions.iter().map(cut).collect();
    let (bleu, each_bleu) = bleu::score(&items);
    let ciders = cider::scores(&items);
    let rouges: Vec<f64> = items.iter().map(rouge::score).collect();
    let each: Vec<CaptionScore> = each_bleu
        .into_iter()
        .zip(rouges.iter().zip(&ciders))
        .map(|(bleu, (&rouge_l, &cider))| CaptionScore { bleu, rouge_l, cider })
        .collect();
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    (!items.is_empty()).then(|| CaptionScores { bleu, rouge_l: mean(&rouges), cider: mean(&ciders), each })
}

/// A caption and its references in words.
struct Item {
    said: Vec<String>,
    references: Vec<Vec<String>>,
}
