//! Mixtures of experts (Shazeer et al. 2017): a router, the rows of each expert's tokens, and the sum of what experts make of
//! them. What an expert computes are the operations of any other layer, over its rows.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::dispatch::{Dispatch, Routed};
use crate::dtype::Dtype;
use crate::held::{Made, making};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// The loss that balances the experts of all layers of a pass (Fedus et al. 2021; as transformers adds it up):
/// `coefficient · experts · Σₑ fₑ · Pₑ`, where f is how many of a token's choices an expert is, P the probability that the
/// router gives it, both on average over all tokens of all layers. f counts as constant.
///
/// Layers that run add themselves, until it is [`finish`](Self::finish)ed; its gradient needs all of them.
#[derive(Debug)]
pub struct Balance {
    coefficient: f64,
    sums: RefCell<Vec<Sums>>,
    rows: Cell<usize>,
    finished: Cell<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    choices: f64,
    probability: f64,
}

impl Balance {
    /// Of no layer yet.
    #[must_use]
    pub fn new(coefficient: f64) -> Self {
        Self { coefficient, sums: RefCell::default(), rows: Cell::new(0), finished: Cell::new(false) }
    }

    fn add(&self, routed: &Routed) {
        let [rows, experts] = routed.probabilities.shape();
        if self.finished.get() {
            return;
        }
        let mut sums = self.sums.borrow_mut();
        sums.resize(experts, Sums::default());
        for &expert in routed.chosen.iter() {
            sums[expert as usize].choices += 1.0;
        }
        for row in routed.probabilities.to_host().chunks_exact(experts) {
            sums.iter_mut().zip(row).for_each(|(sums, p)| sums.probability += f64::from(*p));
        }
        self.rows.set(self.rows.get() + rows);
    }

    /// From here on layers that run do so once more.
    pub fn finish(&self) {
        self.finished.set(true);
    }

    /// The loss.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let sums = self.sums.borrow();
        let products: f64 = sums.iter().map(|sums| sums.choices * sums.probability).sum();
        self.coefficient * sums.len() as f64 * products / (self.rows.get() as f64).powi(2).max(1.0)
    }

    /// Its gradient in the probability that any token gives to each expert.
    fn slopes(&self) -> Vec<f32> {
        let sums = self.sums.borrow();
        let factor = self.coefficient * sums.len() as f64 / (self.rows.get() as f64).powi(2).max(1.0);
        sums.iter().map(|sums| (factor * sums.choices) as f32).collect()
    }
}

/// The `top_k` likeliest experts of each token by f32 `logits` `[tokens, experts]`: the weights of its choices, `[tokens,
/// top_k]`, and where its rows are. With `normalise` the weights of a token add up to 1.
#[must_use]
pub fn route(
    tape: &Tape,
    logits: &Var,
    top_k: usize,
    normalise: bool,
    balance: Option<&Rc<Balance>>,
) -> (Var, Arc<Dispatch>) {
    let _made = making(Made::Experts);
    let (device, node, experts) = (logits.value.device(), logits.node(), logits.value.columns());
    let routed = device.route(&logits.value, top_k, normalise);
    if let Some(balance) = balance {
        balance.add(&routed);
    }
    let (weights, balance) = (routed.weights.clone(), balance.cloned());
    let dispatch = Dispatch::new(&routed.chosen, top_k, experts);
    let weights = tape.record(weights, node.is_tracked(), move |dweights, backward| {
        let slopes = balance.map_or_else(|| vec![0.0; experts], |balance| balance.slopes());
        backward.add(node, device.route_backward(&dweights, &routed, &slopes));
    });
    (weights, Arc::new(dispatch))
}

/// Rows `rows` of x. Their gradients add up in f32, whatever the dtype of x.
#[must_use]
pub fn take_rows(tape: &Tape, x: &Var, rows: &Arc<Vec<u32>>) -> Var {
    let _made = making(Made::Experts);
    let (device, node, shape) = (x.value.device(), x.node(), x.value.shape());
    let y = device.gather_rows(&x.value, rows);
    let of_backward = rows.clone();
    let y = tape.record(y, node.is_tracked(), move |dy, backward| {
        let sum = backward.take(node).map(|sum| sum.cast(Dtype::F32));
        let mut sum = sum.unwrap_or_else(|| device.zeros(shape, Dtype::F32));
        device.scatter_add_rows(&mut sum, &of_backward, &dy.cast(Dtype::F32));
        backward.add(node, sum);
    });
    let (x, rows) = (x.value.clone(), rows.clone());
    y.remade(move || device.gather_rows(&x, &rows))
}

/// The residual plus what experts made of its rows, each times its weight, in f32: residual `[tokens, width]` in f32, a part
/// `[rows, width]` for each group of the dispatch, weights `[tokens, top_k]`.
#[must_use]
pub fn combine(tape: &Tape, residual: &Var, parts: Vec<Var>, dispatch: &Arc<Dispatch>, weights: &Var) -> Var {
    let _made = making(Made::Experts);
    let (device, onto, of_weights) = (residual.value.device(), residual.node(), weights.node());
    let nodes: Vec<_> = parts.iter().map(Var::node).collect();
    let parts: Vec<Tensor> = parts.into_iter().map(|part| part.value).collect();
    let y = device.combine(residual.value.clone(), &parts, dispatch, &weights.value);
    let inner = of_weights.is_tracked() || nodes.iter().any(|node| node.is_tracked());
    let kept = inner.then(|| (parts, dispatch.clone(), weights.value.clone()));
    tape.record(y, inner || onto.is_tracked(), move |dy, backward| {
        if let Some((parts, dispatch, weights)) = kept {
            let (dparts, dweights) = device.combine_backward(&dy, &parts, &dispatch, &weights);
            nodes.into_iter().zip(dparts).for_each(|(node, dpart)| backward.add(node, dpart));
            backward.add(of_weights, dweights);
        }
        backward.add(onto, dy);
    })
}
