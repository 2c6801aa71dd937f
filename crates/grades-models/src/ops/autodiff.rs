//! The gradients of the operations, once for all backends.
//!
//! Each backward step computes a gradient only for a tracked input, and each forward keeps only what those gradients
//! need: the input of a linear layer is kept for a tracked weight alone, its weight for a tracked input alone.

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops as Step, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use super::{Activation, AttentionSpec, Beside, CrossEntropySpec, Ops, Precision, Tensors, Tie, flops, stock};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// Most weights that one linear layer joins (q, k, v).
const PARTS: usize = 3;
/// Parents of a linear layer: its input, its weights, its biases, its residual.
const LINEAR_PARENTS: usize = 2 + 2 * PARTS;

#[derive(Debug)]
struct LinearBackward;

#[derive(Clone, Debug)]
struct LinearState<B: Backend> {
    x: Option<FloatTensor<B>>,
    weights: Option<Tensors<B>>,
    /// Rows of each weight.
    rows: Vec<usize>,
    width: usize,
    /// The numbers of x, in which its gradient is computed too.
    precision: Precision,
    tie: Option<Tie>,
}

impl<B: Ops> Backward<B, LINEAR_PARENTS> for LinearBackward {
    type State = LinearState<B>;

    fn backward(self, step: Step<Self::State, LINEAR_PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let LinearState { x, weights, rows, width, precision, tie } = step.state;
        let of_output = grads.consume::<B>(&step.node);
        let (onto, dy) = match tie.and_then(|tie| tie.take()) {
            Some(Beside::<B> { dx, dy }) => (Some(dx), dy),
            // Behind a residual the gradient is f32.
            None => (None, B::in_precision(of_output.clone(), precision)),
        };
        let tokens = dy.shape().dims::<2>()[0];
        let total: usize = rows.iter().sum();
        let [input, rest @ ..] = step.parents;
        let mut rest = rest.into_iter();
        let weight_nodes: Vec<_> = rest.by_ref().take(PARTS).collect();
        let bias_nodes: Vec<_> = rest.by_ref().take(PARTS).collect();
        let mut first = 0;
        let columns: Vec<_> = rows
            .into_iter()
            .map(|rows| {
                first += rows;
                first - rows..first
            })
            .collect();
        if let Some(x) = x {
            let tracked: (Vec<_>, Vec<_>) =
                columns.iter().cloned().zip(weight_nodes).filter_map(|(of, node)| Some((of, node?))).unzip();
            for of in &tracked.0 {
                flops::weight_gradient(flops::product(of.len(), width, tokens));
            }
            let gradients = B::project_weight_gradients(dy.clone(), x, tracked.0);
            for (node, gradient) in tracked.1.into_iter().zip(gradients.0) {
                grads.register::<B>(node.id, gradient);
            }
        }
        for (of, bias) in columns.into_iter().zip(bias_nodes) {
            if let Some(node) = bias {
                grads.register::<B>(node.id, stock::column_sums::<B>(dy.clone(), of.start, of.len()));
            }
        }
        if let (Some(node), Some(weights)) = (input, weights) {
            flops::input_gradient(flops::product(tokens, width, total));
            let dx = match onto {
                Some(onto) => B::project_input_gradient_onto(dy.clone(), weights, onto),
                None => B::project_input_gradient(dy.clone(), weights),
            };
            grads.register::<B>(node.id, dx);
        }
        if let Some(Some(node)) = rest.next() {
            grads.register::<B>(node.id, of_output);
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

#[derive(Clone, Debug)]
struct RmsNormState<B: Backend> {
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    inverse: FloatTensor<B>,
}

impl<B: Ops> Backward<B, 2> for RmsNormBackward {
    type State = RmsNormState<B>;

    fn backward(self, step: Step<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let RmsNormState { x, scale, inverse } = step.state;
        let dy = grads.consume::<B>(&step.node);
        let [input, scales] = step.parents;
        let (dx, dscale) = B::rms_norm_backward(dy, x, scale, inverse, scales.is_some());
        if let (Some(node), Some(dscale)) = (scales, dscale) {
            grads.register::<B>(node.id, dscale);
        }
        if let Some(node) = input {
            grads.register::<B>(node.id, dx);
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct AttentionState<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    log_sum_exp: FloatTensor<B>,
    spec: AttentionSpec,
}

impl<B: Ops> Backward<B, 1> for AttentionBackward {
    type State = AttentionState<B>;

    fn backward(self, step: Step<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let AttentionState { q, k, v, out, log_sum_exp, spec } = step.state;
        let dout = grads.consume::<B>(&step.node);
        if let [Some(node)] = step.parents {
            // The scores are computed again, and each of the two products has two gradients: five in place of two.
            flops::input_gradient(spec.operations() / 2 * 5);
            let (dq, dk, dv) = B::attend_backward(dout, q, k, v, out, log_sum_exp, spec.clone());
            grads.register::<B>(node.id, B::join_heads(dq, dk, dv, spec));
        }
    }
}

#[derive(Debug)]
struct GatedActivationBackward;

impl<B: Ops> Backward<B, 1> for GatedActivationBackward {
    type State = (FloatTensor<B>, Activation);

    fn backward(self, step: Step<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gate_up, activation) = step.state;
        let dy = grads.consume::<B>(&step.node);
        if let [Some(node)] = step.parents {
            grads.register::<B>(node.id, B::gated_activation_backward(dy, gate_up, activation));
        }
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

#[derive(Clone, Debug)]
struct EmbeddingState {
    ids: Arc<Vec<u32>>,
    vocabulary: usize,
    tie: Option<Tie>,
}

impl<B: Ops> Backward<B, 1> for EmbeddingBackward {
    type State = EmbeddingState;

    fn backward(self, step: Step<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let EmbeddingState { ids, vocabulary, tie } = step.state;
        let dy = grads.consume::<B>(&step.node);
        if let [Some(node)] = step.parents {
            let head: Option<FloatTensor<B>> = tie.and_then(|tie| tie.take());
            let onto = Tensors(head.into_iter().collect());
            grads.register::<B>(node.id, B::embed_backward(dy, onto, ids, vocabulary));
        }
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

#[derive(Clone, Debug)]
struct CrossEntropyState<B: Backend> {
    dhidden: Option<FloatTensor<B>>,
    dweight: Option<FloatTensor<B>>,
    /// Operations of one of the two gradients.
    operations: u64,
    tie: Option<Tie>,
}

impl<B: Ops> Backward<B, 2> for CrossEntropyBackward {
    type State = CrossEntropyState<B>;

    fn backward(self, step: Step<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let CrossEntropyState { dhidden, dweight, operations, tie } = step.state;
        let upstream = grads.consume::<B>(&step.node);
        let [hidden, weight] = step.parents;
        let scaled = |gradient: FloatTensor<B>| scale_by_upstream::<B>(gradient, upstream.clone());
        if let (Some(node), Some(gradient)) = (weight, dweight) {
            flops::weight_gradient(operations);
            let gradient = scaled(gradient);
            match tie {
                Some(tie) => tie.put(gradient),
                None => grads.register::<B>(node.id, gradient),
            }
        }
        if let (Some(node), Some(gradient)) = (hidden, dhidden) {
            flops::input_gradient(operations);
            grads.register::<B>(node.id, scaled(gradient));
        }
    }
}

/// `gradient · upstream`, where upstream holds one number. A loss that is differentiated itself has an upstream
/// gradient of exactly 1, for which the pass over the gradient is saved.
fn scale_by_upstream<B: Backend>(gradient: FloatTensor<B>, upstream: FloatTensor<B>) -> FloatTensor<B> {
    let one = burn::backend::read_sync(B::float_into_data(upstream.clone()))
        .ok()
        .and_then(|data| data.iter::<f32>().next())
        .is_some_and(|value| value == 1.0);
    if one {
        return gradient;
    }
    let factor = B::float_reshape(upstream, burn::tensor::Shape::from([1, 1]));
    let factor = B::float_cast(factor, Precision::of(gradient.dtype()).dtype());
    B::float_mul(gradient, factor)
}

/// A linear layer whose value `run` computes, and what it computes beside it.
fn linear<B: Ops, C: CheckpointStrategy, T>(
    x: Tracked<B, C>,
    weights: Tensors<Autodiff<B, C>>,
    biases: Tensors<Autodiff<B, C>>,
    residual: Tensors<Autodiff<B, C>>,
    tie: Option<Tie>,
    run: impl FnOnce(FloatTensor<B>, Tensors<B>, Tensors<B>, Tensors<B>) -> (FloatTensor<B>, T),
) -> (Tracked<B, C>, T) {
    let any_weight = weights.0.iter().any(|w| w.is_tracked());
    let x_tracked = x.is_tracked();
    // Slots without a tensor hold an untracked node, which the graph ignores.
    let unused = Autodiff::<B, C>::detached(&x);
    let guard = |tensor: Option<&Tracked<B, C>>| tensor.unwrap_or(&unused).node();
    let nodes: [NodeGuard; LINEAR_PARENTS] = std::array::from_fn(|slot| match slot {
        0 => x.node(),
        slot if slot <= PARTS => guard(weights.0.get(slot - 1)),
        slot if slot <= 2 * PARTS => guard(biases.0.get(slot - 1 - PARTS)),
        _ => guard(residual.0.first()),
    });
    let inner = |list: Tensors<Autodiff<B, C>>| Tensors(list.0.into_iter().map(|t| t.into_primitive()).collect());
    let (x, weights, biases, residual) = (x.into_primitive(), inner(weights), inner(biases), inner(residual));
    match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let state = LinearState {
                x: any_weight.then(|| x.clone()),
                weights: x_tracked.then(|| weights.clone()),
                rows: weights.0.iter().map(|w: &FloatTensor<B>| w.shape().dims::<2>()[0]).collect(),
                width: x.shape().dims::<2>()[1],
                precision: Precision::of(x.dtype()),
                tie,
            };
            let (y, beside) = run(x, weights, biases, residual);
            (prepared.finish(state, y), beside)
        }
        OpsKind::UnTracked(prepared) => {
            let (y, beside) = run(x, weights, biases, residual);
            (prepared.finish(y), beside)
        }
    }
}

impl<B: Ops, C: CheckpointStrategy> Ops for Autodiff<B, C> {
    fn project(
        x: Tracked<B, C>,
        weights: Tensors<Self>,
        biases: Tensors<Self>,
        residual: Tensors<Self>,
    ) -> Tracked<B, C> {
        Self::project_beside(x, weights, biases, residual, None)
    }

    fn project_beside(
        x: Tracked<B, C>,
        weights: Tensors<Self>,
        biases: Tensors<Self>,
        residual: Tensors<Self>,
        tie: Option<Tie>,
    ) -> Tracked<B, C> {
        let run = |x, weights, biases, residual| (B::project(x, weights, biases, residual), ());
        linear(x, weights, biases, residual, tie, run).0
    }

    fn gated_project(x: Tracked<B, C>, weights: Tensors<Self>, activation: Activation) -> Tracked<B, C> {
        let none = || Tensors(Vec::new());
        // Two nodes, as of the two operations, whose values come from one.
        let (joined, y) = linear(x, weights, none(), none(), None, |x, weights, _, _| {
            let (y, joined) = B::gated_project_forward(x, weights, activation);
            (joined, y)
        });
        let (joined, node) = joined.into_parts();
        match GatedActivationBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((joined, activation), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn rms_norm(x: Tracked<B, C>, scale: Tracked<B, C>, eps: f32, precision: Precision) -> Tracked<B, C> {
        let ((x, x_node), (scale, scale_node)) = (x.into_parts(), scale.into_parts());
        match RmsNormBackward.prepare::<C>([x_node, scale_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (y, inverse) = B::rms_norm_forward(x.clone(), scale.clone(), eps, precision);
                prepared.finish(RmsNormState { x, scale, inverse }, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::rms_norm(x, scale, eps, precision)),
        }
    }

    fn self_attention(qkv: Tracked<B, C>, spec: AttentionSpec) -> Tracked<B, C> {
        let (qkv, node) = qkv.into_parts();
        match AttentionBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (q, k, v) = B::split_heads(qkv, spec.clone());
                let (out, log_sum_exp) = B::attend(q.clone(), k.clone(), v.clone(), spec.clone());
                prepared.finish(AttentionState { q, k, v, out: out.clone(), log_sum_exp, spec }, out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::self_attention(qkv, spec)),
        }
    }

    fn gated_activation(gate_up: Tracked<B, C>, activation: Activation) -> Tracked<B, C> {
        let (gate_up, node) = gate_up.into_parts();
        match GatedActivationBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::gated_activation(gate_up.clone(), activation);
                prepared.finish((gate_up, activation), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::gated_activation(gate_up, activation)),
        }
    }

    fn embed(weight: Tracked<B, C>, ids: Arc<Vec<u32>>, tie: Option<Tie>) -> Tracked<B, C> {
        let (weight, node) = weight.into_parts();
        let vocabulary = weight.shape().dims::<2>()[0];
        let y = B::embed(weight, ids.clone(), None);
        match EmbeddingBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(EmbeddingState { ids, vocabulary, tie }, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn cross_entropy(
        hidden: Tracked<B, C>,
        weight: Tracked<B, C>,
        spec: CrossEntropySpec,
        tie: Option<Tie>,
    ) -> Tracked<B, C> {
        let (want_hidden, want_weight) = (hidden.is_tracked(), weight.is_tracked());
        let ((hidden, hidden_node), (weight, weight_node)) = (hidden.into_parts(), weight.into_parts());
        let operations = super::head_operations_of(weight.shape().dims::<2>(), &spec.targets);
        let (loss, dhidden, dweight) = B::cross_entropy_forward(hidden, weight, spec, want_hidden, want_weight);
        match CrossEntropyBackward.prepare::<C>([hidden_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                // Without a tracked input nothing below runs that would fetch the gradient from the tie.
                let tie = tie.filter(|_| want_hidden);
                prepared.finish(CrossEntropyState { dhidden, dweight, operations, tie }, loss)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(loss),
        }
    }
}

/// An untracked tensor, for the slots of parents that an operation does not have.
trait Detached: Backend {
    fn detached(tensor: &FloatTensor<Self>) -> FloatTensor<Self>;
}

impl<B: Ops, C: CheckpointStrategy> Detached for Autodiff<B, C> {
    fn detached(tensor: &FloatTensor<Self>) -> FloatTensor<Self> {
        // Not `float_detach`, which leaves a tracked leaf tracked.
        <Self as burn::backend::ops::FloatTensorOps<Self>>::float_set_require_grad(tensor.clone(), false)
    }
}
