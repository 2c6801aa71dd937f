//! The parameters of a model: one flat table, each entry with its checkpoint name and what of it freezes with what.
//!
//! A model's blocks hold [`ParameterId`]s into the table, so that training, saving and inspecting see every parameter in
//! one loop and no family has to list its own again. A parameter consists of [`Piece`]s, ranges of its rows that train or
//! freeze each on its own: most have one; a fused `qkv_proj` has one for q, k and v each. What training keeps (gradients,
//! the optimizer's state) is kept by piece, in the slot that it has in the whole table.

use std::borrow::Cow;
use std::ops::Range;

use grades::{Companion, Tower, UnitId};
use grades_tensor::{Dtype, Leaf, Tensor};

/// Where a piece belongs, which decides when it is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A projection matrix or its bias: a unit of freezing.
    Unit(UnitId),
    /// What may freeze with the units around it: a layer's norms, the input embedding.
    Companion(Companion),
    /// The input embedding that is the head too: it freezes with the units as input only, and trains on as head.
    Tied(Companion),
    /// What trains until the end: the last norm, an untied head.
    Always,
    /// What makes rows of the language model of a tower's output. It trains until the end, too.
    Projector,
    /// What lies under adapters: it never trains.
    Base,
}

impl Place {
    /// The unit that it is of.
    #[must_use]
    pub fn unit(self) -> Option<UnitId> {
        match self {
            Self::Unit(unit) => Some(unit),
            Self::Companion(_) | Self::Tied(_) | Self::Always | Self::Projector | Self::Base => None,
        }
    }

    /// Where it stands in its tower: 0 before the layers, `i + 1` in layer `i`; `None` above them or in no tower.
    #[must_use]
    pub fn height(self) -> Option<(Tower, usize)> {
        match self {
            Self::Unit(unit) => Some((unit.tower, unit.layer + 1)),
            Self::Companion(Companion::Norms { tower, layer }) => Some((tower, layer + 1)),
            Self::Companion(Companion::Embedding { tower }) | Self::Tied(Companion::Embedding { tower }) => {
                Some((tower, 0))
            }
            Self::Tied(Companion::Norms { .. }) | Self::Always | Self::Projector | Self::Base => None,
        }
    }

    /// Whether 4 bits are for it: a matrix of a layer of the language model. As in most programs, what reads pictures stays dense.
    #[must_use]
    pub fn may_be_packed(self) -> bool {
        self.unit().is_some_and(|unit| unit.tower != Tower::Vision)
    }

    /// What it is of in a model that reads pictures.
    #[must_use]
    pub fn group(self) -> Group {
        match self.height() {
            _ if self == Self::Projector => Group::Projector,
            Some((tower, _)) if tower == Tower::Vision => Group::Vision,
            _ => Group::Language,
        }
    }
}

/// The parts of a model that reads pictures, which have learning rates of their own, or do not train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The tower that looks at pictures.
    Vision,
    /// What makes rows of the language model of its output.
    Projector,
    /// The language model; all of one that reads texts alone.
    Language,
}

/// Some of the groups of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups([bool; 3]);

impl Groups {
    /// All of them.
    pub const ALL: Self = Self([true; 3]);

    /// These.
    #[must_use]
    pub fn of(groups: &[Group]) -> Self {
        Self([Group::Vision, Group::Projector, Group::Language].map(|group| groups.contains(&group)))
    }

    /// Whether a group is one of them.
    #[must_use]
    pub fn contains(self, group: Group) -> bool {
        self.0[group as usize]
    }
}

/// A range of a parameter's rows that trains or freezes on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The rows; of a vector, the elements.
    pub rows: Range<usize>,
    /// Where it belongs.
    pub place: Place,
    trainable: bool,
    slot: usize,
}

impl Piece {
    /// Whether a backward pass computes its gradient.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Its number in the whole table: where its gradient and its state are.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }
}

/// One parameter tensor.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// Its shape in a Hugging Face checkpoint.
    pub shape: Vec<usize>,
    /// Its values as `[rows, columns]`; a vector has one row.
    pub value: Tensor,
    pieces: Vec<Piece>,
}

impl Parameter {
    /// One whose pieces have these places, in the order of their rows. Nothing of it trains yet.
    #[must_use]
    pub fn new(name: &str, shape: &[usize], value: Tensor, pieces: &[(usize, Place)]) -> Self {
        let mut end = 0;
        let piece = |&(rows, place): &(usize, Place)| {
            end += rows;
            Piece { rows: end - rows..end, place, trainable: false, slot: 0 }
        };
        Self { name: name.into(), shape: shape.into(), value, pieces: pieces.iter().map(piece).collect() }
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is the B of a low-rank adapter.
    #[must_use]
    pub fn is_lora_b(&self) -> bool {
        self.name.ends_with(".lora_B.weight")
    }

    /// Whether it is a matrix that 4 bits are for.
    #[must_use]
    pub fn may_be_packed(&self) -> bool {
        self.shape.len() == 2 && self.pieces.iter().all(|piece| piece.place.may_be_packed())
    }

    /// Whether it is a matrix in packed blocks, which do not train.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.value.dtype() == Dtype::Packed
    }

    /// Whether it is held as its file has it, in blocks or in bf16: only what is in f32 can train.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.value.dtype() != Dtype::F32
    }

    /// Its memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.value.bytes()
    }

    /// Its values on the host, row-major; a packed matrix is decoded.
    #[must_use]
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        self.value.to_host()
    }

    /// Its first dimension: the rows of a matrix, the elements of a vector.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of one row of its checkpoint shape.
    #[must_use]
    pub fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Its pieces, in the order of their rows.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The element where a piece begins, and the shape of its gradient.
    #[must_use]
    pub fn extent(&self, piece: &Piece) -> (usize, [usize; 2]) {
        if piece.rows.len() == self.rows() {
            return (0, self.value.shape());
        }
        let row = self.row_len();
        let shape = if self.value.rows() == self.rows() && self.shape.len() > 1 {
            [piece.rows.len(), row]
        } else {
            [1, piece.rows.len() * row]
        };
        (piece.rows.start * row, shape)
    }

    /// Whether all of it lies under adapters.
    #[must_use]
    pub fn is_base(&self) -> bool {
        self.pieces.iter().all(|piece| piece.place == Place::Base)
    }

    /// Whether any of it trains.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        self.pieces.iter().any(|piece| piece.trainable)
    }

    /// Lets all of it train or not. What lies under adapters and what is held as its file has it never train.
    pub fn set_trainable(&mut self, trainable: bool) {
        let fixed = self.is_fixed();
        for piece in &mut self.pieces {
            piece.trainable = trainable && !fixed && piece.place != Place::Base;
        }
    }

    /// Gives its pieces other places, which must be as many.
    pub(crate) fn set_places(&mut self, places: impl IntoIterator<Item = Place>) {
        for (piece, place) in self.pieces.iter_mut().zip(places) {
            piece.place = place;
        }
    }

    /// Its value in f32.
    pub(crate) fn dense(&self) -> Tensor {
        if self.is_fixed() { self.value.cast(Dtype::F32) } else { self.value.clone() }
    }

    /// Holds it in f32 from here on.
    pub(crate) fn unpack(&mut self) {
        self.value = self.dense();
    }

    /// The parameter in a forward pass; nothing of it is tracked unless `track` is on.
    fn leaf(&self, track: bool) -> Leaf {
        let tracked = self.pieces.iter().filter(|piece| track && piece.trainable);
        let tracked = tracked.map(|piece| (piece.rows.clone(), piece.slot)).collect();
        Leaf { value: self.value.clone(), tracked }
    }
}

/// Index of a parameter in its model's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(usize);

impl ParameterId {
    /// The position in the table, in the order of [`Parameters::iter`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// All parameters of a model.
#[derive(Debug, Default)]
pub struct Parameters {
    table: Vec<Parameter>,
    slots: usize,
}

impl Parameters {
    /// The table's entries, in the order of the model.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.table.iter()
    }

    /// The table's entries, in the order of the model.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Parameter> {
        self.table.iter_mut()
    }

    /// Every piece with its parameter, in the order of the slots.
    pub fn pieces(&self) -> impl Iterator<Item = (&Parameter, &Piece)> {
        self.iter().flat_map(|parameter| parameter.pieces.iter().map(move |piece| (parameter, piece)))
    }

    /// Number of slots: of pieces.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Number of parameter tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Lets everything train that does not lie under adapters.
    pub fn train(&mut self) {
        self.iter_mut().for_each(|parameter| parameter.set_trainable(true));
    }

    /// Lets every piece train or not as `of` says of it; `None` leaves it as it is.
    pub fn set_trainable(&mut self, of: impl Fn(&Piece) -> Option<bool>) {
        for parameter in &mut self.table {
            let fixed = parameter.is_fixed();
            for piece in &mut parameter.pieces {
                if let Some(trainable) = of(piece) {
                    piece.trainable = trainable && !fixed && piece.place != Place::Base;
                }
            }
        }
    }

    /// The parameter of that id.
    #[must_use]
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.table[id.0]
    }

    pub(crate) fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.table[id.0]
    }

    /// The parameter in a forward pass; nothing of it is tracked unless `track` is on.
    pub(crate) fn leaf(&self, id: ParameterId, track: bool) -> Leaf {
        self.get(id).leaf(track)
    }

    /// Adds one at the end.
    pub fn push(&mut self, mut parameter: Parameter) -> ParameterId {
        for piece in &mut parameter.pieces {
            piece.slot = self.slots;
            self.slots += 1;
        }
        self.table.push(parameter);
        ParameterId(self.table.len() - 1)
    }

    /// Lets go of all but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.table.truncate(len);
        self.slots = self.pieces().count();
    }
}

impl std::ops::Index<usize> for Parameters {
    type Output = Parameter;

    fn index(&self, index: usize) -> &Parameter {
        &self.table[index]
    }
}

impl std::ops::IndexMut<usize> for Parameters {
    fn index_mut(&mut self, index: usize) -> &mut Parameter {
        &mut self.table[index]
    }
}
