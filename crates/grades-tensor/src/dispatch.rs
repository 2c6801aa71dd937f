//! Which tokens each expert of a layer gets.

use std::sync::Arc;

use crate::tensor::Tensor;

/// What a router says of the tokens of a batch.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The softmax of each row of logits, `[tokens, experts]` in f32.
    pub probabilities: Tensor,
    /// What each choice of a token counts, `[tokens, top_k]` in f32.
    pub weights: Tensor,
    /// The experts that each token chooses, the likeliest first, `[tokens · top_k]`.
    pub chosen: Arc<Vec<u32>>,
    /// Whether the weights of a token are divided by their sum.
    pub normalise: bool,
}

/// The tokens of each expert that has any, one behind another, so that its products are those of a linear layer.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The experts that have tokens.
    pub groups: Vec<Group>,
    /// For each choice of each token, `[tokens · top_k]`: the group, and the row in it.
    pub sources: Vec<[u32; 2]>,
}

/// An expert's tokens.
#[derive(Clone, Debug)]
pub struct Group {
    /// The expert.
    pub expert: usize,
    /// Its tokens, ascending.
    pub tokens: Arc<Vec<u32>>,
    /// Which of all choices, `[tokens · top_k]`, each of them is.
    pub choices: Vec<u32>,
}

impl Dispatch {
    /// The tokens of `experts` experts, where each token has chosen `top_k` different ones.
    #[must_use]
    pub fn new(chosen: &[u32], top_k: usize, experts: usize) -> Self {
        let mut of_expert: Vec<Vec<u32>> = vec![Vec::new(); experts];
        for (choice, &expert) in (0..).zip(chosen) {
            of_expert[expert as usize].push(choice);
        }
        let mut sources = vec![[0; 2]; chosen.len()];
        let mut groups = Vec::new();
        for (expert, choices) in of_expert.into_iter().enumerate().filter(|(_, choices)| !choices.is_empty()) {
            for (row, &choice) in (0..).zip(&choices) {
                sources[choice as usize] = [groups.len() as u32, row];
            }
            let tokens = choices.iter().map(|choice| choice / top_k as u32).collect();
            groups.push(Group { expert, tokens: Arc::new(tokens), choices });
        }
        Self { groups, sources }
    }
}
