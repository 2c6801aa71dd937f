//! Attention in bf16 on AVX512-BF16: the same blocks as elsewhere, their products on the processor's own
//! instruction by the tiles of [`crate::gemm::bf16`].
//!
//! Scores, their softmax and all sums are f32. Probabilities and the gradients of scores are rounded to bf16 before they
//! are multiplied again, as everywhere between two products. Keys and values are packed once for all heads of a group.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::block::{Block, each_block};
use super::form::{Attention, BLOCK_KEYS, BLOCK_QUERIES};
use super::head::HeadGradients;
use super::saved::Saved;
use super::segment::{Segment, Spans};
use super::softmax::{RowTerms, Running, along, online_softmax, softmax_backward};
use crate::element::{convert, convert_into};
use crate::gemm::Buffer;
use crate::gemm::Matrix;
use crate::gemm::bf16::is_native;
use crate::gemm::bf16::pack;
use crate::gemm::bf16::tile::{COLUMNS, Left, Pair, ROWS, Target, tile};
use crate::threads::{Shared, each, each_with};

const _: () =
    assert!(BLOCK_KEYS.is_multiple_of(COLUMNS) && BLOCK_QUERIES.is_multiple_of(16) && BLOCK_KEYS.is_multiple_of(16));

/// Whether this processor and this form can do it: pairs are read from the rows of heads themselves.
pub(super) fn takes(attention: &Attention) -> bool {
    is_native() && attention.head_dim.is_multiple_of(2)
}

/// Whether a segment is multiplied in bf16 here. One whose keys are a single block is not: with rounded probabilities, gradients of
/// such short rows lay further from the reference than a tenth beyond PyTorch's autocast (the fixtures). It is asked of each segment by
/// itself, so that what a row gives does not depend on those beside it.
pub(super) fn takes_segment(segment: &Segment) -> bool {
    segment.keys.len() > BLOCK_KEYS
}

/// [`super::attention_new`], whose checks have been made; writes all of `out`. Blocks of the segments that are not taken here go to
/// `attend_other`, with what `init` made for the thread.
pub(super) fn attention<S>(
    attention: &Attention,
    segments: &[Segment],
    (q, k, v): (&[bf16], &[bf16], &[bf16]),
    out: &mut [MaybeUninit<bf16>],
    log_sum_exp: &mut [f32],
    init: impl Fn() -> S + Sync,
    attend_other: impl Fn(&mut S, (usize, &Segment), Block<bf16>) + Sync,
) {
    let wanted = |index: usize| segments[index].queries.len() > 1 && takes_segment(&segments[index]);
    let packed =
        [(k, Form::Columns), (v, Form::Rows)].map(|(x, form)| Packed::new(attention, segments, wanted, x, form));
    each_block(
        attention,
        segments,
        (q, k, v),
        (out, log_sum_exp),
        || (Scratch::new(attention), init()),
        |(scratch, of_other), segment, block| {
            if takes_segment(segment.1) {
                attend(attention, segment, block, q, &packed, scratch);
            } else {
                attend_other(of_other, segment, block);
            }
        },
    );
}

/// One block of queries, head by head.
fn attend(
    attention: &Attention,
    (index, segment): (usize, &Segment),
    block: Block<bf16>,
    q: &[bf16],
    [packed_k, packed_v]: &[Packed; 2],
    scratch: &mut Scratch,
) {
    let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
    let rows = block.queries.len();
    for head in 0..heads {
        let kv_head = head / (heads / kv_heads);
        let q = of_head(attention, q, &block.queries, head);
        let mut running = [Running::NONE; BLOCK_QUERIES];
        let sums = &mut scratch.sums[..rows * head_dim];
        sums.fill(0.0);
        for keys in segment.visible_blocks(attention, &block.queries) {
            let spans = Spans::new(attention, segment, &block.queries, &keys);
            let (k, v) = (packed_k.block(index, kv_head, &keys), packed_v.block(index, kv_head, &keys));
            scores(&q, k, &spans, head_dim, &mut scratch.scores);
            let scores = &mut scratch.scores[..rows * BLOCK_KEYS];
            online_softmax(scores, scale, spans.of_rows(), &mut running[..rows], sums);
            convert(scores, &mut scratch.probabilities[..rows * BLOCK_KEYS]);
            over_keys(&scratch.probabilities, v, &spans, rows, head_dim, sums);
        }
        for (row, running) in running[..rows].iter().enumerate() {
            block.log_sum_exp[row * heads + head] = running.max + running.sum.ln();
            let factor = 1.0 / running.sum;
            let out = &mut block.out[(row * heads + head) * head_dim..][..head_dim];
            let sums = &mut sums[row * head_dim..][..head_dim];
            sums.iter_mut().for_each(|sum| *sum *= factor);
            convert_into(sums, out);
        }
    }
}

/// What a job of the backward pass gives: its segment, its head, and where the gradients of that head go.
type Job<'a> = (usize, usize, HeadGradients<'a, MaybeUninit<f32>>);

/// [`super::attention_backward_new`] up to the sums of each head: dq (of the scaled queries), dk and dv; writes all of them.
pub(super) fn backward(
    attention: &Attention,
    segments: &[Segment],
    saved: Saved<bf16>,
    dout: &[bf16],
    jobs: Vec<Job<'_>>,
) {
    let forms = [(saved.k, Form::Columns), (saved.k, Form::Rows), (saved.v, Form::Columns)];
    let wanted = |index: usize| takes_segment(&segments[index]);
    let packed = forms.map(|(x, form)| Packed::new(attention, segments, wanted, x, form));
    each_with(
        jobs,
        || Scratch::new(attention),
        |scratch, (index, head, gradients)| {
            let segment = (index, &segments[index]);
            backward_head(attention, segment, head, &saved, dout, &packed, gradients.cleared(), scratch);
        },
    );
}

/// Adds to `gradients`, which are zero.
#[expect(clippy::too_many_arguments, reason = "the parts of one job")]
fn backward_head(
    attention: &Attention,
    (index, segment): (usize, &Segment),
    head: usize,
    saved: &Saved<bf16>,
    dout: &[bf16],
    [k_columns, k_rows, v_columns]: &[Packed; 3],
    gradients: HeadGradients,
    scratch: &mut Scratch,
) {
    let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
    let kv_head = head / (heads / kv_heads);
    for first_query in segment.queries.clone().step_by(BLOCK_QUERIES) {
        let queries = first_query..segment.queries.end.min(first_query + BLOCK_QUERIES);
        let rows = queries.len();
        let [q, dout, out] = [saved.q, dout, saved.out].map(|x| of_head(attention, x, &queries, head));
        let mut terms = [RowTerms::default(); BLOCK_QUERIES];
        for (row, terms) in terms[..rows].iter_mut().enumerate() {
            terms.log_sum_exp = saved.log_sum_exp[(first_query + row) * heads + head];
            terms.along = along(out.row(row), dout.row(row));
        }
        scratch.q.pack_right(&q);
        scratch.dout.pack_right(&dout);
        let dq = &mut gradients.dq[(queries.start - segment.queries.start) * head_dim..][..rows * head_dim];
        for keys in segment.visible_blocks(attention, &queries) {
            let spans = Spans::new(attention, segment, &queries, &keys);
            scores(&q, k_columns.block(index, kv_head, &keys), &spans, head_dim, &mut scratch.scores);
            scores(&dout, v_columns.block(index, kv_head, &keys), &spans, head_dim, &mut scratch.dscores);
            let (scores, dscores) =
                (&mut scratch.scores[..rows * BLOCK_KEYS], &mut scratch.dscores[..rows * BLOCK_KEYS]);
            softmax_backward(scores, scale, dscores, &terms[..rows], spans.of_rows());

            let dv = &mut gradients.dv[keys.start * head_dim..keys.end * head_dim];
            convert(scores, &mut scratch.probabilities[..rows * BLOCK_KEYS]);
            scratch.left.pack_left(&scratch.probabilities, rows);
            over_queries(&scratch.left, &scratch.dout, &spans, (rows, keys.len()), head_dim, dv);
            convert(dscores, &mut scratch.probabilities[..rows * BLOCK_KEYS]);
            scratch.left.pack_left(&scratch.probabilities, rows);
            let dk = &mut gradients.dk[keys.start * head_dim..keys.end * head_dim];
            over_queries(&scratch.left, &scratch.q, &spans, (rows, keys.len()), head_dim, dk);
            over_keys(&scratch.probabilities, k_rows.block(index, kv_head, &keys), &spans, rows, head_dim, dq);
        }
    }
    // The gradients of the scores were those of the scaled ones; dq takes the factor when the heads are gathered.
    gradients.dk.iter_mut().for_each(|dk| *dk *= scale);
}

/// Rows `tokens` of one head of `x [tokens, heads, head_dim]` as `[rows, head_dim]`.
fn of_head<'a>(attention: &Attention, x: &'a [bf16], tokens: &Range<usize>, head: usize) -> Matrix<'a, bf16> {
    let (head_dim, width) = (attention.head_dim, attention.query_width());
    Matrix::with_stride(&x[tokens.start * width + head * head_dim..], tokens.len(), head_dim, width)
}

struct Scratch {
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: scores, then probabilities.
    scores: Vec<f32>,
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: gradient of the probabilities, then of the scores.
    dscores: Vec<f32>,
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: one of the two, rounded.
    probabilities: Vec<bf16>,
    /// `[BLOCK_QUERIES, head_dim]`: the weighted sum of values so far.
    sums: Vec<f32>,
    q: Panels,
    dout: Panels,
    left: Panels,
}

impl Scratch {
    fn new(attention: &Attention) -> Self {
        let block = BLOCK_QUERIES * BLOCK_KEYS;
        Self {
            scores: vec![0.0; block],
            dscores: vec![0.0; block],
            probabilities: vec![bf16::ZERO; block],
            sums: vec![0.0; BLOCK_QUERIES * attention.head_dim],
            q: Panels::of_queries(attention.head_dim),
            dout: Panels::of_queries(attention.head_dim),
            left: Panels::new(BLOCK_KEYS / ROWS, BLOCK_QUERIES / 2 * ROWS),
        }
    }
}

/// Operands of one block of queries, packed.
struct Panels {
    buffer: Buffer<Pair>,
    panels: usize,
    /// Pairs from one to the next.
    stride: usize,
}

impl Panels {
    fn new(panels: usize, stride: usize) -> Self {
        let mut buffer = Buffer::<Pair>::new(panels * stride);
        // SAFETY: the buffer has room for as many pairs, which are plain numbers. So it never holds anything else.
        unsafe { buffer.as_mut_ptr().write_bytes(0, panels * stride) };
        Self { buffer, panels, stride }
    }

    fn of_queries(head_dim: usize) -> Self {
        Self::new(head_dim.div_ceil(COLUMNS), BLOCK_QUERIES / 2 * COLUMNS)
    }

    /// `x [queries, head_dim]` as the right operand of a sum over queries.
    fn pack_right(&mut self, x: &Matrix<bf16>) {
        assert!(x.rows() <= BLOCK_QUERIES && x.columns() <= self.panels * COLUMNS);
        let start = self.buffer.as_mut_ptr();
        for panel in 0..x.columns().div_ceil(COLUMNS) {
            // SAFETY: `takes` has found the processor to have AVX512-BF16; the panel has room for a block of queries.
            unsafe { pack::right(x, panel, 0..x.rows(), start.add(panel * self.stride)) };
        }
    }

    /// The transpose of `x [rows, BLOCK_KEYS]` as the left operand of a sum over queries: a block of `ROWS` keys each.
    fn pack_left(&mut self, x: &[bf16], rows: usize) {
        assert!(rows <= BLOCK_QUERIES && self.panels * ROWS == BLOCK_KEYS);
        let x = Matrix::new(x, rows, BLOCK_KEYS);
        // SAFETY: as above; the number of blocks is even, each has room for a block of queries.
        unsafe { pack::left(&x, 0..BLOCK_KEYS, 0..rows, self.buffer.as_mut_ptr(), self.stride) };
    }
}

/// `a [queries, head_dim] · bᵀ` where the spans need it, into `scores [BLOCK_QUERIES, BLOCK_KEYS]`.
fn scores(a: &Matrix<bf16>, b: Packing, spans: &Spans, head_dim: usize, scores: &mut [f32]) {
    assert!(scores.len() >= BLOCK_QUERIES * BLOCK_KEYS && a.rows() <= BLOCK_QUERIES && a.columns() == head_dim);
    for first in (0..a.rows()).step_by(ROWS) {
        let rows = first..a.rows().min(first + ROWS);
        let seen = spans.scores(rows.clone(), head_dim).columns;
        let left = Left { start: a.row(first).as_ptr(), row_stride: a.row_stride().unsigned_abs(), pair_stride: 2 };
        for panel in seen.start / COLUMNS..seen.end.div_ceil(COLUMNS) {
            let c = scores[first * BLOCK_KEYS + panel * COLUMNS..].as_mut_ptr();
            let target = Target::F32 { c, row_stride: BLOCK_KEYS, add: std::ptr::null() };
            // SAFETY: AVX512-BF16 is there (`takes`). The rows of `a` have `head_dim` elements, the panel as many halves of
            // pairs; a whole tile at this place lies within the scores, which are borrowed mutably.
            unsafe {
                tile((rows.len(), COLUMNS), head_dim / 2, left, b.panel(panel), std::ptr::null(), target);
            }
        }
    }
}

/// Adds `a [queries, BLOCK_KEYS] · b` to `c [queries, head_dim]`, over the keys that the spans name.
fn over_keys(a: &[bf16], b: Packing, spans: &Spans, queries: usize, head_dim: usize, c: &mut [f32]) {
    assert!(a.len() >= queries * BLOCK_KEYS && c.len() == queries * head_dim);
    for first in (0..queries).step_by(ROWS) {
        let rows = first..queries.min(first + ROWS);
        let seen = spans.over_keys(rows.clone(), head_dim).inner;
        let pairs = seen.start / 2..seen.end.div_ceil(2);
        let start = a[first * BLOCK_KEYS + 2 * pairs.start..].as_ptr();
        let left = Left { start, row_stride: BLOCK_KEYS, pair_stride: 2 };
        for (panel, column) in (0..head_dim).step_by(COLUMNS).enumerate() {
            let columns = COLUMNS.min(head_dim - column);
            let c = c[first * head_dim + column..].as_mut_ptr();
            let target = Target::F32 { c, row_stride: head_dim, add: c.cast_const() };
            // SAFETY: as in `scores`: the pairs lie within the rows of `a` and within the panel, since spans end with the
            // block; the tile's rows and columns are within `c`, which is borrowed mutably.
            unsafe {
                let b = b.panel(panel).add(pairs.start * COLUMNS);
                tile((rows.len(), columns), pairs.len(), left, b, std::ptr::null(), target);
            }
        }
    }
}

/// Adds `aᵀ · b` to `c [keys, head_dim]`, over the queries that see the keys: `a` by [`Panels::pack_left`], `b` by
/// [`Panels::pack_right`].
fn over_queries(
    a: &Panels,
    b: &Panels,
    spans: &Spans,
    (queries, keys): (usize, usize),
    head_dim: usize,
    c: &mut [f32],
) {
    assert!(queries <= BLOCK_QUERIES && keys <= BLOCK_KEYS && c.len() == keys * head_dim);
    assert!(a.panels * ROWS == BLOCK_KEYS && b.panels * COLUMNS >= head_dim);
    for (block, first) in (0..keys).step_by(ROWS).enumerate() {
        let count = ROWS.min(keys - first);
        let seen = spans.over_queries(first..first + count, head_dim).inner;
        let pairs = seen.start / 2..seen.end.div_ceil(2);
        for (panel, column) in (0..head_dim).step_by(COLUMNS).enumerate() {
            let columns = COLUMNS.min(head_dim - column);
            let c = c[first * head_dim + column..].as_mut_ptr();
            let target = Target::F32 { c, row_stride: head_dim, add: c.cast_const() };
            // SAFETY: as in `over_keys`; the pairs lie within a block of queries, for which both have room.
            unsafe {
                let start = a.buffer.as_ptr().add(block * a.stride + pairs.start * ROWS);
                let left = Left { start: start.cast(), row_stride: 2, pair_stride: 2 * ROWS };
                let b = b.buffer.as_ptr().add(panel * b.stride + pairs.start * COLUMNS);
                tile((count, columns), pairs.len(), left, b, std::ptr::null(), target);
            }
        }
    }
}

/// How keys or values are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// For a sum over the elements of a head: panels of keys, `[pairs of head_dim, COLUMNS]`.
    Columns,
    /// For a sum over keys: panels of elements, `[pairs of keys, COLUMNS]`.
    Rows,
}

/// Keys or values of all segments, by head and by block of [`BLOCK_KEYS`].
struct Packed {
    buffer: Buffer<Pair>,
    /// For each segment, its first block and its blocks for each head.
    segments: Vec<(usize, usize)>,
    /// Pairs from one block to the next, and from one panel to the next.
    block: usize,
    panel: usize,
}

/// One block of [`Packed`].
#[derive(Clone, Copy)]
struct Packing<'a> {
    of: &'a Packed,
    start: usize,
}

impl Packing<'_> {
    /// A panel, which holds as many pairs as its form says.
    fn panel(&self, panel: usize) -> *const Pair {
        assert!((panel + 1) * self.of.panel <= self.of.block);
        // SAFETY: the block lies within the buffer, and the panel within the block.
        unsafe { self.of.buffer.as_ptr().add(self.start + panel * self.of.panel) }
    }
}

impl Packed {
    /// Packs `source [key tokens, kv_heads, head_dim]` of the segments whose numbers `wanted` names.
    fn new(
        attention: &Attention,
        segments: &[Segment],
        wanted: impl Fn(usize) -> bool,
        source: &[bf16],
        form: Form,
    ) -> Self {
        let (head_dim, width) = (attention.head_dim, attention.key_width());
        let (panels, panel) = match form {
            Form::Columns => (BLOCK_KEYS / COLUMNS, head_dim / 2 * COLUMNS),
            Form::Rows => (head_dim.div_ceil(COLUMNS), BLOCK_KEYS / 2 * COLUMNS),
        };
        let mut places = Vec::with_capacity(segments.len());
        let mut jobs = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let blocks = if wanted(index) { segment.keys.len().div_ceil(BLOCK_KEYS) } else { 0 };
            places.push((jobs.len(), blocks));
            for head in 0..attention.kv_heads {
                let starts = segment.keys.clone().step_by(BLOCK_KEYS).take(blocks);
                jobs.extend(starts.map(|start| (head, start..segment.keys.end.min(start + BLOCK_KEYS))));
            }
        }
        let block = panels * panel;
        let mut buffer = Buffer::<Pair>::new(jobs.len() * block);
        let start = Shared(buffer.as_mut_ptr());
        each(jobs.into_iter().enumerate(), |(index, (head, keys))| {
            let x = Matrix::with_stride(&source[keys.start * width + head * head_dim..], keys.len(), head_dim, width);
            for i in 0..panels {
                // SAFETY: AVX512-BF16 is there (`takes`), `head_dim` even; each job has a block of the buffer of its own, with
                // room for its panels.
                unsafe {
                    let out = start.get().add(index * block + i * panel);
                    match form {
                        Form::Columns => {
                            let first = keys.len().min(i * COLUMNS);
                            pack::right_transposed(&x, first..keys.len().min(first + COLUMNS), out);
                        }
                        Form::Rows => pack::right(&x, i, 0..keys.len(), out),
                    }
                }
            }
        });
        Self { buffer, segments: places, block, panel }
    }

    /// The block of `keys` (counted within the segment, from a multiple of [`BLOCK_KEYS`]) of one head of the segment
    /// number `index`.
    fn block(&self, index: usize, head: usize, keys: &Range<usize>) -> Packing<'_> {
        let (first, blocks) = self.segments[index];
        let block = keys.start / BLOCK_KEYS;
        assert!(block < blocks);
        Packing { of: self, start: (first + head * blocks + block) * self.block }
    }
}
