//! What families of experts share: how many there are, how their router weighs them, and their matrices.

use grades::{Companion, Role, Tower};
use grades_tensor::Activation;

use crate::Error;
use crate::config::Sizes;
use crate::fields::Fields;
use crate::nn::{Experts, FeedForward, Mlp, Part, Projection};
use crate::parameters::Place;
use crate::source::Builder;

/// The experts of a layer, the same in all that have some. Each matrix of an expert is a unit, `experts.3.gate`. The router is
/// none, as it is no projection of the hidden state: it trains as the norms of its layer do.
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    /// What its checkpoints call the block, and the three matrices of an expert: gate, up, down.
    pub(super) names: (&'static str, [&'static str; 3]),
    /// How many there are.
    pub(super) experts: usize,
    /// How many a token has.
    pub(super) top_k: usize,
    /// Whether their weights add up to 1.
    pub(super) normalise: bool,
    /// Width inside an expert.
    pub(super) inner: usize,
    /// Their non-linearity.
    pub(super) activation: Activation,
}

impl Mixture {
    /// The experts of a layer with the tensors below a prefix.
    pub(super) fn load(
        &self,
        builder: &mut Builder<'_>,
        sizes: &Sizes,
        index: usize,
        prefix: &str,
    ) -> Result<FeedForward, Error> {
        let (tower, hidden, (block, matrices)) = (Tower::Language, sizes.hidden_size, self.names);
        let place = Place::Companion(Companion::Norms { tower, layer: index });
        let router = builder.add(&format!("{prefix}{block}.gate.weight"), &[self.experts, hidden], place)?;
        let experts = (0..self.experts).map(|expert| {
            let [gate, up, down] = matrices.map(|matrix| format!("{block}.experts.{expert}.{matrix}"));
            let role =
                |role: Role| format!("experts.{expert}.{role}").parse().map_err(|e| Error::config(format!("{e}")));
            let gate_up =
                [Part::new(&gate, role(Role::Gate)?, self.inner), Part::new(&up, role(Role::Up)?, self.inner)];
            let down = [Part::new(&down, role(Role::Down)?, hidden)];
            Ok(Mlp {
                up: Projection::load(builder, prefix, (tower, index), hidden, false, &gate_up)?,
                down: Projection::load(builder, prefix, (tower, index), self.inner, false, &down)?,
                activation: self.activation,
                gated: true,
            })
        });
        let experts = experts.collect::<Result<_, Error>>()?;
        Ok(FeedForward::Sparse(Experts { router, experts, top_k: self.top_k, normalise: self.normalise }))
    }
}

/// Most experts in all layers, far above any model's: each is listed before a tensor is read.
const MOST_EXPERTS: usize = 1 << 17;

/// How many experts there are and how many a token has, where the config does not say so `plain`; transformers calls the first
/// by two names. Takes the loss that balances them, too, which it adds where `output_router_logits` is on.
pub(super) fn counts(config: &Fields<'_>, sizes: &mut Sizes, plain: [usize; 2]) -> Result<[usize; 2], Error> {
    let found = [config.optional::<usize>("num_experts")?, config.optional("num_local_experts")?];
    if let [Some(one), Some(other)] = found
        && one != other
    {
        return Err(Error::config(format!(
            "has `num_experts: {one}` and `num_local_experts: {other}`, which are two names for one number; leave one out"
        )));
    }
    let experts = found[0].or(found[1]).unwrap_or(plain[0]);
    let top_k = config.optional("num_experts_per_tok")?.unwrap_or(plain[1]);
    let layers = sizes.num_hidden_layers;
    if experts > MOST_EXPERTS / layers {
        return Err(Error::config(format!(
            "describes {experts} experts (`num_experts` or `num_local_experts`) in each of {layers} layers; there may be {MOST_EXPERTS} in all"
        )));
    }
    if experts > 0 && !(1..=experts).contains(&top_k) {
        return Err(Error::config(format!(
            "has `num_experts_per_tok: {top_k}` for {experts} experts; it must lie between 1 and {experts}"
        )));
    }
    const PLAIN: f32 = 0.001;
    let coefficient = config.optional("router_aux_loss_coef")?.unwrap_or(PLAIN);
    if !(coefficient.is_finite() && coefficient >= 0.0) {
        return Err(Error::config(format!("has `router_aux_loss_coef: {coefficient}`; it must be at least 0")));
    }
    sizes.router_aux_loss = if config.flag("output_router_logits")? { coefficient } else { 0.0 };
    Ok([experts, top_k])
}
