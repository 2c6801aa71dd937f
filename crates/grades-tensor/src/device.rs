//! What a device must be able to do, and the devices there are.
//!
//! A second device is a crate or module that implements these traits, and one line in [`DEVICES`]. Every operation
//! of [`Reference`](crate::Reference) says by a few plain loops what is asked for; the tests compare other devices with
//! it.
//!
//! Operands are on the device itself, and fit: a mistake there is one of the calling code and panics. A token or label
//! outside the vocabulary is refused before a batch reaches a model, and so is one here. Where nothing else is said, a
//! result has the dtype of the first operand.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;

use grades::Norm;
use grades_kernels::quant::PackedMatrix;
use half::bf16;

use crate::attention::AttentionSpec;
use crate::cpu::CPU;
use crate::dispatch::{Dispatch, Routed};
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::reference::REFERENCE;
use crate::spec::{Activation, AdamW, CrossEntropySpec, Label, Lion, Muon, Sgd, Sums};
use crate::tensor::Tensor;

/// A device of this process; devices live as long as it does.
pub type DeviceRef = &'static dyn Device;

/// The devices by the names that `device:` in a config has for them.
pub const DEVICES: &[(&str, DeviceRef)] = &[("cpu", &CPU), ("reference", &REFERENCE)];

/// The device of that name; `auto` is the first that there is.
///
/// # Errors
/// The names that there are.
pub fn device(name: &str) -> Result<DeviceRef, UnknownDevice> {
    let found = DEVICES.iter().find(|(known, _)| *known == name || name == "auto").map(|(_, device)| *device);
    found.ok_or_else(|| UnknownDevice { name: name.to_owned() })
}

/// There is no such device in this build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDevice {
    /// The name asked for.
    pub name: String,
}

impl std::fmt::Display for UnknownDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known: Vec<&str> = DEVICES.iter().map(|(name, _)| *name).collect();
        write!(f, "`device: {}` is not there; this build has {} (auto takes the first)", self.name, known.join(", "))
    }
}

impl std::error::Error for UnknownDevice {}

/// A device: its memory, the operations of models, and what training does to parameters.
pub trait Device: Memory + Projections + Adapters + Layers + Experts + Losses + Training + Debug {}

impl<D: Memory + Projections + Adapters + Layers + Experts + Losses + Training + Debug> Device for D {}

/// Tensors in the device's memory.
#[expect(clippy::wrong_self_convention, reason = "it is the device that makes a tensor from what the host has")]
pub trait Memory: Send + Sync {
    /// The name that a config has for the device.
    fn name(&self) -> &'static str;

    /// A tensor of f32 values from the host, row-major.
    fn from_host(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor;

    /// A tensor of bf16 values from the host, row-major: as weight one that does not train.
    fn from_bf16(&self, values: Vec<bf16>, shape: [usize; 2]) -> Tensor;

    /// A weight that stays in its blocks, [`Dtype::Packed`].
    fn from_packed(&self, matrix: PackedMatrix) -> Tensor;

    /// The elements as f32, row-major; packed ones are decoded.
    fn to_host<'a>(&self, tensor: &'a Tensor) -> Cow<'a, [f32]>;

    /// Zeros.
    fn zeros(&self, shape: [usize; 2], dtype: Dtype) -> Tensor;

    /// A tensor of its own with the same elements.
    fn copy(&self, tensor: &Tensor) -> Tensor;

    /// The same numbers in f32 or bf16, rounded where it has fewer bits; in u8 those that are whole numbers from 0 to 255.
    fn cast(&self, tensor: &Tensor, dtype: Dtype) -> Tensor;

    /// Bytes that the tensor takes.
    fn bytes(&self, tensor: &Tensor) -> usize;

    /// `sum += term`, both of one shape and dtype; the sum of two bf16 numbers is rounded once.
    fn add(&self, sum: &mut Tensor, term: &Tensor);

    /// `tensor *= factor`, in f32.
    fn scale(&self, tensor: &mut Tensor, factor: f32);

    /// Rows `rows` of a tensor, `[rows, columns]`; packed ones are decoded to f32.
    fn gather_rows(&self, tensor: &Tensor, rows: &[u32]) -> Tensor;

    /// `sum[rows[i]] += terms[i]`, both f32, in the order of i.
    fn scatter_add_rows(&self, sum: &mut Tensor, rows: &[u32], terms: &Tensor);

    /// Puts rows of the same dtype in the place of others: `tensor[rows[i]] = by[i]`.
    fn put_rows(&self, tensor: &mut Tensor, rows: &[u32], by: &Tensor);

    /// Adds rows at the end of a tensor of the same width and dtype. Its memory grows by doubling.
    fn append_rows(&self, tensor: &mut Tensor, rows: &Tensor);
}

/// Linear layers. A batch is `[tokens, width]`; weights `[out, in]` are f32, or where they do not train bf16 or packed, biases f32.
pub trait Projections: Send + Sync {
    /// `y = x · [W₁; W₂; …]ᵀ + b + residual`: x `[tokens, in]`, each W `[outᵢ, in]`, y `[tokens, Σ outᵢ]`.
    ///
    /// `biases` is empty or one `[1, outᵢ]` a weight. With a residual, f32 `[tokens, Σ outᵢ]`, y is f32.
    fn project(&self, x: &Tensor, weights: &[&Tensor], biases: &[&Tensor], residual: Option<Tensor>) -> Tensor;

    /// The gradient of [`project`](Self::project) in x: `dy · [W₁; W₂; …]`, `[tokens, in]`, added to `onto` where there is
    /// one, which has the dtype of dy.
    fn project_input_gradient(&self, dy: &Tensor, weights: &[&Tensor], onto: Option<Tensor>) -> Tensor;

    /// The gradients of [`project`](Self::project) in rows of its weights: `dW = dy[:, columns]ᵀ · x[:, of]` for each of
    /// `columns`, `[columns, of]` in f32; dy and x have one dtype.
    fn project_weight_gradients(
        &self,
        dy: &Tensor,
        x: &Tensor,
        of: Range<usize>,
        columns: &[Range<usize>],
    ) -> Vec<Tensor>;

    /// The sums over rows of some columns, `[1, columns]` in f32: the gradient of a bias.
    fn column_sums(&self, dy: &Tensor, columns: Range<usize>) -> Tensor;

    /// `y = activation(x · Wᵍᵀ) · (x · Wᵘᵀ)`: the two weights `[out, in]`, y `[tokens, out]`; with `keep` also the
    /// two products side by side, `[tokens, 2 · out]`, which its gradient needs. Kept or not, the products have the dtype
    /// of x before they are activated.
    fn gated_project(
        &self,
        x: &Tensor,
        weights: [&Tensor; 2],
        activation: Activation,
        keep: bool,
    ) -> (Tensor, Option<Tensor>);
}

/// The rest of a layer: norms, attention, gates, dropout.
pub trait Layers: Send + Sync {
    /// `activation(x)` of each element.
    fn activate(&self, x: &Tensor, activation: Activation) -> Tensor;

    /// The gradient of [`activate`](Self::activate) in x.
    fn activate_backward(&self, dy: &Tensor, x: &Tensor, activation: Activation) -> Tensor;

    /// `activation(gate) · up` of `[gate | up]` `[tokens, 2 · width]` (Shazeer 2020).
    fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Tensor;

    /// The gradient of [`gated_activation`](Self::gated_activation), `[tokens, 2 · width]`.
    fn gated_activation_backward(&self, dy: &Tensor, gate_up: &Tensor, activation: Activation) -> Tensor;

    /// `y = x / √(mean(x²) + eps) · scale` by row, in `dtype`, and the `1 / √(mean(x²) + eps)` of each row, `[tokens, 1]`:
    /// f32 x `[tokens, width]`, scale `[1, width]` (Zhang and Sennrich 2019).
    fn rms_norm(&self, x: &Tensor, scale: &Tensor, eps: f32, dtype: Dtype) -> (Tensor, Tensor);

    /// The gradients of [`rms_norm`](Self::rms_norm): dx `[tokens, width]` in f32, and dscale `[1, width]` where it is
    /// wanted.
    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        inverse_rms: &Tensor,
        want_scale: bool,
    ) -> (Tensor, Option<Tensor>);

    /// `y = (x − mean) / √(var + eps) · scale + bias` by row, in `dtype`, and the mean and `1 / √(var + eps)` of each row,
    /// `[tokens, 2]`: f32 x `[tokens, width]`, scale and bias `[1, width]` (Ba et al. 2016).
    fn layer_norm(&self, x: &Tensor, scale: &Tensor, bias: &Tensor, eps: f32, dtype: Dtype) -> (Tensor, Tensor);

    /// The gradients of [`layer_norm`](Self::layer_norm): dx `[tokens, width]` in f32, and dscale and dbias `[1, width]` where
    /// they are wanted.
    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        scale: &Tensor,
        moments: &Tensor,
        want_parameters: bool,
    ) -> (Tensor, Option<[Tensor; 2]>);

    /// `[q | k | v]` with each head of q and k normed as by [`rms_norm`](Self::rms_norm), by the scale of all q's heads and that
    /// of all k's, `[1, head_dim]` each; and the `1 / √(mean(x²) + eps)` of each, `[tokens, heads + kv_heads]` in f32.
    fn norm_heads(&self, qkv: &Tensor, scales: [&Tensor; 2], eps: f32, spec: &AttentionSpec) -> (Tensor, Tensor);

    /// The gradients of [`norm_heads`](Self::norm_heads): in `[q | k | v]`, and in the scales where they are wanted.
    fn norm_heads_backward(
        &self,
        dy: &Tensor,
        qkv: &Tensor,
        scales: [&Tensor; 2],
        inverse_rms: &Tensor,
        want_scales: [bool; 2],
        spec: &AttentionSpec,
    ) -> (Tensor, [Option<Tensor>; 2]);

    /// Splits `[q | k | v]` and rotates q and k where the spec has a rope table: q `[tokens, heads · head_dim]`, k and v
    /// `[tokens, kv_heads · head_dim]`.
    fn split_heads(&self, qkv: &Tensor, spec: &AttentionSpec) -> [Tensor; 3];

    /// The gradient of [`split_heads`](Self::split_heads): rotates dq and dk back and joins the three.
    fn join_heads(&self, dq: &Tensor, dk: &Tensor, dv: &Tensor, spec: &AttentionSpec) -> Tensor;

    /// Softmax attention over split, rotated heads: the output `[tokens, heads · head_dim]` and the log-sum-exp of each
    /// row of scores, `[tokens, heads]` in f32, all that the backward pass keeps of the scores.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> (Tensor, Tensor);

    /// The gradients of [`attend`](Self::attend) in q, k and v.
    fn attend_backward(&self, dout: &Tensor, saved: &SavedAttention, spec: &AttentionSpec) -> [Tensor; 3];

    /// x times the mask that is drawn from the dropout's key.
    fn dropout(&self, x: &Tensor, dropout: Dropout) -> Tensor;
}

/// Mixtures of experts (Shazeer et al. 2017): which tokens go where, and the sum of what experts make of them.
pub trait Experts: Send + Sync {
    /// The `top_k` likeliest experts of each token by the softmax of `logits`, f32 `[tokens, experts]`; of equally likely ones
    /// the first. Each counts its probability, divided by the sum of those that were chosen if `normalise`.
    fn route(&self, logits: &Tensor, top_k: usize, normalise: bool) -> Routed;

    /// The gradient of [`route`](Self::route) in the logits: of its weights, `[tokens, top_k]`, and of its probabilities,
    /// `slopes [experts]` for each token alike.
    fn route_backward(&self, dweights: &Tensor, routed: &Routed, slopes: &[f32]) -> Tensor;

    /// Adds to each row of `onto`, f32 `[tokens, width]`, the rows that stand for its choices in `parts` (one a group of the
    /// dispatch, `[rows, width]`), times the weights `[tokens, top_k]`.
    fn combine(&self, onto: Tensor, parts: &[Tensor], dispatch: &Dispatch, weights: &Tensor) -> Tensor;

    /// The gradients of [`combine`](Self::combine) in each part, of its dtype, and in the weights.
    fn combine_backward(
        &self,
        dy: &Tensor,
        parts: &[Tensor],
        dispatch: &Dispatch,
        weights: &Tensor,
    ) -> (Vec<Tensor>, Tensor);
}

/// The head of a language model; its weight is f32, or where it does not train bf16 or packed.
pub trait Losses: Send + Sync {
    /// `Σ scale · −log softmax(hidden · Wᵀ)[target]` as `[1, 1]` in f32: hidden `[rows, hidden]`, weight `[vocabulary,
    /// hidden]`; and its gradients in hidden and in the weight where they are wanted, from the same pass over the logits,
    /// which are never held all at once.
    fn cross_entropy(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        spec: &CrossEntropySpec,
        want_hidden: bool,
        want_weight: bool,
    ) -> (Tensor, Option<Tensor>, Option<Tensor>);

    /// `log softmax(hidden · Wᵀ)[row, token]` of every label, `[1, labels]` in f32; they are in the order of their rows.
    fn log_likelihoods(&self, hidden: &Tensor, weight: &Tensor, labels: &[Label]) -> Tensor;
}

/// Low-rank adapters beside linear layers (LoRA, Hu et al. 2021; DoRA, Liu et al. 2024).
pub trait Adapters: Send + Sync {
    /// The first product of low-rank adapters: `s · x · [A₁; A₂; …]ᵀ`, `[tokens, Σ r]`: each A `[rᵢ, in]`.
    fn reduce(&self, x: &Tensor, a: &[&Tensor], scaling: f32) -> Tensor;

    /// The second product: `y[:, columns of i] += uᵢ · Bᵢᵀ` for u of [`reduce`](Self::reduce): each B `[outᵢ, rᵢ]`, its
    /// columns of y begin at `firsts[i]`. y is f32 or has the dtype of u.
    fn expand(&self, y: Tensor, u: &Tensor, b: &[&Tensor], firsts: &[usize]) -> Tensor;

    /// The gradient of [`expand`](Self::expand) in u, s times: `s · [dy[:, columns of i] · Bᵢ]`, `[tokens, Σ r]`.
    fn expand_input_gradient(&self, dy: &Tensor, b: &[&Tensor], firsts: &[usize], scaling: f32) -> Tensor;

    /// The norm of each row of `W + s · B · A`, `[1, out]` in f32: what DoRA divides by. `squares` holds
    /// the squared norms of W's rows, so that nothing of the size of W is formed. Of a row of zeros, which has no direction,
    /// it is tiny instead of 0, and the row stays.
    fn adapted_row_norms(&self, weight: &Tensor, squares: &Tensor, a: &Tensor, b: &Tensor, scaling: f32) -> Tensor;

    /// What DoRA multiplies each column of a linear layer's output by, `[1, out]` in f32: the quotients of its parts side by
    /// side.
    fn gains(&self, parts: &[Gain<'_>]) -> Tensor;

    /// The gradient of [`gains`](Self::gains) in the magnitude of the columns from `first` on: `dgains / norms`.
    fn gains_backward(&self, dgains: &Tensor, first: usize, norms: &Tensor) -> Tensor;

    /// `y · gains`, each column by its own f32 factor of `[1, out]`, plus the biases and the residual, in f32; without a
    /// residual in the dtype of y.
    fn rescale(&self, y: &Tensor, gains: &Tensor, biases: &[&Tensor], residual: Option<Tensor>) -> Tensor;

    /// The gradients of [`rescale`](Self::rescale): in y, in its dtype, and in the gains, `[1, out]`.
    fn rescale_backward(&self, dy: &Tensor, y: &Tensor, gains: &Tensor) -> (Tensor, Tensor);

    /// Adds `s · B · A` to the weight; with magnitudes `[1, out]` each row of the sum becomes that long, but one of zeros,
    /// which stays.
    fn fold(&self, weight: &mut Tensor, a: &Tensor, b: &Tensor, scaling: f32, magnitudes: Option<&Tensor>);

    /// The squared norm of each row, `[1, rows]` in f32.
    fn row_squares(&self, tensor: &Tensor) -> Tensor;
}

/// What the backward pass of an attention keeps of its forward pass.
#[derive(Clone, Debug)]
pub struct SavedAttention {
    /// Rotated queries, `[tokens, heads · head_dim]`.
    pub q: Tensor,
    /// Rotated keys, `[keys, kv_heads · head_dim]`.
    pub k: Tensor,
    /// Values, `[keys, kv_heads · head_dim]`.
    pub v: Tensor,
    /// The output, `[tokens, heads · head_dim]`.
    pub out: Tensor,
    /// Of each row of scores, `[tokens, heads]`.
    pub log_sum_exp: Tensor,
}

/// What some columns of a linear layer's output are multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Gain<'a> {
    /// By the magnitude `[1, out]` over the norms `[1, out]` of the rows that it belongs to.
    Adapted {
        /// The lengths that the rows shall have.
        magnitude: &'a Tensor,
        /// Those that they have.
        norms: &'a Tensor,
    },
    /// By 1, so many columns.
    Plain(usize),
}

/// A range of a parameter's elements, row-major, with its gradient.
#[derive(Debug)]
pub struct Update<'a> {
    /// The whole parameter, f32.
    pub parameter: &'a mut Tensor,
    /// Its first element that the gradient is of.
    pub first: usize,
    /// The gradient, f32; it tells how many elements change.
    pub gradient: &'a Tensor,
    /// Factor of the gradient (clipping).
    pub gradient_scale: f32,
}

/// A gradient to measure, and against what.
#[derive(Clone, Copy, Debug)]
pub struct Measure<'a> {
    /// The gradient, f32.
    pub gradient: &'a Tensor,
    /// The one of the step before; left out, the change is not measured.
    pub previous: Option<&'a Tensor>,
    /// The norm; left out, only the squares are summed.
    pub norm: Option<Norm>,
    /// Whether the norm of `previous` is wanted too.
    pub want_previous: bool,
}

/// A moment of an optimizer in 8 bits: what [`StateMap`](crate::StateMap) says of each code, times the scale of its block of 256
/// elements.
#[derive(Debug)]
pub struct Blockwise<'a> {
    /// A code an element, of the gradient's shape, [`Dtype::U8`].
    pub codes: &'a mut Tensor,
    /// The scales, `[1, blocks]` in f32.
    pub scales: &'a mut Tensor,
}

/// What training does to parameters and gradients.
pub trait Training: Send + Sync {
    /// One step of AdamW (Loshchilov and Hutter 2019); the moments have the gradient's shape. Returns the gain of the step
    /// before, −⟨gradient, change of the parameter in it⟩, if [`AdamW::gain_of`] asks for it, else 0.
    fn adamw(&self, update: Update<'_>, moments: [&mut Tensor; 2], options: &AdamW) -> f64;

    /// One step of AdamW with moments in 8 bits (Dettmers et al. 2022): the first with signs, the second without. The step is
    /// that of the moments before they are rounded.
    fn adamw_8bit(&self, update: Update<'_>, moments: [Blockwise<'_>; 2], options: &AdamW);

    /// One step of Lion (Chen et al. 2023); the momentum has the gradient's shape.
    fn lion(&self, update: Update<'_>, momentum: &mut Tensor, options: &Lion);

    /// One step of Muon (Jordan et al. 2024) as `torch.optim.Muon`, with f32 products; the momentum has the gradient's shape,
    /// which is that of the matrix.
    fn muon(&self, update: Update<'_>, momentum: &mut Tensor, options: &Muon);

    /// One step of SGD as `torch.optim.SGD`; the velocity has the gradient's shape, and there is none without momentum.
    fn sgd(&self, update: Update<'_>, velocity: Option<&mut Tensor>, options: &Sgd);

    /// Measures gradients, all of them before a single number comes to the host.
    fn measure(&self, gradients: &[Measure<'_>]) -> Vec<Sums>;

    /// The norm of the difference of each pair of f32 tensors of one shape; `None` where it is not defined.
    fn distances(&self, pairs: &[(&Tensor, &Tensor)], norm: Norm) -> Vec<Option<f64>>;

    /// Sets the elements, f32 or u8, that are not kept to zero.
    fn mask(&self, tensor: &mut Tensor, first: usize, keep: &[bool]);

    /// Elements `first..first + shape[0] · shape[1]` as a tensor of their own.
    fn part(&self, tensor: &Tensor, first: usize, shape: [usize; 2]) -> Tensor;

    /// Puts `part` in the place of the elements from `first` on.
    fn set_part(&self, tensor: &mut Tensor, first: usize, part: &Tensor);

    /// Moves a running average towards the elements of `tensor` from `first` on: `average += weight · (elements − average)`.
    fn average(&self, average: &mut Tensor, tensor: &Tensor, first: usize, weight: f32);
}
