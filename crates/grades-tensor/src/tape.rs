//! The tape of a backward pass.
//!
//! A forward pass records an operation only if something that it depends on is tracked: a parameter that trains, or an
//! activation above one. Going back, each step takes the gradient of its output, adds those of its inputs in place, and
//! frees what it kept. So a tied embedding, an adapter beside its projection and a residual are ordinary cases of adding.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::tensor::Tensor;

/// Where the gradient of a value goes, if it is tracked: what a step keeps of an input whose value it does not need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node(Option<usize>);

impl Node {
    /// Whether there is a gradient.
    #[must_use]
    pub fn is_tracked(self) -> bool {
        self.0.is_some()
    }
}

/// Runs one operation backwards, with the gradient of its output where it has one.
type Step = Box<dyn FnOnce(Option<Tensor>, &mut Backward<'_>)>;

/// A value of a forward pass.
#[derive(Clone, Debug)]
pub struct Var {
    /// The value.
    pub value: Tensor,
    node: Node,
    remade: Option<Remade>,
}

/// How a value is made once more from others that are kept anyway.
#[derive(Clone)]
struct Remade(Rc<dyn Fn() -> Tensor>);

impl fmt::Debug for Remade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remade")
    }
}

/// What an operation keeps of an input whose value its way back needs: the value, or how it is made once more.
#[derive(Clone, Debug)]
pub struct Saved(Result<Tensor, Remade>);

impl Saved {
    /// The value.
    #[must_use]
    pub fn value(self) -> Tensor {
        self.0.unwrap_or_else(|Remade(make)| make())
    }
}

impl Var {
    /// A value that nothing tracked lies under.
    #[must_use]
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: Node(None), remade: None }
    }

    /// The same value, of which what follows keeps nothing: the way back calls `make`, which must give it to the bit.
    #[must_use]
    pub fn remade(self, make: impl Fn() -> Tensor + 'static) -> Self {
        Self { remade: Some(Remade(Rc::new(make))), ..self }
    }

    /// What the way back needs to have the value again.
    #[must_use]
    pub fn saved(&self) -> Saved {
        Saved(self.remade.clone().map_or_else(|| Ok(self.value.clone()), Err))
    }

    /// Whether the backward pass gives its gradient.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.node.is_tracked()
    }

    /// Where its gradient goes.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }
}

/// A parameter in a forward pass: its value, and which of its rows have a gradient, each range in a slot of its own.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The value.
    pub value: Tensor,
    /// Ranges of its rows (of a vector: of its elements) that are tracked, with the slot of [`Gradients`] for each.
    pub tracked: Vec<(Range<usize>, usize)>,
}

impl Leaf {
    /// A parameter that does not train.
    #[must_use]
    pub fn constant(value: Tensor) -> Self {
        Self { value, tracked: Vec::new() }
    }

    /// One that trains as a whole.
    #[must_use]
    pub fn tracked(value: Tensor, slot: usize) -> Self {
        let all = if value.rows() == 1 { value.len() } else { value.rows() };
        Self { value, tracked: vec![(0..all, slot)] }
    }

    /// Whether any of it trains.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        !self.tracked.is_empty()
    }

    /// The slot of a parameter that trains as a whole or not at all.
    #[must_use]
    pub fn slot(&self) -> Option<usize> {
        self.tracked.first().map(|(_, slot)| *slot)
    }
}

/// The gradients of parameters by slot; `None` where nothing was computed.
#[derive(Clone, Debug, Default)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// No gradient in any of `slots` slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| None).collect())
    }

    /// The gradient in a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Tensor> {
        self.0.get(slot)?.as_ref()
    }

    /// The gradient in a slot, to be changed.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Tensor> {
        self.0.get_mut(slot)?.as_mut()
    }

    /// Takes the gradient out of a slot.
    pub fn take(&mut self, slot: usize) -> Option<Tensor> {
        self.0.get_mut(slot)?.take()
    }

    /// Puts a gradient into a slot that [`take`](Self::take) has emptied.
    pub fn put(&mut self, slot: usize, gradient: Tensor) {
        if let Some(place) = self.0.get_mut(slot) {
            *place = Some(gradient);
        }
    }

    /// Adds a gradient to what is in a slot.
    pub fn add(&mut self, slot: usize, gradient: Tensor) {
        if let Some(sum) = self.0.get_mut(slot) {
            add(sum, gradient);
        }
    }

    /// The gradients that there are, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.0.iter().enumerate().filter_map(|(slot, gradient)| Some((slot, gradient.as_ref()?)))
    }
}

fn add(sum: &mut Option<Tensor>, term: Tensor) {
    match sum {
        None => *sum = Some(term),
        Some(sum) => sum.device().add(sum, &term),
    }
}

/// The operations of a forward pass, in order. One tape serves one thread and one backward pass.
pub struct Tape {
    /// Of each node the step that made it; none of an input. `None` where nothing is recorded.
    steps: Option<RefCell<Vec<Option<Step>>>>,
}

impl Tape {
    /// A tape that records.
    #[must_use]
    pub fn recording() -> Self {
        Self { steps: Some(RefCell::default()) }
    }

    /// A tape on which nothing is recorded, for passes without gradients.
    #[must_use]
    pub fn off() -> Self {
        Self { steps: None }
    }

    /// Whether it records.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.steps.is_some()
    }

    /// A value from outside whose gradient is wanted.
    #[must_use]
    pub fn input(&self, value: Tensor) -> Var {
        Var { value, node: self.push(None), remade: None }
    }

    /// The output of an operation. If one of its inputs is `tracked`, `step` says how to go back through it: it gets the
    /// gradient of the output and hands on those of the inputs.
    pub fn record(&self, value: Tensor, tracked: bool, step: impl FnOnce(Tensor, &mut Backward<'_>) + 'static) -> Var {
        // Of an output that nothing used further there is no gradient.
        let step: Step = Box::new(|dy, gradients| {
            if let Some(dy) = dy {
                step(dy, gradients);
            }
        });
        Var { value, node: if tracked { self.push(Some(step)) } else { Node(None) }, remade: None }
    }

    /// As [`record`](Self::record) for a loss, where the backward pass begins: its gradient in itself is 1.
    pub fn record_loss(&self, value: Tensor, tracked: bool, step: impl FnOnce(&mut Backward<'_>) + 'static) -> Var {
        let step: Step = Box::new(|_, gradients| step(gradients));
        Var { value, node: if tracked { self.push(Some(step)) } else { Node(None) }, remade: None }
    }

    fn push(&self, step: Option<Step>) -> Node {
        Node(self.steps.as_ref().map(|steps| {
            let mut steps = steps.borrow_mut();
            steps.push(step);
            steps.len() - 1
        }))
    }

    /// Goes back through all that was recorded: from the losses, and from `seed`, a value with the gradient in it. The
    /// gradients of parameters are added to `gradients`; that in `input` is returned where there is one.
    pub fn backward(
        self,
        seed: Option<(&Var, Tensor)>,
        input: Option<&Var>,
        gradients: &mut Gradients,
    ) -> Option<Tensor> {
        let steps = self.steps?.into_inner();
        let mut backward = Backward { nodes: (0..steps.len()).map(|_| None).collect(), gradients };
        if let Some((var, dy)) = seed {
            backward.add(var.node, dy);
        }
        for (node, step) in steps.into_iter().enumerate().rev() {
            if let Some(step) = step {
                let dy = backward.nodes[node].take();
                step(dy, &mut backward);
            }
        }
        backward.take(input?.node)
    }
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.as_ref().map_or(0, |steps| steps.borrow().len());
        write!(f, "Tape of {steps} steps")
    }
}

/// A backward pass under way: the gradients so far.
#[derive(Debug)]
pub struct Backward<'a> {
    nodes: Vec<Option<Tensor>>,
    gradients: &'a mut Gradients,
}

impl Backward<'_> {
    /// Adds to the gradient of a value, if it is tracked.
    pub fn add(&mut self, to: Node, gradient: Tensor) {
        if let Some(node) = to.0 {
            add(&mut self.nodes[node], gradient);
        }
    }

    /// Takes what there is of a value's gradient, for an operation that adds to it itself and then hands it back by
    /// [`add`](Self::add).
    pub fn take(&mut self, of: Node) -> Option<Tensor> {
        self.nodes[of.0?].take()
    }

    /// The gradients of the parameters.
    pub fn parameters(&mut self) -> &mut Gradients {
        self.gradients
    }
}
